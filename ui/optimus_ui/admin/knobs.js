// The controls: what they are set to, and forms that are sent without leaving the page.
import { byId, element } from "./dom.js";

const WORDS = {
  paused: [["Requests are admitted", "Pause admission"], ["Admission is paused", "Admit"]],
  closed: [["New requests are taken", "Drain"], ["New requests are refused", "Open"]],
};

// What an operator has entered and not sent yet stays.
let edited = false;
byId("knobs").addEventListener("input", () => { edited = true; });

export function knobs(set) {
  for (const [name, words] of Object.entries(WORDS)) {
    const on = Number(set[name]), place = document.querySelector(`[data-knob=${name}]`);
    place.classList.toggle("on", set[name]);
    place.querySelector("span").textContent = words[on][0];
    place.querySelector("button").textContent = words[on][1];
    place.querySelector("[name=on]").value = 1 - on;
  }
  const form = byId("knobs");
  const target_ms = set.tpot_ms ? `${set.tpot_ms} ms` : "none";
  byId("force").textContent = `in force: chunk ${set.chunk || "auto"}, target ${target_ms}`;
  if (edited || form.contains(document.activeElement)) return;
  const { chunk, tpot_ms: target } = form.elements, value = String(set.chunk || "auto");
  if (![...chunk.options].some((option) => option.value === value)) {
    chunk.append(element("option", { value }, `pinned to ${value}`));
  }
  chunk.value = value;
  target.value = set.tpot_ms || "";
}

// Sends a form; the event stream then shows what has become of it. What is refused is told.
export function sendForms(told) {
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.getAttribute("action") === "/admin/logout") return;
    event.preventDefault();
    const answer = await fetch(form.getAttribute("action"), {
      method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual",
    }).catch(() => null);
    if (answer && answer.type === "opaqueredirect") {
      // The form shows what the server says only while nobody is typing in it.
      if (form.contains(document.activeElement)) document.activeElement.blur();
      if (form === byId("knobs")) edited = false;
      told("");
    } else told(answer ? (await answer.json()).error : "the server does not answer");
  });
}
