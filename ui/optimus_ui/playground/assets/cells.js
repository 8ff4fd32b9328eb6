// The canvas: one element a place. What the model wrote enters the page as text only.
class Cells {
  constructor(box) {
    this.box = box;
    this.shown = [];
  }

  clear() {
    this.box.replaceChildren();
    this.shown = [];
  }

  show(run, step) {
    const size = run.size(step);
    while (this.shown.length > size) {
      this.box.lastChild.remove();
      this.shown.pop();
    }
    for (let at = 0; at < size; at++) {
      const state = run.state(at, step);
      if (this.shown[at] === state) continue;
      const cell = this.box.children[at] || this.box.appendChild(document.createElement("span"));
      const place = state.startsWith("cell masked") ? null : run.places[at];
      cell.className = state;
      cell.textContent = place ? visible(place.text) : "░░";
      cell.style.setProperty("--sure", place ? place.sure : 0);
      cell.title = place
        ? `place ${at}, filled in step ${place.step}, ${Math.round(place.sure * 100)} % sure`
        : `place ${at}, masked`;
      this.shown[at] = state;
    }
    const filled = this.shown.filter((state) => !state.startsWith("cell masked")).length;
    this.box.setAttribute("aria-label", `Token canvas: ${filled} of ${size} places filled, ${run.frontier(step)} sent`);
  }
}

function visible(text) {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
}
