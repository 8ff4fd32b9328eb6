// The chunk timeline: a step line over a band (smallest to largest), the batch as an area, ticks where decisions changed.
"use strict";

class Timeline {
  constructor(canvas, seconds) {
    this.canvas = canvas;
    this.seconds = seconds;
    this.points = [];
    this.ticks = [];
    this.due = false;
    addEventListener("resize", () => this.ask());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.ask());
  }

  add(points, decisions) {
    this.points.push(...points);
    this.ticks.push(...decisions);
    const last = this.points.length ? this.points[this.points.length - 1].at : 0;
    const recent = (one) => one.at > last - this.seconds;
    this.points = this.points.filter(recent);
    this.ticks = this.ticks.filter(recent);
    this.ask();
  }

  ask() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.draw(); });
  }

  draw() {
    const ratio = devicePixelRatio || 1, width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const pen = this.canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue("--" + name);
    pen.scale(ratio, ratio);
    if (!this.points.length) return;
    const left = 34, right = width - 34, top = 8, bottom = height - 34;
    const end = this.points[this.points.length - 1].at;
    const x = (at) => right - (end - at) / this.seconds * (right - left);
    const most = (name, least) => this.points.reduce((m, p) => Math.max(m, p[name]), least);
    const chunks = Math.log2(Math.max(most("largest", 8), most("chunk", 8)) * 1.15 + 1), batches = most("batch", 4);
    const yChunk = (c) => bottom - Math.log2(c + 1) / chunks * (bottom - top);
    const yBatch = (b) => bottom - b / batches * (bottom - top) * 0.9;

    const area = (upper, lower, fill) => {
      pen.fillStyle = fill;
      for (const [i, p] of this.points.entries()) {
        const next = this.points[i + 1], from = x(p.at), to = next ? x(next.at) : from + 2;
        const y = upper(p);
        if (p.chunk || p.batch) pen.fillRect(from, y, to - from + 0.5, lower(p) - y);
      }
    };
    area((p) => yBatch(p.batch), () => bottom, color("area"));
    area((p) => yChunk(p.largest), (p) => yChunk(p.smallest) + 1, color("band"));

    pen.strokeStyle = color("accent");
    pen.lineWidth = 2;
    pen.beginPath();
    let before = null;
    for (const p of this.points) {
      const at = x(p.at), y = yChunk(p.chunk);
      if (!p.chunk) before = null;
      else if (before === null) { pen.moveTo(at, y); before = y; }
      else { pen.lineTo(at, before); pen.lineTo(at, y); before = y; }
    }
    pen.stroke();

    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = color("dim");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let c = 1; Math.log2(c + 1) < chunks; c *= 2) pen.fillText(String(c), left - 6, yChunk(c));
    pen.textAlign = "left";
    pen.fillText(String(batches), right + 6, yBatch(batches));
    pen.fillText("batch", right + 2, yBatch(batches) + 13);
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    for (let s = 0; s <= this.seconds; s += 30) pen.fillText(s ? "−" + s + " s" : "now", x(end - s), height - 4);
    pen.fillStyle = color("rule");
    pen.fillRect(left, bottom, right - left, 1);
    for (const tick of this.ticks) this.mark(pen, tick.reason, x(tick.at), bottom + 9, color(tick.reason));
  }

  // Shapes as in the legend, so that nobody needs the colors.
  mark(pen, reason, x, y, fill) {
    if (x < 30) return;
    pen.fillStyle = fill;
    const shape = {
      load_up: [[0, -6], [4, 5], [-4, 5]], load_down: [[-4, -6], [4, -6], [0, 5]],
      manual: [[0, -6], [4, 0], [0, 6], [-4, 0]],
    }[reason];
    pen.beginPath();
    if (shape) for (const [dx, dy] of shape) pen.lineTo(x + dx, y + dy);
    else if (reason === "learned") pen.arc(x, y, 4, 0, 7);
    else { const w = { slo: 8, hold: 5 }[reason] || 3; pen.rect(x - w / 2, y - 5, w, 10); }
    pen.fill();
  }
}
