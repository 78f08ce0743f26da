// Charts that only some models have: class probabilities after each patch or round, shares of magnifications.
// They are drawn here and not by the server because their points can be clicked.

import { svgElement, element, percent } from "./dom.js";

const [WIDTH, HEIGHT, EDGE] = [300, 90, 18];
const DASHES = ["none", "6 3", "2 3", "8 3 2 3", "1 2", "10 4"]; // of the lines of several models

/** Return the charts of a prediction; `go` is called with the region of a clicked point. */
export function charts(record, regions, go) {
  return [probabilityChart(record, regions, go), membersChart(record), magnificationShares(regions)].filter((chart) => chart !== null);
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
  const units = unit === "round" ? "rounds" : "patches";
  const points = read.map((region, index) => place(index / (read.length - 1), region.probabilities[label]));
  const dots = read.map((region, index) => {
    const name = unit === "round" ? `Round ${roundText(record.rounds, index)}` : `Patch ${index + 1}`;
    const circle = dot(points[index], answerText(name, label, region.probabilities));
    circle.dataset.region = region.id;
    circle.setAttribute("role", "button");
    circle.setAttribute("tabindex", index ? "-1" : "0");
    circle.onclick = () => go(region);
    circle.onkeydown = (event) => onKey(event, dots, index);
    return circle;
  });
  const chart = probabilityAxes(`The probability of ${label} after each of ${read.length} ${units}`, `first ${unit}`, "last");
  chart.setAttribute("role", "group"); // an img would hide its buttons
  chart.append(line(points), ...dots);
  return titled(`Probability of ${label} after each ${unit}`, chart);
}

/** Enter and space press a point; the arrow keys go to the points beside it. */
function onKey(event, dots, index) {
  const beside = dots[index + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
  if (event.key === "Enter" || event.key === " ") dots[index].onclick();
  else if (beside) beside.focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

/** The running answers of several models, such as those of folds, by the patches visited: a line for each, and a legend. */
function membersChart(record) {
  const { label } = record.prediction;
  const members = (record.members ?? []).filter(({ rounds }) => rounds?.length && label in rounds[0].probabilities);
  if (!members.some(({ rounds }) => rounds.length > 1)) return null;
  const visited = members.flatMap((member) => member.rounds.map((round) => round.patches));
  const [least, most] = [Math.min(...visited), Math.max(...visited)];
  const chart = probabilityAxes(`The probability of ${label} after each round of ${members.length} models`, `${least} patches`, most);
  const legend = element("ul", { className: "legend" });
  members.forEach(({ name, rounds }, number) => {
    const points = rounds.map((round) => place((round.patches - least) / (most - least || 1), round.probabilities[label]));
    const dots = rounds.map((round, index) => dot(points[index], answerText(`${name}, round ${roundText(rounds, index)}`, label, round.probabilities)));
    const turn = Math.floor(number / DASHES.length);
    const dashes = { "stroke-dasharray": DASHES[number % DASHES.length], "stroke-opacity": 0.5 ** turn };
    chart.append(line(points, dashes), ...dots);
    const sample = svgElement("svg", { class: "chart", viewBox: "0 0 30 8", "aria-hidden": "true" }, line([[0, 4], [30, 4]], dashes));
    legend.append(element("li", {}, sample, answerText(name, label, rounds.at(-1).probabilities)));
  });
  return titled(`Probability of ${label} after each round, by model`, chart, legend);
}

function roundText(rounds, index) {
  return `${index}, ${rounds[index].patches} patches`;
}

function answerText(name, label, probabilities) {
  return `${name}: ${label} ${probabilities[label].toFixed(2)}`;
}

/** Return the coordinates of a point, from its share of the width of the chart and its probability. */
function place(share, probability) {
  return [EDGE + share * (WIDTH - EDGE - 4), 4 + (1 - probability) * (HEIGHT - EDGE - 4)];
}

/** Return a chart with lines at the probabilities 0, 0.5 and 1, and labels at both ends of the x axis. */
function probabilityAxes(title, first, last) {
  const chart = svg(title);
  for (const value of [0, 0.5, 1]) {
    const [, y] = place(0, value);
    chart.append(svgElement("line", { class: "rule", x1: EDGE, x2: WIDTH, y1: y, y2: y }));
    chart.append(svgElement("text", { x: EDGE - 3, y: y + 3, "text-anchor": "end" }, String(value)));
  }
  chart.append(svgElement("text", { x: EDGE, y: HEIGHT - 3 }, first));
  chart.append(svgElement("text", { x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, String(last)));
  return chart;
}

function line(points, dashes = {}) {
  return svgElement("polyline", { class: "line", points: points.map((point) => point.join(",")).join(" "), ...dashes });
}

function dot([cx, cy], text) {
  return svgElement("circle", { class: "dot", cx, cy, r: 3 }, svgElement("title", {}, text));
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

function titled(title, ...content) {
  return element("div", {}, element("h2", {}, title), ...content);
}
