// The requests that run. A row stays where it is while its request runs, so that a button does not move away under a finger.
import { byId, cell, drawn, element, row, shown } from "./dom.js";

const CLASS = { ".": "x" };

function cancelForm(id) {
  const form = element("form", { method: "post", action: "/admin/cancel" });
  for (const [name, value] of [["proof", byId("live").dataset.proof], ["request_id", id]]) {
    form.append(element("input", { type: "hidden", name, value }));
  }
  form.append(element("button", { class: "danger", "aria-label": `Cancel ${id}` }, "Cancel"));
  return form;
}

function bar(svg, letters) {
  if (svg.dataset.cells === letters) return;
  svg.dataset.cells = letters;
  svg.setAttribute("viewBox", `0 0 ${letters.length || 1} 1`);
  while (svg.children.length > letters.length) svg.lastChild.remove();
  for (const [i, letter] of [...letters].entries()) {
    const rect = svg.children[i] || svg.appendChild(drawn("rect", { x: i + 0.06, width: 0.88, height: 1 }));
    rect.setAttribute("class", CLASS[letter] || letter);
  }
}

export class Running {
  constructor() {
    this.rows = new Map();
    byId("live").replaceChildren();
  }

  make(request) {
    const svg = drawn("svg", { class: "cells", preserveAspectRatio: "none", role: "img" });
    const link = element("a", { href: `/admin/requests/${encodeURIComponent(request.id)}` }, request.id);
    const made = row(
      cell(link, "id"), cell(request.path, "wide"), cell("", "wide"), cell("", "wide"), cell(request.prompt, "wide"),
      cell(svg), "", cell("", "wide"), cell("", "wide"), cell("", "wide"), cell(cancelForm(request.id)),
    );
    byId("live").append(made);
    this.rows.set(request.id, made);
    return made;
  }

  show(requests) {
    const ids = new Set(requests.map((request) => request.id));
    for (const [id, made] of this.rows) {
      if (!ids.has(id)) {
        made.remove();
        this.rows.delete(id);
      }
    }
    for (const request of requests) {
      const made = this.rows.get(request.id) || this.make(request);
      const texts = {
        2: request.state, 3: `${request.age_s.toFixed(1)} s`, 6: `${request.done} / ${request.max}`,
        7: shown(request.chunk), 8: request.steps, 9: shown(request.tokens_s),
      };
      for (const [i, text] of Object.entries(texts)) made.cells[i].textContent = text;
      const svg = made.cells[5].firstChild;
      svg.setAttribute("aria-label", `${request.done} of at most ${request.max} tokens`);
      bar(svg, request.cells);
    }
    byId("nothing").hidden = requests.length > 0;
  }
}
