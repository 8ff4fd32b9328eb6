// One run on show: its canvas, its strip, its numbers and its text, at any of its steps.
class Pane {
  constructor(template, place) {
    this.root = template.content.firstElementChild.cloneNode(true);
    place.append(this.root);
    this.cells = new Cells(this.part("cells"));
    this.strip = new Strip(this.part("strip"), this.part("why"), (step) => this.stop(step));
    this.run = null;
    this.slider = this.part("step");
    this.slider.addEventListener("input", () => this.stop(Number(this.slider.value)));
    this.part("play").addEventListener("click", () => (playing ? still() : replay(Number(this.part("pace").value))));
  }

  part(name) {
    return this.root.querySelector(`.${name}`);
  }

  // Another run, from its beginning or as it is.
  take(run, title) {
    this.run = run;
    this.part("title").textContent = title;
    this.part("text").textContent = "";
    this.part("why").textContent = "\u00a0";
    this.latest();
    this.numbers();
    this.enable();
  }

  enable() {
    const still = !this.run.ended || !this.run.steps.length;
    for (const name of ["step", "play", "pin"]) this.part(name).disabled = still;
  }

  // The newest step.
  latest() {
    this.slider.max = this.run.steps.length;
    this.paint(this.run.steps.length);
    if (!this.run.ended) this.cells.follow();
    if (this.part("text").textContent !== this.run.text) this.part("text").textContent = this.run.text;
  }

  // A step that somebody asks for: whatever plays, ends.
  stop(step) {
    still();
    this.paint(Math.max(0, Math.min(step, this.run.steps.length)));
  }

  paint(step) {
    const {run} = this, told = run.steps[step - 1];
    this.cells.show(run, step);
    this.strip.show(run, step);
    this.slider.value = step;
    this.part("at").textContent = `step ${step} of ${run.steps.length}`;
    this.slider.setAttribute("aria-valuetext", `step ${step}, ${told ? `${told.frontier} tokens sent` : "nothing yet"}`);
  }

  numbers() {
    const {summary, usage, steps, total} = this.run, ms = (value) => `${value.toFixed(0)} ms`;
    const first = steps.find((told) => told.commit.length);
    const said = {
      steps: summary?.steps,
      rate: summary && summary.tokens_per_step.toFixed(2),
      gain: summary && `×${summary.tokens_per_step.toFixed(1)}`,
      speed: usage && total ? (usage.completion_tokens / (total / 1000)).toFixed(0) : undefined,
      commit: summary && first && ms(first.t_ms),
      ttft: summary && ms(summary.ttft_ms),
      total: summary && ms(total),
      wasted: summary?.wasted_tokens,
    };
    for (const place of this.root.querySelectorAll("[data-number]")) place.textContent = said[place.dataset.number] ?? "–";
  }
}
