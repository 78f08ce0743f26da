// Small charts of what some methods tell besides: running answers, shares of magnifications.

import { drawing, element, percent } from "./dom.js";

const [WIDTH, HEIGHT, EDGE] = [300, 90, 18];

/** Give the charts that a prediction has something for; `go` is called with a region that was chosen. */
export function charts(record, regions, go) {
  return [running(record, regions, go), shares(regions)].filter((chart) => chart !== null);
}

/** Mark the place of a region in the charts. */
export function markInCharts(root, id) {
  for (const dot of root.querySelectorAll("[data-region]")) dot.classList.toggle("here", dot.dataset.region === id);
}

/** The probability of the answer after each patch, in the order of looking. */
function running(record, regions, go) {
  const told = regions.looked.filter((region) => region.probabilities);
  if (told.length < 2) return null;
  const { label } = record.prediction;
  const x = (place) => EDGE + (place / (told.length - 1)) * (WIDTH - EDGE - 4);
  const y = (chance) => 4 + (1 - chance) * (HEIGHT - EDGE - 4);
  const points = told.map((region, place) => `${x(place)},${y(region.probabilities[label])}`);
  const chart = svg(`The probability of ${label} after each of ${told.length} patches`);
  for (const chance of [0, 0.5, 1]) {
    chart.append(drawing("line", { class: "rule", x1: EDGE, x2: WIDTH, y1: y(chance), y2: y(chance) }));
    chart.append(drawing("text", { x: EDGE - 3, y: y(chance) + 3, "text-anchor": "end" }, String(chance)));
  }
  chart.append(drawing("polyline", { class: "line", points: points.join(" ") }));
  told.forEach((region, place) => chart.append(dot(region, place, points[place].split(","), label, go)));
  chart.append(drawing("text", { x: EDGE, y: HEIGHT - 3 }, "first patch"));
  chart.append(drawing("text", { x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, "last"));
  return titled(`Probability of ${label} so far`, chart);
}

function dot(region, place, [cx, cy], label, go) {
  const said = `Patch ${place + 1}: ${label} ${region.probabilities[label].toFixed(2)}`;
  const made = drawing("circle", { class: "dot", cx, cy, r: 3, "data-region": region.id }, drawing("title", {}, said));
  made.onclick = () => go(region);
  return made;
}

/** Of a score that sums to 1 over all magnifications, what each has. */
function shares(regions) {
  if (!regions.sampled) return null;
  const sums = regions.ofStep.map((of) => of.reduce((sum, region) => sum + region.score, 0));
  const whole = sums.reduce((sum, part) => sum + part, 0);
  const rows = sums.map((sum, step) => {
    const name = regions.names[step];
    const meter = element("meter", { min: 0, max: 1, value: sum / whole, ariaLabel: name });
    return element("li", { className: "measure" }, element("span", {}, name), meter, percent(sum / whole));
  });
  return titled("Share of each magnification", element("ul", { className: "bars" }, ...rows));
}

function svg(label) {
  return drawing("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
}

function titled(title, chart) {
  return element("div", {}, element("h2", {}, title), chart);
}
