// The regions of a prediction: ranks, parents and children, and why each was looked at.

import { magnified, short } from "./dom.js";

/** Arrange a prediction's regions; nothing here depends on the method. */
export class Regions {
  constructor(record) {
    this.steps = record.steps;
    this.names = names(record.steps);
    this.all = record.regions;
    // Of some only a thumbnail was seen; they have a probability, but no order.
    this.looked = this.all.filter((region) => region.order !== null).sort((a, b) => a.order - b.order);
    this.byId = new Map(this.all.map((region) => [region.id, region]));
    this.ofStep = record.steps.map((_, step) => this.all.filter((region) => region.step === step));
    this.sampled = this.all[0].score_kind === "probability";
    this.weighed = this.all.some(isWeighed); // else squares only tell where was looked
    this.widest = Math.max(...this.all.map((region) => region.width));
    this.zoomed = !this.sampled && this.all.some((region) => region.selected);
    this.children = Map.groupBy(this.all, (region) => region.parent ?? null);
    this.ranks = rank(this.ofStep, (region) => region.score);
    this.zoomRanks = rank(this.ofStep, (region) => region.zoom_score ?? region.score);
  }

  /** What was found by zooming into a region (null: at first), the important ones first. */
  within(id) {
    const found = this.children.get(id) ?? [];
    return [...found].sort((a, b) => b.selected - a.selected || chosenBy(b) - chosenBy(a));
  }

  rankOf(region) {
    return this.ranks.get(region.id);
  }

  /** The rank that counts: of what was zoomed into, by the score that chose it, where it is known. */
  rankText(region) {
    if (!isWeighed(region)) return `${region.order + 1} of ${this.looked.length}`;
    if (this.sampled && region.order !== null) return `looked at, #${this.rankOf(region)}`;
    const zoomed = region.selected && region.zoom_score != null;
    return zoomed ? `zoom #${this.zoomRanks.get(region.id)}` : `#${this.rankOf(region)}`;
  }

  /** What the ranks say. */
  get legend() {
    const [first] = this.all;
    if (!isWeighed(first)) return "3 of 9: the third of nine that were read.";
    const zoom = this.all.some((region) => region.selected && region.zoom_score != null);
    const chosen = zoom ? "; zoom #2: the second by what chose where to zoom" : "";
    return `#2: the second by ${first.score_kind} at its magnification${chosen}.`;
  }

  /** A region in a few words. */
  title(region) {
    const { probabilities, width } = region;
    const told = isWeighed(region) ? `${region.score_kind} ${short(region.score)}` : `zoomed ${short(this.widest / width)}×`;
    const said = !isWeighed(region) && probabilities ? answer(probabilities) : told;
    return `${magnified(region.mpp)} · ${said}`;
  }

  /** Say what counted, and why the model did or did not go on from here. */
  describe(region) {
    const peers = this.ofStep[region.step];
    const rank = isWeighed(region) ? `, rank ${this.rankOf(region)} of ${peers.length}` : "";
    const said = [`${this.title(region)}${rank}.`];
    const parent = this.byId.get(region.parent);
    if (parent) said.push(`Seen because the ${magnified(parent.mpp)} patch around it was zoomed into.`);
    const chosen = peers.filter((peer) => peer.selected).length;
    if (chosen && isWeighed(region)) said.push(this.#choice(region, chosen, peers.length));
    if (region.probabilities) said.push(`Answer after it: ${answer(region.probabilities)}.`);
    return said.join(" ");
  }

  #choice(region, chosen, of) {
    if (this.sampled) return `${region.order === null ? "Not looked at" : "Looked at"}: drawn by chance, ${chosen} of ${of} were.`;
    const taken = region.selected ? "Zoomed into" : "Not zoomed into";
    if (region.zoom_score == null) return `${taken}: ${chosen} of ${of} were.`;
    const place = this.zoomRanks.get(region.id);
    return `${taken}: zoom attention ${short(region.zoom_score)}, rank ${place} of ${of}; the model takes ${chosen}.`;
  }
}

/** Name steps by their magnification; where two have the same, they are counted. */
function names(steps) {
  const plain = steps.map((step) => magnified(step.mpp));
  return plain.map((name, place) => {
    const before = plain.slice(0, place).filter((other) => other === name).length;
    return before ? `${name}, step ${place + 1}` : name;
  });
}

/** Whether a score tells how much a region counted; others lie on no grid, and are only read in turn. */
function isWeighed(region) {
  return region.score_kind === "attention" || region.score_kind === "probability";
}

/** The score that orders a region among its like. */
function chosenBy(region) {
  if (!isWeighed(region)) return -region.order;
  return region.selected ? (region.zoom_score ?? region.score) : region.score;
}

export function answer(probabilities) {
  const [label, chance] = Object.entries(probabilities).reduce((best, each) => (each[1] > best[1] ? each : best));
  return `${label} ${chance.toFixed(2)}`;
}

function rank(ofStep, scoreOf) {
  const ranks = new Map();
  for (const regions of ofStep) {
    const sorted = [...regions].sort((a, b) => scoreOf(b) - scoreOf(a));
    sorted.forEach((region, place) => ranks.set(region.id, place + 1));
  }
  return ranks;
}
