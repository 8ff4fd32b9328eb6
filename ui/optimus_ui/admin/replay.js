// The replay of one request: a slider over its steps, a strip of what each tried and kept, and its positions as text.
import { byId, element, ms } from "./dom.js";
import { Film } from "./film.js";

const MASK = "░░";
const HIGH = 74;

class Player {
  constructor(film) {
    Object.assign(this, { film, at: 1, playing: false, cells: [], letters: [] });
    this.slider = byId("at");
    this.slider.max = film.steps.length;
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    byId("play").addEventListener("click", () => this.toggle());
    byId("strip").addEventListener("click", (event) => this.seek(this.column(event.offsetX)));
    addEventListener("resize", () => this.strip());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.strip());
    for (let at = 0; at < film.size; at++) {
      const cell = element("span", film.edge(at) ? { class: "edge" } : {});
      this.cells.push(cell);
    }
    byId("film").append(...this.cells);
    byId("player").hidden = false;
    this.show(film.steps.length);
  }

  seek(number) {
    this.stop();
    this.show(number);
  }

  toggle() {
    if (this.playing) return this.stop();
    if (this.at >= this.film.steps.length) this.show(1);
    this.playing = true;
    byId("play").textContent = "Pause";
    this.began = performance.now() - this.time(this.at) / this.speed();
    requestAnimationFrame(() => this.frame());
  }

  stop() {
    this.playing = false;
    byId("play").textContent = "Play";
  }

  speed() {
    return Number(byId("speed").value);
  }

  time(number) {
    return this.film.steps[number - 1].t_ms - this.film.steps[0].t_ms;
  }

  // One frame of playing: as many steps as have passed by now.
  frame() {
    if (!this.playing) return;
    const now = (performance.now() - this.began) * this.speed(), last = this.film.steps.length;
    let next = this.at;
    while (next < last && this.time(next + 1) <= now) next++;
    if (next !== this.at) this.show(next);
    if (next < last) requestAnimationFrame(() => this.frame());
    else this.stop();
  }

  show(number) {
    this.at = number;
    this.slider.value = number;
    const { film } = this, step = film.steps[number - 1], letters = film.states(number);
    for (const [at, letter] of letters.entries()) {
      if (this.letters[at] === letter) continue;
      const cell = this.cells[at], known = "fhs".includes(letter);
      cell.className = `${letter}${film.edge(at) ? " edge" : ""}`;
      cell.textContent = known ? film.word(at) : MASK;
      cell.title = known ? `position ${at + film.first}: step ${film.committed[at]}, ${film.sure[at]} % sure` : `position ${at + film.first}: masked`;
    }
    this.letters = letters;
    const did = step.masks ? `tried ${step.masks} masks, committed ${step.positions.length}, sent ${step.advance}` : `prefill of positions ${step.start} to ${step.stop - 1}`;
    byId("said").textContent =
      `Step ${number} of ${film.steps.length}, at ${ms(step.t_ms)} ms: chunk ${step.chunk} (${step.reason}), ${did}. ` +
      `Batch ${step.batch}, queue ${step.queue}, ${ms(step.step_ms)} ms.`;
    this.slider.setAttribute("aria-valuetext", `step ${number} of ${film.steps.length}`);
    const done = letters.filter((letter) => "fhs".includes(letter)).length;
    byId("film").setAttribute("aria-label", `${done} of ${film.size} positions committed after step ${number}`);
    this.strip();
  }

  column(x) {
    const count = this.film.steps.length, wide = byId("strip").clientWidth / count;
    return Math.min(count, Math.max(1, Math.ceil(x / wide)));
  }

  strip() {
    const canvas = byId("strip"), ratio = devicePixelRatio || 1, { steps } = this.film;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = HIGH * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.scale(ratio, ratio);
    const wide = canvas.clientWidth / steps.length, gap = wide > 4 ? 1 : 0;
    const most = steps.reduce((found, step) => Math.max(found, step.masks), 8);
    const bar = (i, amount, color) => {
      const tall = (amount / most) * (HIGH - 12);
      pen.fillStyle = style.getPropertyValue(color);
      pen.fillRect(i * wide, HIGH - 4 - tall, Math.max(1, wide - gap), tall);
    };
    steps.forEach((step, i) => {
      pen.globalAlpha = i < this.at ? 1 : 0.35;
      bar(i, step.masks, "--band");
      bar(i, step.positions.length, "--accent");
    });
    pen.globalAlpha = 1;
    pen.fillStyle = style.getPropertyValue("--manual");
    pen.fillRect((this.at - 0.5) * wide - 1, 0, 2, HIGH);
  }
}

const answer = await fetch(byId("replay").dataset.source);
if (answer.ok) new Player(new Film(await answer.json()));
