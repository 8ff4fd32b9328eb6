// Elements made from text. Nothing here, or in any other module, ever parses text as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);
export const shown = (value) => (value === null || value === undefined ? "–" : String(value));
export const clock = (at) => new Date(at * 1000).toISOString().slice(11, 19);
export const when = (at) => new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ");
export const size = ([low, high]) => (low === high ? String(low) : `${low}–${high}`);
export const percent = (share) => `${Math.round(100 * share)} %`;

export function ms(value) {
  if (value === null) return "–";
  if (value < 10) return value.toFixed(2);
  return value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.map((child) => (child instanceof Node ? child : shown(child))));
  return made;
}

export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const cell = (child, css = "") => element("td", css ? { class: css } : {}, child);

export const row = (...cells) => element("tr", {}, ...cells.map((one) => (one instanceof HTMLTableCellElement ? one : cell(one))));

// A reason with its mark, as in the legend.
export function reason(name) {
  const made = document.createDocumentFragment();
  made.append(element("i", { class: `tick ${name}`, "aria-hidden": "true" }), ` ${name}`);
  return made;
}
