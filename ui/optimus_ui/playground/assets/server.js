// The whole server: its load four times a second while somebody looks, and the load a visitor adds.
const SAMPLES = 120, DIAL = 44;

class Server {
  constructor(box) {
    Object.assign(this, {box, samples: [], watching: null, adding: null, block: 32});
    this.paper = new Paper(box.querySelector(".dial"), DIAL);
  }

  say(name, text) {
    this.box.querySelector(`.${name}`).textContent = text;
  }

  // One stream, closed while nobody looks: browsers open six to a server, and a generation needs one.
  async watch() {
    const mine = (this.watching = new AbortController());
    let refused = "";
    while (mine === this.watching && element.isConnected) {
      const key = secret();
      if (key === refused) {
        this.say("state", "needs the API key");
      } else {
        try {
          const response = await open("v1/diffusion/events?types=load", null, mine.signal);
          this.say("state", "online");
          await read(response, (event) => event.type === "load" && this.take(event));
        } catch (error) {
          if (error.status === 401) refused = key;
        }
        if (mine !== this.watching) return;
        this.say("state", "offline");
      }
      await new Promise((done) => setTimeout(done, 2000));
    }
  }

  rest() {
    this.watching?.abort();
    this.watching = null;
  }

  async introduce() {
    const info = await (await open("info")).json();
    this.block = info.diffusion.block_length;
    this.say("model", `${info.model_id} on ${info.model_device_type} · blocks of ${this.block} · policy ${info.diffusion.chunk_policy}`);
  }

  take(told) {
    this.samples = [...this.samples, told].slice(-SAMPLES);
    this.say("chunk", told.chunk || "–");
    this.say("running", told.running);
    this.say("waiting", told.waiting);
    this.say("speed", Math.round(told.tokens_per_s));
    this.say("step-ms", told.step_ms?.toFixed(1) ?? "–");
    this.say("kv", `${Math.round(told.kv_used * 100)} %`);
    this.draw();
  }

  draw() {
    const pen = this.paper.clear(), {wide} = this.paper, {samples} = this;
    const x = (i) => ((SAMPLES - samples.length + i) / SAMPLES) * wide;
    const y = (amount, most) => DIAL - 2 - (amount / most) * (DIAL - 6);
    const chunks = Math.max(16, ...samples.map((told) => told.chunk ?? 0)), most = Math.max(8, ...samples.map((told) => told.running));
    pen.fillStyle = colors.tried;
    samples.forEach((told, i) => told.chunk && pen.fillRect(x(i), y(told.chunk, chunks), wide / SAMPLES + 0.5, DIAL));
    pen.strokeStyle = colors.batch;
    pen.lineWidth = 2;
    pen.beginPath();
    samples.forEach((told, i) => pen.lineTo(x(i) + 1, y(told.running, most)));
    pen.stroke();
  }

  // Background requests last as long as the stream that asks for them.
  async add(count) {
    if (this.adding) this.say("crowd", "");
    this.adding?.abort();
    this.adding = null;
    if (!count) return;
    const mine = (this.adding = new AbortController());
    let said = "";
    try {
      await read(await open("playground/load", {requests: count}, mine.signal), (told) => {
        if (told.error) throw new Error(told.error);
        if (mine !== this.adding) return;
        const kept = told.running < told.wanted ? "; some places are kept for clients" : "";
        this.say("crowd", `Added load: ${told.running} of ${told.wanted} requests run, ${told.seconds_left} s left${kept}.`);
      });
      said = "The added load has ended: its time was over, or somebody else set it.";
    } catch (error) {
      if (error.name !== "AbortError") said = `No load was added: ${error.message}`;
    }
    if (mine !== this.adding) return;
    this.adding = null;
    document.querySelector("#load input[value='0']")?.click();
    this.say("crowd", said);
  }
}
