// Colors of scores: lightness falls evenly, so that they read the same in gray and with color blindness.

import { formatNumber } from "./dom.js";

const SCALE = [[255, 247, 188], [161, 214, 171], [44, 150, 170], [38, 82, 150], [44, 32, 104]];
const SCALE_MULTIPLE = 4; // the scale reaches at least this multiple of uniform attention

/** Return the color of a value between 0 (pale) and 1 (dark). */
export function color(value) {
  const position = Math.min(Math.max(value, 0), 1) * (SCALE.length - 1);
  const below = Math.min(Math.floor(position), SCALE.length - 2);
  const mixed = SCALE[below].map((low, i) => Math.round(low + (SCALE[below + 1][i] - low) * (position - below)));
  return `rgb(${mixed.join(" ")})`;
}

/** Return the color of each region of one magnification, and a text that describes the scale. */
export function scaleOf(regions, kind) {
  const scores = regions.map((region) => region.score).sort((a, b) => a - b);
  const name = scoreName(regions[0]);
  if (kind === "percentile") {
    const share = (region) => (scores.length < 2 ? 1 : below(scores, region.score) / (scores.length - 1));
    return { colorOf: (region) => color(share(region)), text: `percentile of ${name} among ${scores.length} patches: 0 to 100` };
  }
  const [least, most] = [scores[0] ?? 0, scores.at(-1) ?? 0];
  const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
  // The scale is never so narrow that nearly equal scores get different colors.
  const [low, high] = [Math.min(0, least), Math.max(most, Math.min(1, SCALE_MULTIPLE * mean))];
  const text = `${name}, raw: ${formatNumber(low)} to ${formatNumber(high)} (values ${formatNumber(least)} to ${formatNumber(most)}; uniform would be ${formatNumber(mean)})`;
  return { colorOf: (region) => color((region.score - low) / (high - low)), text };
}

/** Return the name of a region's score. */
export function scoreName(region) {
  return (region?.score_kind ?? "attention").replace("_", " ");
}

/** Count the sorted scores that are lower. */
function below(scores, score) {
  let [low, high] = [0, scores.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] < score) low = middle + 1;
    else high = middle;
  }
  return low;
}
