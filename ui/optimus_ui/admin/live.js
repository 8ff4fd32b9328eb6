// Keeps the page that the server has rendered up to date, from one event stream.
import { Decisions } from "./decisions.js";
import { byId, cell, row, shown, when } from "./dom.js";
import { knobs, sendForms } from "./knobs.js";
import { Running } from "./running.js";
import { times, yields } from "./tables.js";
import { Timeline } from "./timeline.js";

const choose = (decision) => {
  decisions.show(decision);
  timeline.select(decision);
};
const timeline = new Timeline(byId("timeline"), 120, choose);
const decisions = new Decisions(choose);
const running = new Running();
const ALARMS = { failed: (n) => n > 0, log_dropped: (n) => n > 0, waiting: () => false };
let source = null;

function link(text, state) {
  byId("link").textContent = text;
  byId("link").className = `link ${state}`;
}

function figures(values) {
  for (const place of document.querySelectorAll("[data-figure]")) {
    const name = place.dataset.figure;
    if (!(name in values)) continue;
    place.textContent = shown(values[name]);
    if (name in ALARMS) place.closest(".figure").classList.toggle("alarm", ALARMS[name](values[name]));
  }
  for (const bar of document.querySelectorAll("[data-gauge]")) {
    if (bar.dataset.gauge in values) bar.setAttribute("width", values[bar.dataset.gauge]);
  }
}

// What goes with every fourth tick only.
function slow(told) {
  figures(told.slow);
  times(told.times);
  yields(told.yields);
  const audit = told.audit.map((act) => row(when(act.at), act.action, cell(act.detail, "text"), act.address)).reverse();
  byId("audit").replaceChildren(...audit);
  byId("audit").closest("section").querySelector(".empty").hidden = audit.length > 0;
}

function tick(told) {
  figures(told.figures);
  byId("problem").hidden = !told.figures.problem;
  byId("problem").textContent = told.figures.problem || "";
  timeline.add([told.point], told.decisions);
  decisions.add(told.decisions);
  running.show(told.requests);
  knobs(told.knobs);
  if (told.slow) slow(told);
}

function listen() {
  if (source) return;
  source = new EventSource("/admin/events");
  source.addEventListener("hello", (event) => {
    const past = JSON.parse(event.data);
    timeline.reset();
    timeline.add(past.timeline, past.marks);
    decisions.reset();
    decisions.add(past.decisions);
    slow(past);
    link("live", "live");
  });
  source.addEventListener("tick", (event) => tick(JSON.parse(event.data)));
  source.onerror = () => link("connection lost, trying again", "lost");
}

// A hidden page must not hold one of the six connections a browser has for a host.
function look() {
  if (!document.hidden) return listen();
  if (source) source.close();
  source = null;
}

document.addEventListener("visibilitychange", look);
sendForms((text) => link(text || "live", text ? "lost" : "live"));
look();
