// The list of slides with their predictions; wrong predictions come first.

import { fetchJson, byId, element, percent, urlOf } from "./dom.js";

const FILTERS = {
  all: ["all", () => true],
  wrong: ["wrong predictions", (row) => row.wrong === true],
  right: ["correct predictions", (row) => row.wrong === false],
  unknown: ["without true label", (row) => row.slide.label === null],
  failed: ["failed", (row) => row.slide.key === null],
};

// By default wrong predictions come first, those of high probability on top.
const COLUMNS = [
  { name: "", text: "thumbnail" },
  { name: "slide", key: (row) => row.slide.id },
  { name: "true label", key: (row) => row.slide.label ?? "" },
  { name: "predicted", key: (row) => row.prediction?.label ?? "" },
  { name: "result", key: (row) => [2, 0, 1][["", true, false].indexOf(row.wrong ?? "")], },
  { name: "probability", key: (row) => -row.probability },
  { name: "visited patches", key: (row) => row.prediction?.share_patches ?? 0 },
  { name: "seconds", key: (row) => row.prediction?.seconds ?? 0 },
];

let listed = { slides: [], failed: [], problems: [] };
let sorting = { column: "result", down: false };

/** Return the row of a slide with the prediction of one model. */
function rowOf(slide, model) {
  const prediction = slide.predictions.find((each) => each.model === model) ?? null;
  const hasClasses = prediction && Object.keys(prediction.probabilities).length;
  const wrong = hasClasses && slide.label !== null ? prediction.label !== slide.label : null;
  return { slide, prediction, wrong, probability: prediction?.probabilities[prediction.label] ?? null };
}

function compare(one, other) {
  const column = COLUMNS.find((each) => each.name === sorting.column);
  const [a, b] = [column.key(one), column.key(other)];
  const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  const later = other.probability - one.probability || one.slide.id.localeCompare(other.slide.id, undefined, { numeric: true });
  return (sorting.down ? -order : order) || later;
}

function matches(row) {
  const text = byId("find").value.trim().toLowerCase();
  const words = [row.slide.id, row.slide.label ?? "", row.prediction?.label ?? "", row.prediction?.patient ?? ""];
  return FILTERS[byId("show").value][1](row) && words.some((word) => word.toLowerCase().includes(text));
}

function show() {
  const all = [...listed.slides, ...listed.failed.map(failedSlide)].map((slide) => rowOf(slide, byId("model").value));
  const rows = all.filter(matches).sort(compare);
  byId("rows").replaceChildren(...rows.map(draw));
  byId("none").hidden = rows.length > 0;
  const wrong = all.filter((row) => row.wrong).length;
  const known = all.filter((row) => row.wrong !== null).length;
  const summary = known ? `, ${wrong} of ${known} wrong` : "";
  byId("count").textContent = `${rows.length} of ${all.length} slides shown${summary}`;
  for (const cell of byId("head").children) {
    const here = cell.dataset.name === sorting.column;
    cell.setAttribute("aria-sort", here ? (sorting.down ? "descending" : "ascending") : "none");
  }
}

/** Return a slide that could not be predicted like one of the others; it has no page. */
function failedSlide(failed) {
  return { key: null, id: failed.id, label: null, problem: `failed: ${failed.reason}`, predictions: [] };
}

function draw(row) {
  const { slide, prediction } = row;
  if (slide.key === null) {
    const cell = element("td", { colSpan: COLUMNS.length - 1 }, element("span", {}, slide.id), problem(slide));
    return element("tr", {}, element("td", {}, ""), cell);
  }
  const link = urlOf(`slides/${slide.key}${prediction ? `#p=${prediction.key}` : ""}`);
  const picture = element("img", { src: urlOf(`thumbnails/${slide.key}`), alt: "", loading: "lazy", width: 72, height: 72 });
  const cells = [
    element("a", { href: link, tabIndex: -1, ariaHidden: "true" }, slide.problem ? "" : picture),
    element("span", {}, element("a", { href: link }, slide.id), patient(prediction), problem(slide)),
    slide.label ?? "–",
    prediction?.label ?? "–",
    resultTag(row.wrong),
    row.probability === null ? "–" : bar(row.probability),
    prediction ? element("span", { title: prediction.bill }, `${prediction.patches.toLocaleString()} (${percent(prediction.share_patches)})`) : "–",
    prediction ? prediction.seconds.toFixed(1) : "–",
  ];
  return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
}

function patient(prediction) {
  return prediction?.patient ? element("p", { className: "quiet" }, `patient ${prediction.patient}`) : "";
}

function problem(slide) {
  return slide.problem ? element("p", { className: "problem" }, slide.problem) : "";
}

function resultTag(wrong) {
  if (wrong === null) return "–";
  return element("span", { className: wrong ? "tag wrong" : "tag" }, wrong ? "✗ wrong" : "✓ correct");
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
  listed = await fetchJson("api/slides");
  const models = [...new Set(listed.slides.flatMap((slide) => slide.predictions.map((each) => each.model)))];
  byId("model").append(...models.map((model) => element("option", { value: model }, model)));
  byId("models").hidden = models.length < 2;
  byId("show").append(...Object.entries(FILTERS).map(([value, [text]]) => element("option", { value }, text)));
  byId("head").append(...COLUMNS.map(heading));
  byId("problems").append(...listed.problems.map((reason) => element("li", {}, reason)));
  byId("problems").hidden = listed.problems.length === 0;
  byId("tools").addEventListener("input", show);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  show();
}

start().catch((error) => {
  byId("count").textContent = `The list could not be loaded: ${error.message}`;
});
