// The decisions: the table, and the card of the one that was chosen in the table or in the chart.
import { byId, cell, clock, element, ms, reason, row, shown } from "./dom.js";

const TAIL = 30;

export class Decisions {
  constructor(chosen) {
    Object.assign(this, { chosen, held: false, waiting: [], rows: new Map() });
    const hold = byId("hold");
    hold.hidden = false;
    hold.addEventListener("click", () => {
      this.held = !this.held;
      hold.setAttribute("aria-pressed", this.held);
      hold.textContent = this.held ? "Let the list go on" : "Hold the list";
      if (!this.held) this.add(this.waiting.splice(0));
    });
  }

  reset() {
    byId("tail").replaceChildren();
    this.rows.clear();
    this.waiting = [];
  }

  add(decisions) {
    if (this.held) {
      this.waiting = [...this.waiting, ...decisions].slice(-TAIL);
      return;
    }
    const tail = byId("tail");
    for (const one of decisions) {
      const change = `${shown(one.before)} → ${one.chunk}`;
      const button = element("button", { type: "button", class: "plain" }, clock(one.at));
      const made = row(cell(button), change, cell(reason(one.reason)), one.batch, one.queue, `${ms(one.predicted_ms)} ms`, `${ms(one.observed_ms)} ms`);
      made.addEventListener("click", () => this.chosen(one));
      tail.prepend(made);
      this.rows.set(one.number, made);
    }
    while (tail.rows.length > TAIL) tail.lastElementChild.remove();
    for (const [number, made] of this.rows) if (!made.isConnected) this.rows.delete(number);
    tail.closest("section").querySelector(".empty").hidden = tail.rows.length > 0;
  }

  show(one) {
    for (const [number, made] of this.rows) made.classList.toggle("chosen", number === one.number);
    const why = document.querySelector(`[data-reason=${one.reason}]`).dataset.why;
    const first = element("p", {}, element("b", {}, `${clock(one.at)}  chunk ${shown(one.before)} → ${one.chunk}`), "  ", reason(one.reason), `: ${why}.`);
    const off = one.predicted_ms ? ` (${one.observed_ms >= one.predicted_ms ? "+" : "−"}${Math.abs(Math.round(100 * (one.observed_ms / one.predicted_ms - 1)))} %)` : "";
    const facts = {
      "chunks of the rows": `${one.smallest} to ${one.largest}`, batch: one.batch, queue: one.queue, "KV in use": `${one.kv_percent} %`,
      "positions computed": one.prefill ? `${one.positions}, ${one.prefill} of them prompt` : one.positions,
      "commits expected": one.expected, "commits": one.committed,
      "step time predicted": `${ms(one.predicted_ms)} ms`, observed: `${ms(one.observed_ms)} ms${off}`,
    };
    const list = element("dl");
    for (const [name, value] of Object.entries(facts)) list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    byId("card").replaceChildren(first, list);
    byId("card").hidden = false;
  }
}
