// Charts that only some models have: class probabilities after each patch or round, shares of magnifications.
// They are drawn here and not by the server because their points can be clicked.

import { svgElement, element, percent } from "./dom.js";

const [WIDTH, HEIGHT, EDGE] = [300, 90, 18];

/** Return the charts of a prediction; `go` is called with the region of a clicked point. */
export function charts(record, regions, go) {
  return [probabilityChart(record, regions, go), magnificationShares(regions)].filter((chart) => chart !== null);
}

/** Mark the point of a region in the charts. */
export function markInCharts(root, id) {
  for (const dot of root.querySelectorAll("[data-region]")) dot.classList.toggle("here", dot.dataset.region === id);
}

/** The probability of the predicted class after each patch, or each round, in the order of visits. */
function probabilityChart(record, regions, go) {
  const read = regions.visited.filter((region) => region.probabilities);
  if (read.length < 2) return null;
  read.sort((a, b) => a.order - b.order);
  const { label } = record.prediction;
  const unit = record.rounds && record.rounds.length ? "round" : "patch";
  const x = (index) => EDGE + (index / (read.length - 1)) * (WIDTH - EDGE - 4);
  const y = (probability) => 4 + (1 - probability) * (HEIGHT - EDGE - 4);
  const points = read.map((region, index) => `${x(index)},${y(region.probabilities[label])}`);
  const units = unit === "round" ? "rounds" : "patches";
  const chart = svg(`The probability of ${label} after each of ${read.length} ${units}`);
  for (const value of [0, 0.5, 1]) {
    chart.append(svgElement("line", { class: "rule", x1: EDGE, x2: WIDTH, y1: y(value), y2: y(value) }));
    chart.append(svgElement("text", { x: EDGE - 3, y: y(value) + 3, "text-anchor": "end" }, String(value)));
  }
  chart.append(svgElement("polyline", { class: "line", points: points.join(" ") }));
  read.forEach((region, index) => {
    const name = unit === "round" ? roundText(record, index) : `Patch ${index + 1}`;
    chart.append(dot(region, name, points[index].split(","), label, go));
  });
  chart.append(svgElement("text", { x: EDGE, y: HEIGHT - 3 }, `first ${unit}`));
  chart.append(svgElement("text", { x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, "last"));
  return titled(`Probability of ${label} after each ${unit}`, chart);
}

function roundText(record, index) {
  return `Round ${index}, ${record.rounds[index].patches} patches`;
}

function dot(region, name, [cx, cy], label, go) {
  const text = `${name}: ${label} ${region.probabilities[label].toFixed(2)}`;
  const circle = svgElement("circle", { class: "dot", cx, cy, r: 3, "data-region": region.id }, svgElement("title", {}, text));
  circle.onclick = () => go(region);
  return circle;
}

/** The share of each magnification in sampling probabilities, which sum to 1 over all magnifications. */
function magnificationShares(regions) {
  if (!regions.sampled) return null;
  const sums = regions.ofStep.map((of) => of.reduce((sum, region) => sum + region.score, 0));
  const total = sums.reduce((sum, part) => sum + part, 0);
  const rows = sums.map((sum, step) => {
    const name = regions.names[step];
    const meter = element("meter", { min: 0, max: 1, value: sum / total, ariaLabel: name });
    return element("li", { className: "measure" }, element("span", {}, name), meter, percent(sum / total));
  });
  return titled("Sampling probability by magnification", element("ul", { className: "bars" }, ...rows));
}

function svg(label) {
  return svgElement("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
}

function titled(title, chart) {
  return element("div", {}, element("h2", {}, title), chart);
}
