// One answer: every step of it, and from them what any of its places was at any step.
class Run {
  constructor(prompt, block) {
    Object.assign(this, {prompt, block, steps: [], places: [], text: "", summary: null, usage: null});
  }

  // Takes one event of the stream.
  take(event) {
    const told = event.diffusion;
    if (told?.type === "step") {
      this.steps.push(told);
      for (const [at, , text, sure] of told.commit) this.places[at] = {text, sure, step: this.steps.length};
    }
    if (told?.type === "summary") this.summary = told;
    if (event.usage) this.usage = event.usage;
    this.text += event.choices?.[0]?.delta?.content || "";
  }

  // The first place of the block after the one that holds place `at`.
  border(at) {
    return (Math.floor((this.prompt + at) / this.block) + 1) * this.block - this.prompt;
  }

  // How many places are on show after `step` steps: whole blocks, as far as any has been tried.
  size(step) {
    let reach = 0;
    for (let i = 0; i < step; i++) {
      const last = Math.max(this.steps[i].stop, ...this.steps[i].commit.map((entry) => entry[0]));
      reach = Math.max(reach, this.border(Math.max(0, last - 1)));
    }
    return step ? Math.max(reach, this.places.length && step === this.steps.length ? this.places.length : 0) : 0;
  }

  frontier(step) {
    return step ? this.steps[step - 1].frontier : 0;
  }

  // What place `at` is after `step` steps, as class names.
  state(at, step) {
    const place = this.places[at];
    const end = this.usage && at >= this.usage.completion_tokens ? " behind" : "";
    const edge = at && this.border(at - 1) === at ? " first" : "";
    const caret = at === this.frontier(step) ? " caret" : "";
    if (!place || place.step > step) return `cell masked${edge}${caret}${end}`;
    const held = at >= this.frontier(step) ? " held" : " sent";
    return `cell${held}${place.step === step ? " now" : ""}${edge}${caret}${end}`;
  }
}
