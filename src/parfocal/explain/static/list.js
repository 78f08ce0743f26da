// The list of slides: what was said of each, sorted, the wrong ones first.

import { ask, byId, element, percent } from "./dom.js";

const WHICH = {
  all: ["all", () => true],
  wrong: ["wrong ones", (row) => row.wrong === true],
  right: ["right ones", (row) => row.wrong === false],
  unknown: ["without a known label", (row) => row.slide.label === null],
};

// A wrong answer the model was sure of comes before a doubtful one.
const COLUMNS = [
  { name: "", text: "slide, small" },
  { name: "slide", key: (row) => row.slide.id },
  { name: "truth", key: (row) => row.slide.label ?? "" },
  { name: "predicted", key: (row) => row.said?.label ?? "" },
  { name: "verdict", key: (row) => [2, 0, 1][["", true, false].indexOf(row.wrong ?? "")], then: "sure" },
  { name: "probability", key: (row) => -row.sure },
  { name: "looked at", key: (row) => row.said?.share_patches ?? 0 },
  { name: "seconds", key: (row) => row.said?.seconds ?? 0 },
];

let listed = { slides: [], problems: [] };
let sorting = { column: "verdict", down: false };

/** Join a slide with what one model said of it. */
function rowOf(slide, model) {
  const said = slide.predictions.find((each) => each.model === model) ?? null;
  const wrong = said && slide.label !== null ? said.label !== slide.label : null;
  return { slide, said, wrong, sure: said ? said.probabilities[said.label] : 0 };
}

function compare(one, other) {
  const column = COLUMNS.find((each) => each.name === sorting.column);
  const [a, b] = [column.key(one), column.key(other)];
  const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  const later = other.sure - one.sure || one.slide.id.localeCompare(other.slide.id, undefined, { numeric: true });
  return (sorting.down ? -order : order) || later;
}

function fits(row) {
  const text = byId("find").value.trim().toLowerCase();
  const words = [row.slide.id, row.slide.label ?? "", row.said?.label ?? ""];
  return WHICH[byId("show").value][1](row) && words.some((word) => word.toLowerCase().includes(text));
}

function show() {
  const all = listed.slides.map((slide) => rowOf(slide, byId("model").value));
  const rows = all.filter(fits).sort(compare);
  byId("rows").replaceChildren(...rows.map(draw));
  byId("none").hidden = rows.length > 0;
  const wrong = all.filter((row) => row.wrong).length;
  const known = all.filter((row) => row.wrong !== null).length;
  const verdict = known ? `, ${wrong} of ${known} wrong` : "";
  byId("count").textContent = `${rows.length} of ${all.length} slides shown${verdict}`;
  for (const cell of byId("head").children) {
    const here = cell.dataset.name === sorting.column;
    cell.setAttribute("aria-sort", here ? (sorting.down ? "descending" : "ascending") : "none");
  }
}

function draw(row) {
  const { slide, said } = row;
  const link = said ? `/slides/${slide.key}#p=${said.key}` : `/slides/${slide.key}`;
  const picture = element("img", { src: `/thumbnails/${slide.key}`, alt: "", loading: "lazy", width: 72, height: 72 });
  const cells = [
    element("a", { href: link, tabIndex: -1, ariaHidden: "true" }, slide.problem ? "" : picture),
    element("span", {}, element("a", { href: link }, slide.id), problem(slide)),
    slide.label ?? "–",
    said?.label ?? "–",
    verdict(row.wrong),
    said ? bar(row.sure) : "–",
    said ? element("span", { title: said.bill }, `${percent(said.share_patches)} (${said.patches.toLocaleString()})`) : "–",
    said ? said.seconds.toFixed(1) : "–",
  ];
  return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
}

function problem(slide) {
  return slide.problem ? element("p", { className: "problem" }, slide.problem) : "";
}

function verdict(wrong) {
  if (wrong === null) return "–";
  return element("span", { className: wrong ? "tag wrong" : "tag" }, wrong ? "✗ wrong" : "✓ right");
}

function bar(share) {
  const meter = element("meter", { min: 0, max: 1, value: share, ariaLabel: "probability" });
  return element("span", { className: "measure" }, meter, share.toFixed(2));
}

function heading(column) {
  const cell = element("th", { scope: "col" });
  cell.dataset.name = column.name;
  if (!column.key) return element("th", { scope: "col" }, element("span", { className: "spoken" }, column.text));
  const button = element("button", { type: "button" }, column.name);
  button.addEventListener("click", () => {
    sorting = { column: column.name, down: sorting.column === column.name && !sorting.down };
    show();
  });
  cell.append(button);
  return cell;
}

async function start() {
  listed = await ask("/api/slides");
  const models = [...new Set(listed.slides.flatMap((slide) => slide.predictions.map((each) => each.model)))];
  byId("model").append(...models.map((model) => element("option", { value: model }, model)));
  byId("models").hidden = models.length < 2;
  byId("show").append(...Object.entries(WHICH).map(([value, [text]]) => element("option", { value }, text)));
  byId("head").append(...COLUMNS.map(heading));
  byId("problems").append(...listed.problems.map((reason) => element("li", {}, reason)));
  byId("problems").hidden = listed.problems.length === 0;
  byId("tools").addEventListener("input", show);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  show();
}

start().catch((error) => {
  byId("count").textContent = `The list cannot be shown: ${error.message}`;
});
