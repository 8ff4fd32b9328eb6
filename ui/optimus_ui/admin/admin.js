// Keeps the page that the server has rendered up to date, from one event stream. Text enters only as text.
"use strict";

const byId = (id) => document.getElementById(id);
const timeline = new Timeline(byId("timeline"), 120);
const SVG = "http://www.w3.org/2000/svg";
const TAIL = 30;
let source = null;

function element(name, text, css) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text === null ? "–" : String(text);
  if (css) made.className = css;
  return made;
}

function row(cells) {
  const made = element("tr");
  for (const cell of cells) {
    if (cell instanceof HTMLTableCellElement) made.append(cell);
    else made.append(element("td", cell));
  }
  return made;
}

const clock = (at) => new Date(at * 1000).toTimeString().slice(0, 8);

function decision(d) {
  const reason = element("td");
  reason.append(element("i", undefined, "tick " + d.reason), " " + d.reason);
  const change = (d.before === null ? "–" : d.before) + " → " + d.chunk;
  return row([clock(d.at), d.queue, d.batch, change, reason, d.predicted_ms, d.observed_ms]);
}

function decide(decisions) {
  const tail = byId("tail");
  for (const d of decisions) tail.prepend(decision(d));
  while (tail.rows.length > TAIL) tail.lastElementChild.remove();
}

function bar(r) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "masks");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const name of ["work", "done"]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", name);
    rect.setAttribute("height", "1");
    svg.append(rect);
  }
  svg.setAttribute("viewBox", "0 0 " + r.max + " 1");
  svg.setAttribute("role", "img");
  return svg;
}

function cancelForm(id) {
  const form = element("form");
  form.method = "post";
  form.action = "/admin/cancel";
  for (const [name, value] of [["proof", byId("live").dataset.proof], ["request_id", id]]) {
    const input = element("input");
    Object.assign(input, { type: "hidden", name, value });
    form.append(input);
  }
  form.append(element("button", "Cancel", "danger"));
  return form;
}

// Rows stay where they are while their request runs, so that a button does not move away under a finger.
const rows = new Map();

function live(requests) {
  const body = byId("live");
  const ids = new Set(requests.map((r) => r.id));
  for (const [id, made] of rows) if (!ids.has(id)) { made.remove(); rows.delete(id); }
  for (const r of requests) {
    let made = rows.get(r.id);
    if (!made) {
      const shown = element("td"), button = element("td");
      shown.append(bar(r));
      button.append(cancelForm(r.id));
      made = row([element("td", r.id, "id"), r.path, "", r.prompt, shown, "", "", "", "", button]);
      rows.set(r.id, made);
      body.append(made);
    }
    const texts = { 2: r.age_s.toFixed(1), 5: r.done + " / " + r.max, 6: r.chunk, 7: r.steps, 8: r.tokens_s };
    for (const [i, text] of Object.entries(texts)) made.cells[i].textContent = text === null ? "–" : text;
    const svg = made.cells[4].firstChild;
    svg.setAttribute("aria-label", r.done + " of at most " + r.max + " tokens");
    svg.children[0].setAttribute("width", r.stop);
    svg.children[1].setAttribute("width", r.done);
  }
  byId("nothing").hidden = requests.length > 0;
}

const WORDS = {
  paused: [["Requests are admitted", "Pause admission"], ["Admission is paused", "Admit"]],
  closed: [["New requests are taken", "Drain"], ["New requests are refused", "Open"]],
};

function knobs(set) {
  for (const [name, words] of Object.entries(WORDS)) {
    const on = Number(set[name]), place = document.querySelector("[data-knob=" + name + "]");
    place.classList.toggle("on", set[name]);
    place.querySelector("span").textContent = words[on][0];
    place.querySelector("button").textContent = words[on][1];
    place.querySelector("[name=on]").value = 1 - on;
  }
  const form = byId("knobs");
  if (form.contains(document.activeElement)) return;
  form.elements.chunk.value = set.chunk || "auto";
  form.elements.tpot_ms.value = set.tpot_ms || "";
}

function tick(t) {
  for (const place of document.querySelectorAll("[data-figure]")) {
    const value = t.figures[place.dataset.figure];
    place.textContent = value === null ? "–" : value;
  }
  byId("problem").hidden = !t.figures.problem;
  byId("problem").textContent = t.figures.problem || "";
  timeline.add([t.point], t.decisions);
  decide(t.decisions);
  live(t.requests);
  knobs(t.knobs);
  const audit = t.audit.map((a) => row([clock(a.at), a.action, element("td", a.detail, "id"), a.client])).reverse();
  byId("audit").replaceChildren(...audit);
}

function listen() {
  if (source) return;
  source = new EventSource("/admin/events");
  source.addEventListener("hello", (e) => {
    const past = JSON.parse(e.data);
    timeline.points = [];
    timeline.ticks = [];
    timeline.add(past.timeline, past.decisions);
    byId("tail").replaceChildren();
    decide(past.decisions.slice(-TAIL));
    byId("link").textContent = "live";
  });
  source.addEventListener("tick", (e) => tick(JSON.parse(e.data)));
  source.onerror = () => { byId("link").textContent = "connection lost, trying again"; };
}

// A hidden page must not hold one of the six connections a browser has for a host.
function look() {
  if (!document.hidden) return listen();
  if (source) source.close();
  source = null;
}

document.addEventListener("visibilitychange", look);
document.addEventListener("submit", async (e) => {
  const form = e.target;
  if (form.getAttribute("action") === "/admin/logout") return;
  e.preventDefault();
  if (form.contains(document.activeElement)) document.activeElement.blur();
  const answer = await fetch(form.getAttribute("action"), {
    method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual",
  });
  if (answer.type === "opaqueredirect") return;
  byId("link").textContent = (await answer.json()).error;
});
byId("live").replaceChildren();
look();
