// The canvas: one element a place, in groups of blocks. What the model wrote enters the page as text only.
const MASK = "░░";

class Cells {
  constructor(box) {
    Object.assign(this, {box, cells: [], run: null, step: 0, ended: false});
    box.addEventListener("pointerover", (event) => this.explain(event.target));
  }

  // Shows a run after `step` steps, touching only the places that differ from what is on show.
  show(run, step) {
    if (run !== this.run) {
      this.box.replaceChildren();
      Object.assign(this, {run, cells: [], step: 0, ended: false});
    }
    const before = this.step, size = run.size(step), changed = new Set();
    for (const end of [before, step]) {
      if (end) for (const at of [...run.steps[end - 1].tried, ...committed(run.steps[end - 1])]) changed.add(at);
      changed.add(run.frontier(end));
    }
    for (let i = Math.min(before, step); i < Math.max(before, step); i++) {
      for (const at of committed(run.steps[i])) changed.add(at);
    }
    const [low, high] = [run.frontier(before), run.frontier(step)].sort((a, b) => a - b);
    for (let at = low; at < high; at++) changed.add(at);
    this.resize(run, size, changed);
    if (run.ended !== this.ended) for (let at = 0; at < size; at++) changed.add(at);
    Object.assign(this, {step, ended: run.ended});
    for (const at of changed) if (at < size) this.update(at);
    const filled = step && run.steps[step - 1].filled;
    this.box.setAttribute("aria-label", `Token canvas: ${filled} of ${size} places filled, ${run.frontier(step)} sent`);
  }

  resize(run, size, changed) {
    while (this.cells.length > size) {
      const cell = this.cells.pop(), block = cell.parentElement;
      cell.remove();
      if (!block.firstChild) block.remove();
    }
    for (let at = this.cells.length; at < size; at++) {
      const number = String(run.blockOf(at));
      let block = this.box.lastElementChild;
      if (block?.dataset.block !== number) {
        block = this.box.appendChild(document.createElement("div"));
        block.className = "block";
        block.dataset.block = number;
      }
      this.cells.push(block.appendChild(document.createElement("span")));
      changed.add(at);
    }
  }

  update(at) {
    const cell = this.cells[at], state = this.run.state(at, this.step);
    if (cell.className === state) return;
    cell.className = state;
    const place = state.startsWith("cell masked") ? null : this.run.places[at];
    const text = place ? visible(place.text) : MASK;
    if (cell.textContent === text) return;
    cell.textContent = text;
    cell.style.setProperty("--sure", place ? place.sure : 0);
  }

  // Scrolls so far that the frontier is in sight.
  follow() {
    const cell = this.cells[Math.min(this.run.frontier(this.step), this.cells.length - 1)];
    if (!cell || cell.parentElement === this.followed) return;
    this.followed = cell.parentElement;
    this.box.scrollTop = cell.parentElement.offsetTop + cell.parentElement.offsetHeight - this.box.clientHeight + 12;
  }

  explain(cell) {
    const at = this.cells.indexOf(cell), place = this.run?.places[at];
    if (at < 0) return;
    cell.title =
      place && place.step <= this.step
        ? `place ${at}, kept in step ${place.step}, ${(place.sure * 100).toFixed(1)} % sure`
        : `place ${at}, masked`;
  }
}

function committed(told) {
  return told.commit.map((entry) => entry[0]);
}

function visible(text) {
  if (text && !text.trim()) return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
}
