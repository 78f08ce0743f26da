// Attention as a color: pale to dark evenly, so that it reads the same to the color-blind.

import { short } from "./dom.js";

const SCALE = [[255, 247, 188], [161, 214, 171], [44, 150, 170], [38, 82, 150], [44, 32, 104]];
const STANDS_OUT = 4;

/** Give the color of 0, pale, to 1, dark. */
export function color(value) {
  const place = Math.min(Math.max(value, 0), 1) * (SCALE.length - 1);
  const below = Math.min(Math.floor(place), SCALE.length - 2);
  const mixed = SCALE[below].map((low, i) => Math.round(low + (SCALE[below + 1][i] - low) * (place - below)));
  return `rgb(${mixed.join(" ")})`;
}

/** Give the colors of the regions of one magnification, and what the scale says. */
export function scaleOf(regions, kind) {
  const scores = regions.map((region) => region.score).sort((a, b) => a - b);
  const word = regions[0]?.score_kind ?? "attention";
  if (kind === "percentile") {
    const share = (region) => (scores.length < 2 ? 1 : below(scores, region.score) / (scores.length - 1));
    return { colorOf: (region) => color(share(region)), text: `percentile of ${word} among ${scores.length}: 0 to 100` };
  }
  const [least, most] = [scores[0] ?? 0, scores.at(-1) ?? 0];
  const even = scores.reduce((sum, score) => sum + score, 0) / scores.length;
  // Dark is no less than four times even attention: what counts nearly alike looks alike.
  const [low, high] = [Math.min(0, least), Math.max(most, Math.min(1, STANDS_OUT * even))];
  const text = `${word}, raw: ${short(low)} to ${short(high)} (found ${short(least)} to ${short(most)}; evenly ${short(even)})`;
  return { colorOf: (region) => color((region.score - low) / (high - low)), text };
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
