// The chunk timeline: a step line over a band (smallest to largest), the batch as an area, and a mark for each decision
// that can be chosen by pointer or by arrow keys.

const SHAPES = {
  load_up: [[0, -6], [5, 5], [-5, 5]],
  load_down: [[-5, -6], [5, -6], [0, 5]],
  manual: [[0, -7], [5, 0], [0, 7], [-5, 0]],
};
const NEAR = 12, APART = 11;

export class Timeline {
  constructor(canvas, seconds, choose) {
    Object.assign(this, { canvas, seconds, choose, points: [], marks: [], seen: [], chosen: null, due: false });
    canvas.hidden = false;
    addEventListener("resize", () => this.ask());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.ask());
    canvas.addEventListener("click", (event) => this.point(event.offsetX));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  reset() {
    this.points = [];
    this.marks = [];
  }

  add(points, decisions) {
    this.points.push(...points);
    this.marks.push(...decisions.filter((one) => one.before !== one.chunk || ["manual", "slo"].includes(one.reason)));
    const last = this.points.length ? this.points[this.points.length - 1].at : 0;
    const recent = (one) => one.at > last - this.seconds;
    this.points = this.points.filter(recent);
    this.marks = this.marks.filter(recent);
    this.ask();
  }

  // Draw before the next frame, once, however often this is asked.
  ask() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
    });
  }

  select(decision) {
    this.chosen = decision;
    const at = this.seen.findIndex((mark) => mark.number === decision.number);
    const values = { min: 0, max: this.seen.length, now: at + 1, text: `chunk ${decision.chunk}, ${decision.reason}` };
    for (const [name, value] of Object.entries(values)) this.canvas.setAttribute(`aria-value${name}`, value);
    this.ask();
  }

  point(x) {
    const far = (mark) => Math.abs(this.x(mark.at) - x);
    const nearest = this.seen.reduce((best, mark) => (best && far(best) <= far(mark) ? best : mark), null);
    if (nearest && far(nearest) < NEAR) this.choose(nearest);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !this.seen.length) return;
    event.preventDefault();
    const at = this.seen.findIndex((mark) => mark.number === this.chosen?.number), last = this.seen.length - 1;
    const next = at < 0 ? last : Math.min(last, Math.max(0, at + step));
    this.choose(this.seen[next]);
  }

  x(at) {
    const end = this.points.length ? this.points[this.points.length - 1].at : at;
    const left = 34, right = this.canvas.clientWidth - 34;
    return right - ((end - at) / this.seconds) * (right - left);
  }

  draw() {
    const ratio = devicePixelRatio || 1, width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const pen = this.canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`);
    pen.scale(ratio, ratio);
    if (!this.points.length) return;
    const left = 34, right = width - 34, top = 10, bottom = height - 42;
    const most = (name, least) => this.points.reduce((found, point) => Math.max(found, point[name]), least);
    const chunks = Math.log2(Math.max(most("largest", 8), most("chunk", 8)) * 1.15 + 1), batches = most("batch", 4);
    const yChunk = (chunk) => bottom - (Math.log2(chunk + 1) / chunks) * (bottom - top);
    const yBatch = (batch) => bottom - (batch / batches) * (bottom - top) * 0.9;
    this.axes(pen, color, { left, right, bottom, chunks, batches, yChunk, yBatch });

    const area = (upper, lower, fill) => {
      pen.fillStyle = fill;
      for (const [i, point] of this.points.entries()) {
        const next = this.points[i + 1], from = Math.max(left, this.x(point.at)), to = next ? this.x(next.at) : from + 2;
        const y = upper(point);
        if (point.chunk || point.batch) pen.fillRect(from, y, to - from + 0.5, lower(point) - y);
      }
    };
    area((point) => yBatch(point.batch), () => bottom, color("area"));
    area((point) => yChunk(point.largest), (point) => yChunk(point.smallest) + 1, color("band"));

    pen.strokeStyle = color("accent");
    pen.lineWidth = 2;
    pen.beginPath();
    let before = null;
    for (const point of this.points) {
      const at = Math.max(left, this.x(point.at)), y = yChunk(point.chunk);
      if (!point.chunk) before = null;
      else if (before === null) pen.moveTo(at, (before = y));
      else {
        pen.lineTo(at, before);
        pen.lineTo(at, (before = y));
      }
    }
    pen.stroke();
    this.seen = this.thinned();
    for (const mark of this.seen) this.mark(pen, mark, bottom, color);
    if (this.chosen) this.line(pen, this.x(this.chosen.at), bottom, top, color);
  }

  // Marks that are not upon each other: of those, the chosen one or the newest.
  thinned() {
    const seen = this.marks.filter((mark) => mark.number === this.chosen?.number);
    for (const mark of this.marks.toReversed()) {
      const x = this.x(mark.at);
      if (x > 30 && seen.every((other) => Math.abs(this.x(other.at) - x) >= APART)) seen.push(mark);
    }
    return seen.sort((one, other) => one.at - other.at);
  }

  axes(pen, color, { left, right, bottom, chunks, batches, yChunk, yBatch }) {
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (let chunk = 1; Math.log2(chunk + 1) < chunks; chunk *= 2) {
      pen.fillStyle = color("pale");
      pen.fillRect(left, yChunk(chunk), right - left, 1);
      pen.fillStyle = color("dim");
      pen.textAlign = "right";
      pen.fillText(String(chunk), left - 7, yChunk(chunk));
    }
    pen.textAlign = "left";
    for (const batch of [batches, Math.round(batches / 2), 0]) pen.fillText(String(batch), right + 7, yBatch(batch));
    pen.textBaseline = "alphabetic";
    for (let s = 0; s <= this.seconds; s += right - left < 400 ? 60 : 30) {
      pen.textAlign = s ? (s === this.seconds ? "left" : "center") : "right";
      pen.fillText(s ? `−${s} s` : "now", right - (s / this.seconds) * (right - left), bottom + 38);
    }
    pen.fillStyle = color("rule");
    pen.fillRect(left, bottom, right - left, 1);
  }

  // Shapes as in the legend, so that nobody needs the colors.
  mark(pen, mark, bottom, color) {
    const x = this.x(mark.at), y = bottom + 12;
    pen.fillStyle = color(mark.reason);
    pen.beginPath();
    const shape = SHAPES[mark.reason];
    if (shape) for (const [dx, dy] of shape) pen.lineTo(x + dx, y + dy);
    else if (mark.reason === "learned") pen.arc(x, y, 4, 0, 7);
    else {
      const w = { slo: 8, hold: 5 }[mark.reason] || 3, h = mark.reason === "idle" ? 6 : 12;
      pen.rect(x - w / 2, y - h / 2, w, h);
    }
    pen.fill();
  }

  // Where the chosen decision was made.
  line(pen, x, bottom, top, color) {
    if (x < 30) return;
    pen.fillStyle = pen.strokeStyle = color("manual");
    pen.fillRect(x - 0.5, top, 1, bottom - top);
    pen.lineWidth = 1.5;
    pen.strokeRect(x - 8, bottom + 2, 16, 20);
  }
}
