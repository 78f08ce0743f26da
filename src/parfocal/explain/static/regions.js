// The regions of a prediction: ranks, parents, children, and a description of each.

import { scoreName } from "./colors.js";
import { formatNumber, magnificationText } from "./dom.js";

/** The regions of a prediction, of any model. */
export class Regions {
  constructor(record) {
    this.steps = record.steps;
    this.names = names(record.steps);
    this.all = record.regions;
    // Regions without an order were weighed on a thumbnail, but never visited.
    this.visited = this.all.filter((region) => region.order !== null).sort((a, b) => a.order - b.order);
    this.byId = new Map(this.all.map((region) => [region.id, region]));
    this.ofStep = record.steps.map((_, step) => this.all.filter((region) => region.step === step));
    this.sampled = this.all[0].score_kind === "sampling_probability";
    this.hasAttention = this.all.some(hasAttention); // if false, scores do not rank the regions
    this.widest = Math.max(...this.all.map((region) => region.width));
    this.zoomed = !this.sampled && this.all.some((region) => region.selected);
    this.children = Map.groupBy(this.all, (region) => region.parent ?? null);
    this.ranks = rank(this.ofStep, (region) => region.score);
    this.zoomRanks = rank(this.ofStep, (region) => region.zoom_attention ?? region.score);
  }

  /** The regions found by zooming into a region (null: those of the first step), most important first. */
  childrenOf(id) {
    const children = this.children.get(id) ?? [];
    return [...children].sort((a, b) => b.selected - a.selected || sortKey(b) - sortKey(a));
  }

  rankOf(region) {
    return this.ranks.get(region.id);
  }

  /** The rank to show: for a region that was zoomed into, its rank by zoom attention. */
  rankText(region) {
    if (!hasAttention(region)) return `${region.order + 1} of ${this.visited.length}`;
    if (this.sampled && region.order !== null) return `visited, #${this.rankOf(region)}`;
    const zoomed = region.selected && region.zoom_attention != null;
    return zoomed ? `zoom #${this.zoomRanks.get(region.id)}` : `#${this.rankOf(region)}`;
  }

  /** The explanation of the ranks in the tree. */
  get legend() {
    const [first] = this.all;
    if (!hasAttention(first)) return "3 of 9: third of nine patches in the order of visits.";
    const zoom = this.all.some((region) => region.selected && region.zoom_attention != null);
    const zoomRank = zoom ? "; zoom #2: second highest zoom attention, which selects the patches to zoom into" : "";
    return `#2: second highest ${scoreName(first)} at its magnification${zoomRank}.`;
  }

  /** The magnification of a region: that of its step, to which the resolution of a scan is only close. */
  magnification(region) {
    const step = this.steps[region.step];
    return region.mpp === step.mpp ? stepName(step) : magnificationText(region.mpp);
  }

  /** A short description of a region. */
  title(region) {
    const { probabilities, width } = region;
    const magnification = this.magnification(region);
    if (hasAttention(region)) return `${magnification} · ${scoreName(region)} ${formatNumber(region.score)}`;
    const zoom = `zoom factor ${formatNumber(this.widest / width)}`;
    return `${magnification} · ${probabilities ? topClass(probabilities) : zoom}`;
  }

  /** A full description: score, rank, and why the model did or did not visit and zoom into the region. */
  describe(region) {
    const peers = this.ofStep[region.step];
    const rank = hasAttention(region) ? `, rank ${this.rankOf(region)} of ${peers.length}` : "";
    const sentences = [`${this.title(region)}${rank}.`];
    const parent = this.byId.get(region.parent);
    if (parent) sentences.push(`Visited because the model zoomed into the ${this.magnification(parent)} patch around it.`);
    const selected = peers.filter((peer) => peer.selected).length;
    if (selected && hasAttention(region)) sentences.push(this.#choice(region, selected, peers.length));
    if (region.round != null) sentences.push(`Visited in round ${region.round}.`);
    const after = region.round == null ? "this patch" : "this round";
    if (region.probabilities) sentences.push(`Prediction after ${after}: ${topClass(region.probabilities)}.`);
    return sentences.join(" ");
  }

  #choice(region, selected, count) {
    if (this.sampled) return `${region.order === null ? "Not visited" : "Visited"}: ${selected} of ${count} patches were sampled by this probability.`;
    const action = region.selected ? "Zoomed into" : "Not zoomed into";
    if (region.zoom_attention == null) return `${action}: the model zoomed into ${selected} of ${count} patches.`;
    const rank = this.zoomRanks.get(region.id);
    return `${action}: zoom attention ${formatNumber(region.zoom_attention)}, rank ${rank} of ${count}; the model zooms into the top ${selected}.`;
  }
}

/** The name of a step: the magnification that was requested of the model, as in maps and reports. */
function stepName(step) {
  return `${Number(step.magnification.toPrecision(3))}x`;
}

/** Name steps by their magnification; add the number of the step where two have the same. */
function names(steps) {
  const plain = steps.map(stepName);
  return plain.map((name, index) => {
    const before = plain.slice(0, index).filter((other) => other === name).length;
    return before ? `${name}, step ${index + 1}` : name;
  });
}

/** Whether the score of a region is an attention or a sampling probability, so that it ranks regions. */
function hasAttention(region) {
  return region.score_kind === "attention" || region.score_kind === "sampling_probability";
}

/** The value by which regions of one parent are sorted. */
function sortKey(region) {
  if (!hasAttention(region)) return -region.order;
  return region.selected ? (region.zoom_attention ?? region.score) : region.score;
}

/** The most probable class with its probability. */
export function topClass(probabilities) {
  if (!Object.keys(probabilities).length) return "";
  const [label, probability] = Object.entries(probabilities).reduce((best, each) => (each[1] > best[1] ? each : best));
  const mark = /\d\S*$/.test(label) ? ":" : "";  // so that class 1 is not read as a number
  return `${label}${mark} ${probability.toFixed(2)}`;
}

function rank(ofStep, scoreOf) {
  const ranks = new Map();
  for (const regions of ofStep) {
    const sorted = [...regions].sort((a, b) => scoreOf(b) - scoreOf(a));
    sorted.forEach((region, index) => ranks.set(region.id, index + 1));
  }
  return ranks;
}
