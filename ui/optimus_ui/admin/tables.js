// Step times by chunk x batch as a heat map, and commits by chunk as bars; both are tables that can be read aloud.
import { byId, cell, drawn, element, ms, percent, row, size } from "./dom.js";

const FAR = 0.2;

function heat(entry) {
  if (!entry) return element("td");
  const far = entry.off !== null && Math.abs(entry.off) > FAR;
  const arrow = far ? (entry.off > 0 ? "▲ " : "▼ ") : "";
  const off = entry.off === null ? "" : `${arrow}${entry.off < 0 ? "" : "+"}${percent(entry.off)}`;
  const title = `${entry.steps} steps`;
  return element(
    "td", { class: `q${entry.level}${far ? " off" : ""}`, title }, element("b", {}, ms(entry.observed_ms)),
    element("span", {}, ms(entry.predicted_ms)), element("span", {}, off),
  );
}

// The sizes that occur, ascending, as strings that can be compared.
const sizes = (entries, name) => [...new Map(entries.map((one) => [one[name][0], one[name]])).values()].sort((a, b) => a[0] - b[0]);

export function times(entries) {
  const table = byId("times"), chunks = sizes(entries, "chunk").reverse(), batches = sizes(entries, "batch");
  const head = batches.map((batch) => element("th", { scope: "col" }, size(batch)));
  table.tHead.replaceChildren(element("tr", {}, element("th", { scope: "col" }, "chunk ↓ batch →"), ...head));
  const found = (chunk, batch) => entries.find((one) => one.chunk[0] === chunk[0] && one.batch[0] === batch[0]);
  table.tBodies[0].replaceChildren(...chunks.map((chunk) =>
    element("tr", {}, element("th", { scope: "row" }, size(chunk)), ...batches.map((batch) => heat(found(chunk, batch))))));
  table.closest("section").querySelector(".empty").hidden = entries.length > 0;
}

export function yields(entries) {
  const table = byId("yields");
  table.tBodies[0].replaceChildren(...entries.toReversed().map((one) => {
    const label = one.bars.map(percent).join(", ");
    const bars = drawn("svg", { class: "bars", viewBox: "0 0 8 1", preserveAspectRatio: "none", role: "img", "aria-label": label });
    for (const [i, share] of one.bars.entries()) bars.append(drawn("rect", { x: i + 0.1, y: 1 - share, width: 0.8, height: share }));
    return row(element("th", { scope: "row" }, size(one.chunk)), cell(one.rows, "wide"), one.commits, percent(one.efficiency), cell(bars));
  }));
  table.closest("section").querySelector(".empty").hidden = entries.length > 0;
}
