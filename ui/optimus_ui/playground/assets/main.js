// The page's behaviour: one run at a time, painted at most once a frame.
const find = (name) => element.querySelector(name);
const home = find(".optimus");
const cells = new Cells(find(".cells")), strip = new Strip(find(".strip"), find(".why"));
const slider = find(".step"), replay = find(".replay");
let run = null, running = null, due = false, timer = null, key = "", block = 32;

function paint(step) {
  cells.show(run, step);
  strip.show(run, step);
  slider.value = step;
  find(".at").textContent = `step ${step} of ${run.steps.length}`;
}

function live() {
  due = false;
  if (!run) return;
  slider.max = run.steps.length;
  paint(run.steps.length);
  find(".text").textContent = run.text;
}

function refresh() {
  if (!due) requestAnimationFrame(live);
  due = true;
}

function numbers() {
  const {summary, usage, steps} = run, last = steps.at(-1);
  const said = {
    ttft: summary && `${summary.ttft_ms.toFixed(0)} ms`,
    speed: usage && last && (usage.completion_tokens / (last.t_ms / 1000)).toFixed(0),
    rate: summary && summary.tokens_per_step.toFixed(2),
    steps: summary?.steps,
    wasted: summary?.wasted_tokens,
  };
  for (const place of element.querySelectorAll("[data-number]")) place.textContent = said[place.dataset.number] ?? "–";
}

async function generate(prompt, length, temperature, chunk, secret) {
  stop();
  const mine = (running = new AbortController());
  key = secret;
  home.dataset.run = "running";
  for (const name of [".problem", ".said", ".text"]) find(name).textContent = "";
  cells.clear();
  slider.disabled = replay.disabled = true;
  const messages = [{role: "user", content: prompt}];
  try {
    const whole = await (await open("chat_tokenize", {messages}, key, mine.signal)).json();
    run = new Run(whole.tokenize_response.length, block);
    numbers();
    const body = {
      messages, temperature, max_tokens: length, stream: true, stream_options: {include_usage: true},
      diffusion: {events: "steps", chunk: chunk === "auto" ? chunk : Number(chunk)},
    };
    await read(await open("v1/chat/completions", body, key, mine.signal), (event) => {
      if (event.error) throw new Error(event.error.message || event.error);
      if (mine !== running) return;
      run.take(event);
      refresh();
    });
    if (mine === running) find(".said").textContent = run.text;
  } catch (error) {
    if (mine === running && error.name !== "AbortError") find(".problem").textContent = error.message;
  }
  if (mine === running) finish("done");
}

function finish(state) {
  running = null;
  home.dataset.run = state;
  if (!run) return;
  live();
  numbers();
  slider.disabled = replay.disabled = !run.steps.length;
}

function stop() {
  clearInterval(timer);
  if (!running) return;
  running.abort();
  finish("stopped");
}

slider.addEventListener("input", () => {
  clearInterval(timer);
  paint(Number(slider.value));
});
replay.addEventListener("click", () => {
  clearInterval(timer);
  let step = 0;
  paint(step);
  timer = setInterval(() => {
    paint(++step);
    if (step >= run.steps.length) clearInterval(timer);
  }, 400);
});

// The side channel, while somebody looks.
let watching = null;
async function watch() {
  const mine = (watching = new AbortController());
  while (mine === watching) {
    try {
      const response = await open("v1/diffusion/events?types=load", null, key, mine.signal);
      find(".state").textContent = "online";
      await read(response, (event) => event.type === "load" && load(event));
    } catch {
      // Said below; the next try is the remedy.
    }
    if (mine !== watching || !element.isConnected) return;
    find(".state").textContent = "offline";
    await new Promise((done) => setTimeout(done, 2000));
  }
}

function load(told) {
  find(".running").textContent = `running ${told.running}`;
  find(".waiting").textContent = `waiting ${told.waiting}`;
  find(".kv").textContent = `memory ${Math.round(told.kv_used * 100)} %`;
}

document.addEventListener("visibilitychange", () => {
  watching?.abort();
  watching = null;
  if (!document.hidden) watch();
});

open("info").then((response) => response.json()).then((info) => {
  block = info.diffusion.block_length;
  const policy = `${info.diffusion.chunk_policy}, chunk ${info.diffusion.chunk}`;
  find(".model").textContent = `${info.model_id} · ${info.model_device_type} · ${policy} · blocks of ${block}`;
}, () => {});
watch();
window.optimus = {generate, stop};
