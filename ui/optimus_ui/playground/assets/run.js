// One answer: every step of it, and from them what any of its places was at any step.
const KEPT_EVENTS = 300000; // characters; a long answer has megabytes of events

class Run {
  // `body` is the request, `prompt` the length of its prompt in tokens, `block` the model's block size.
  constructor(body, prompt, block) {
    Object.assign(this, {body, prompt, block, steps: [], places: [], text: "", summary: null, usage: null});
    Object.assign(this, {events: [], kept: 0, ended: false});
  }

  get chunk() {
    return this.body.diffusion.chunk;
  }

  // Takes one event of the stream.
  take(event, raw) {
    if (this.kept < KEPT_EVENTS) this.events.push(raw);
    this.kept += raw.length;
    const told = event.diffusion;
    if (told?.type === "step" && told.step) this.add(told);
    if (told?.type === "summary") this.summary = told;
    if (event.usage) this.usage = event.usage;
    this.text += event.choices?.[0]?.delta?.content || "";
  }

  add(told) {
    // A step tries the first masked places from the frontier on.
    told.tried = [];
    for (let at = this.frontier(this.steps.length); told.tried.length < told.masked; at++) {
      if (!this.places[at]) told.tried.push(at);
    }
    told.filled = (this.steps.at(-1)?.filled ?? 0) + told.commit.length;
    this.steps.push(told);
    let reach = told.tried.at(-1) ?? 0;
    for (const [at, , text, sure] of told.commit) {
      this.places[at] = {text, sure, step: this.steps.length};
      reach = Math.max(reach, at);
    }
    told.reach = Math.max(this.steps.at(-2)?.reach ?? 0, reach, told.frontier);
  }

  // The block of place `at`, counted from the one in which the answer begins, and the first place of a block.
  blockOf(at) {
    return Math.floor((this.prompt + at) / this.block) - Math.floor(this.prompt / this.block);
  }

  border(block) {
    return Math.max(0, (Math.floor(this.prompt / this.block) + block) * this.block - this.prompt);
  }

  // How many places are on show after `step` steps: the blocks that were tried, and the next one while there will be one.
  size(step) {
    if (this.usage && step === this.steps.length) return this.border(this.blockOf(this.usage.completion_tokens - 1) + 1);
    const reach = step ? this.steps[step - 1].reach : 0;
    return Math.max(reach, Math.min(this.border(this.blockOf(reach) + 2), this.body.max_tokens));
  }

  frontier(step) {
    return step ? this.steps[step - 1].frontier : 0;
  }

  // Steps done `ms` after the request began.
  at(ms) {
    let step = 0;
    while (step < this.steps.length && this.steps[step].t_ms <= ms) step++;
    return step;
  }

  get total() {
    return this.steps.at(-1)?.t_ms ?? 0;
  }

  // What place `at` is after `step` steps, as class names.
  state(at, step) {
    const place = this.places[at], frontier = this.frontier(step), now = this.steps[step - 1];
    const extra =
      (at === frontier && !(this.usage && step === this.steps.length) ? " caret" : "") +
      (this.usage && at >= this.usage.completion_tokens ? " behind" : "") +
      (now?.tried.includes(at) ? " tried" : "");
    if (!place || place.step > step) return `cell masked${extra}`;
    const word = /^\s/.test(place.text) ? " word" : "";
    return `cell ${at >= frontier ? "held" : "sent"}${place.step === step ? " now" : ""}${word}${extra}`;
  }
}
