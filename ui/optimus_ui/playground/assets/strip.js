// The strip: what each step might try and what it kept, drawn.
const HIGH = 96, NARROW = 6;
const REASONS = {
  hold: "nothing called for another size",
  load_up: "more requests run, so each may try less",
  load_down: "fewer requests run, so each may try more",
  learned: "what was kept lately, or how long it took, asks for this size",
  slo: "a time target asks for shorter steps",
  manual: "somebody fixed it",
  idle: "the prompt was still being read",
};

// A canvas as wide as its place on the page. The width is read when it changes: to read it in a frame costs a layout.
class Paper {
  constructor(canvas, high) {
    Object.assign(this, {canvas, high, wide: 0, pen: canvas.getContext("2d")});
  }

  fit() {
    const scale = devicePixelRatio || 1;
    this.wide = this.canvas.clientWidth;
    this.canvas.width = Math.round(this.wide * scale);
    this.canvas.height = this.high * scale;
    this.pen.setTransform(scale, 0, 0, scale, 0, 0);
  }

  clear() {
    this.pen.clearRect(0, 0, this.wide, this.high);
    return this.pen;
  }
}

// The page's colors, read once and again when it turns dark or light.
const colors = {
  read() {
    const style = getComputedStyle(element.querySelector(".optimus"));
    for (const name of ["tried", "kept", "batch", "quiet"]) this[name] = style.getPropertyValue(`--${name}`);
  },
};

class Strip {
  // All strips have one scale, so that runs can be compared.
  static most = 8;
  static crowd = 4;

  constructor(canvas, why, go) {
    Object.assign(this, {canvas, why, run: null, first: 0, step: 0, paper: new Paper(canvas, HIGH)});
    canvas.addEventListener("pointermove", (event) => this.explain(this.first + Math.floor(event.offsetX / this.wide())));
    canvas.addEventListener("pointerleave", () => this.explain(this.step - 1));
    canvas.addEventListener("click", (event) => go(this.first + 1 + Math.floor(event.offsetX / this.wide())));
    canvas.addEventListener("keydown", (event) => {
      const move = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -1e9, End: 1e9}[event.key];
      if (!move) return;
      event.preventDefault();
      go(this.step + move);
    });
  }

  columns() {
    return Math.max(24, Math.floor(this.paper.wide / NARROW));
  }

  wide() {
    return this.paper.wide / Math.min(this.columns(), Math.max(24, this.run?.steps.length ?? 0));
  }

  show(run, step) {
    const columns = this.columns(), last = Math.min(run.steps.length, Math.max(step, columns));
    Object.assign(this, {run, step, first: Math.max(0, last - columns)});
    const pen = this.paper.clear(), width = this.paper.wide, wide = this.wide(), steps = run.steps.slice(this.first, last);
    for (const told of steps) {
      Strip.most = Math.max(Strip.most, told.chunk, told.commit.length);
      Strip.crowd = Math.max(Strip.crowd, told.batch);
    }
    const tall = (amount) => (amount / Strip.most) * (HIGH - 14);
    pen.fillStyle = colors.quiet;
    pen.font = "11px system-ui, sans-serif";
    pen.fillText(`chunk ${Strip.most}`, 0, 10);
    pen.textAlign = "right";
    pen.fillText(`${Strip.crowd} requests`, width, 10);
    pen.textAlign = "left";
    pen.globalAlpha = 0.35;
    pen.fillRect(0, HIGH - tall(Strip.most), width, 1);
    steps.forEach((told, i) => {
      pen.globalAlpha = this.first + i < step ? 1 : 0.3;
      for (const [amount, color] of [[told.chunk, colors.tried], [told.commit.length, colors.kept]]) {
        pen.fillStyle = color;
        pen.fillRect(i * wide + 0.5, HIGH - tall(amount), Math.max(1, wide - 1), tall(amount));
      }
    });
    pen.globalAlpha = 1;
    pen.strokeStyle = colors.batch;
    pen.lineWidth = 2;
    pen.beginPath();
    steps.forEach((told, i) => pen.lineTo((i + 0.5) * wide, HIGH - 3 - (told.batch / Strip.crowd) * (HIGH - 18)));
    pen.stroke();
    this.explain(step - 1);
  }

  explain(index) {
    const told = this.run?.steps[index];
    if (!told) return;
    const reason = REASONS[told.chunk_reason] || told.chunk_reason, others = told.batch - 1;
    this.why.textContent =
      `Step ${told.step}: chunk ${told.chunk}, tried ${told.masked}, kept ${told.commit.length}, ` +
      `${told.step_ms.toFixed(1)} ms, ${others > 0 ? `with ${others} other request${others > 1 ? "s" : ""}` : "alone"}. ` +
      `Chunk: ${told.chunk_reason}, ${reason}.`;
    this.canvas.setAttribute("aria-valuemax", this.run.steps.length);
    this.canvas.setAttribute("aria-valuenow", index + 1);
    this.canvas.setAttribute("aria-valuetext", this.why.textContent);
  }
}
