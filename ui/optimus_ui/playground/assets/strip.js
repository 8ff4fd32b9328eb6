// The strip: what each step tried and kept, drawn.
const COLUMNS = 120;
const REASONS = {
  hold: "nothing called for another size",
  load_up: "more requests run, so each may try less",
  load_down: "fewer requests run, so each may try more",
  learned: "what was kept lately, or how long it took, asks for this size",
  slo: "a time target asks for shorter steps",
  manual: "somebody fixed it",
  idle: "nothing decodes yet",
};

class Strip {
  constructor(canvas, why) {
    Object.assign(this, {canvas, why, run: null, first: 0, step: 0});
    canvas.addEventListener("pointermove", (event) => this.explain(this.first + Math.floor(event.offsetX / this.wide())));
    canvas.addEventListener("pointerleave", () => this.explain(this.step - 1));
  }

  wide() {
    const count = this.run ? this.run.steps.length : 0;
    return this.canvas.clientWidth / Math.min(COLUMNS, Math.max(24, count));
  }

  show(run, step) {
    Object.assign(this, {run, step, first: Math.max(0, Math.min(step, run.steps.length) - COLUMNS)});
    const {canvas} = this, scale = devicePixelRatio || 1, high = 90;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = high * scale;
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas), wide = this.wide();
    pen.scale(scale, scale);
    const steps = run.steps.slice(this.first, this.first + COLUMNS);
    const most = Math.max(8, ...steps.map((told) => told.masked)), batch = Math.max(4, ...steps.map((told) => told.batch));
    const bar = (told, i, amount, color) => {
      pen.globalAlpha = this.first + i < step ? 1 : 0.35;
      pen.fillStyle = style.getPropertyValue(color);
      const tall = (amount / most) * (high - 6);
      pen.fillRect(i * wide + 0.5, high - tall, Math.max(1, wide - 1.5), tall);
    };
    steps.forEach((told, i) => {
      bar(told, i, told.masked, "--tried");
      bar(told, i, told.commit.length, "--kept");
    });
    pen.globalAlpha = 1;
    pen.strokeStyle = style.getPropertyValue("--batch");
    pen.lineWidth = 2;
    pen.beginPath();
    steps.forEach((told, i) => pen.lineTo((i + 0.5) * wide, high - 3 - (told.batch / batch) * (high - 10)));
    pen.stroke();
    this.explain(step - 1);
  }

  explain(index) {
    const told = this.run?.steps[index];
    if (!told) return;
    const reason = REASONS[told.chunk_reason] || told.chunk_reason;
    this.why.textContent =
      `Step ${told.step}: tried ${told.masked} (chunk ${told.chunk}), kept ${told.commit.length}, ` +
      `${told.batch} decoded together, ${told.step_ms.toFixed(1)} ms. Size: ${told.chunk_reason}, ${reason}.`;
  }
}
