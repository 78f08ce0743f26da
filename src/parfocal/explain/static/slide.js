// The page of one slide: one or two panes that show the slide, and the side panel.

import { charts, markInCharts } from "./charts.js";
import { scaleOf } from "./colors.js";
import { fetchJson, byId, element } from "./dom.js";
import { listenToKeys } from "./keys.js";
import { readLink, writeLink } from "./link.js";
import { Pane } from "./pane.js";
import { Player } from "./player.js";
import { Store } from "./store.js";
import { Tree } from "./tree.js";

const LINK_DELAY_MS = 250;

class Page {
  constructor(slide, link) {
    this.slide = slide;
    this.store = new Store({
      magnification: null, // of the attention shown; null for none
      opacity: link.opacity ?? 0.5,
      scale: link.scale === "percentile" ? "percentile" : "raw",
      path: link.path !== "0",
      lesions: link.lesions !== "0",
      order: link.order ?? null, // number of patches visited so far; null for all
      selected: link.region ?? null,
      hovered: null,
    });
    this.link = link;
  }

  async start() {
    this.#head();
    const { predictions } = this.slide;
    const chosen = predictions.find((each) => each.key === this.link.p) ?? predictions[0] ?? null;
    this.siblings = this.slide.siblings.filter((each) => each.of === chosen?.key); // other slides of the patient
    this.#besideOptions();
    this.main = this.#pane(chosen);
    await this.main.open();
    this.regions = this.main.regions;
    if (this.regions) this.#panel(chosen);
    else this.#plain();
    const beside = [...predictions, ...this.siblings].find((each) => each.key === this.link.beside);
    if (beside) await this.compare(beside);
    if (Number.isFinite(this.link.w)) this.main.zoom.setView({ x: this.link.x, y: this.link.y, width: this.link.w });
    this.store.listen((names) => this.#show(names));
    this.main.zoom.onMove(() => this.#remember());
    this.#show(new Set(Object.keys(this.store.values)));
    listenToKeys(this);
  }

  #pane(listed, slide = this.slide, store = this.store) {
    const pane = new Pane(slide, listed, store);
    byId("panes").append(pane.frame);
    return pane;
  }

  /** Show another prediction in a second pane; on the same slide, the two views move together. */
  async compare(listed) {
    this.second?.close();
    this.second = null;
    const whole = this.main.zoom.view().width >= this.slide.size[0];
    byId("beside").value = listed?.key ?? "";
    if (listed) {
      const second = (this.second = listed.slide ? await this.#otherSlide(listed) : this.#pane(listed));
      await second.open();
      if (this.second !== second) return; // another prediction was chosen meanwhile
      if (!listed.slide) {
        this.#link(this.main.zoom, second.zoom, second.life.signal);
        this.#link(second.zoom, this.main.zoom, second.life.signal);
      }
      if (whole) this.main.zoom.fit(); // the pane has become narrower
      if (!listed.slide) second.zoom.setView(this.main.zoom.view());
    }
    this.#remember();
  }

  /** Return a pane with another slide of the patient; patches are selected in each slide by itself. */
  async #otherSlide(listed) {
    const slide = await fetchJson(`api/slides/${encodeURIComponent(listed.slide)}`);
    const own = { order: null, selected: null, hovered: null };
    const store = new Store({ ...this.store.values, ...own });
    const pane = this.#pane(listed, slide, store);
    this.store.listen(() => store.set({ ...this.store.values, order: null, selected: store.get("selected"), hovered: store.get("hovered") }), pane.life.signal);
    return pane;
  }

  #link(one, other, signal) {
    one.onMove(() => {
      if (this.leading && this.leading !== one) return;
      this.leading = one; // prevents that each moves the other endlessly
      other.setView(one.view());
      this.leading = null;
    }, signal);
  }

  go(region) {
    this.store.set({ selected: region.id });
    this.main.zoom.fly(region);
  }

  #head() {
    const { slide } = this;
    document.title = `${slide.id} · parfocal`;
    byId("name").textContent = slide.id;
    byId("truth").textContent = slide.label === null ? "" : `labeled ${slide.label}`;
    const problem = slide.problem ?? slide.outlines_problem;
    byId("message").hidden = !problem;
    byId("message").textContent = problem ?? "";
    if (!globalThis.OpenSeadragon && !problem) {
      byId("message").hidden = false;
      byId("message").textContent =
        "The slide cannot be zoomed: OpenSeadragon could not be downloaded when parfocal was installed. Install parfocal again with access to the npm registry.";
    }
    byId("model").append(...this.#options());
    byId("model-label").hidden = slide.predictions.length < 2;
    byId("model").onchange = (event) => {
      location.hash = new URLSearchParams({ p: event.target.value });
      location.reload();
    };
  }

  /** Offer the predictions of other models, and the other slides of the patient. */
  #besideOptions() {
    const { predictions } = this.slide;
    const slides = this.siblings.map((each) => element("option", { value: each.key }, `slide ${each.id} of patient ${each.patient}`));
    byId("beside").append(element("option", { value: "" }, "no other model"), ...this.#options(), ...slides);
    byId("beside-label").hidden = predictions.length < 2 && !slides.length;
    byId("beside").onchange = (event) => this.compare([...predictions, ...this.siblings].find((each) => each.key === event.target.value));
  }

  #options() {
    return this.slide.predictions.map((each) => element("option", { value: each.key }, each.model));
  }

  /** Show only the slide, if it has no prediction. */
  #plain() {
    for (const section of document.querySelectorAll(".panel section")) section.hidden = section.id !== "prediction";
    byId("prediction").append(element("p", { className: "quiet" }, "There is no prediction for this slide."));
  }

  #panel(listed) {
    byId("model").value = listed.key;
    byId("prediction").append(...predictionSummary(this.main.record, this.slide.label, listed.bill), ...patientSummary(this.main.record));
    byId("lesions-label").hidden = this.slide.outlines.length === 0;
    this.#choices();
    byId("charts").append(...charts(this.main.record, this.regions, (region) => this.go(region)));
    byId("tree-title").textContent = this.regions.zoomed ? "Zoom path" : "Top patches";
    byId("tree-legend").textContent = this.regions.legend;
    byId("attention").hidden = !this.regions.hasAttention;
    this.tree = new Tree(byId("tree"), this.regions, {
      go: (region) => this.go(region),
      hover: (region) => this.store.set({ hovered: region?.id ?? null }),
    });
    this.player = new Player(this.store, this.regions, (region) => this.main.zoom.fly(region));
    for (const name of ["opacity", "scale"]) byId(name).oninput = (event) => this.store.set({ [name]: valueOf(event.target) });
    for (const name of ["path", "lesions"]) byId(name).onchange = (event) => this.store.set({ [name]: event.target.checked });
  }

  /** Offer the magnifications; the attention of at most one is shown, because they do not compare. */
  #choices() {
    const names = this.regions.hasAttention ? this.regions.names : [];
    const choices = [["", "none"], ...names.map((name) => [name, name])].map(([value, text]) => {
      const input = element("input", { type: "radio", name: "magnification", value });
      input.onchange = () => this.store.set({ magnification: value || null });
      return element("label", {}, input, text);
    });
    byId("steps").append(...choices);
    const linked = this.link.attention;
    this.store.set({ magnification: linked === "none" ? null : names.includes(linked) ? linked : (names.at(-1) ?? null) });
  }

  #show(names) {
    if (this.regions && !(names.size === 1 && names.has("hovered"))) {
      const { magnification, opacity, scale, path, lesions, selected } = this.store.values;
      for (const input of document.getElementsByName("magnification")) input.checked = input.value === (magnification ?? "");
      byId("opacity").value = opacity;
      byId("scale").value = scale;
      byId("path").checked = path;
      byId("lesions").checked = lesions;
      const step = this.regions.names.indexOf(magnification);
      byId("range").textContent = step < 0 ? "Attention is hidden." : scaleOf(this.regions.ofStep[step], scale).text;
      this.player.show();
      if (names.has("selected")) this.tree.mark(selected);
      if (names.has("selected")) markInCharts(byId("charts"), selected);
    }
    this.#remember();
  }

  /** Write the view to the address after it has come to rest. */
  #remember() {
    clearTimeout(this.waiting);
    document.body.dataset.kept = "no";
    this.waiting = setTimeout(() => {
      const { magnification, opacity, scale, path, lesions, order, selected } = this.store.values;
      const { x, y, width } = this.main.zoom.view();
      writeLink({
        p: this.main.listed?.key,
        beside: this.second?.listed.key,
        attention: magnification ?? "none",
        opacity,
        scale,
        path: path ? null : "0",
        lesions: lesions ? null : "0",
        order,
        region: selected,
        x,
        y,
        w: width,
      });
      document.body.dataset.kept = "yes";
    }, LINK_DELAY_MS);
  }
}

function valueOf(input) {
  return input.type === "range" ? Number(input.value) : input.value;
}

/** The predicted class, the probability of every class, and the bill. */
function predictionSummary(record, truth, bill) {
  const { label, probabilities, outputs } = record.prediction;
  const hasClasses = Object.keys(probabilities).length;
  const result = truth === null || !hasClasses ? "" : element("span", { className: truth === label ? "tag" : "tag wrong" }, truth === label ? "✓ correct" : "✗ wrong");
  const bars = Object.entries(probabilities)
    .sort((a, b) => b[1] - a[1])
    .map(([name, probability]) => {
      const meter = element("meter", { min: 0, max: 1, value: probability, ariaLabel: name });
      return element("li", { className: "measure" }, element("span", {}, name), meter, probability.toFixed(3) + spreadText(record, name));
    });
  const numbers = Object.entries(outputs ?? {})
    .map(([name, value]) => element("li", {}, `${name}: ${value.toPrecision(3)}${spreadText(record, name)}`));
  return [
    element("h2", { className: "predicted" }, label, " ", result),
    element("ul", { className: "bars" }, ...bars, ...numbers),
    ...decisionSummary(record),
    element("p", { className: "quiet" }, `${bill[0].toUpperCase()}${bill.slice(1)}. Stopped because: ${record.stop_reason}.`),
  ];
}

/** The standard deviation of a number over several models; empty for one model. */
function spreadText(record, name) {
  const spread = record.spread?.[name];
  return spread === undefined ? "" : ` ± ${spread.toPrecision(2)}`;
}

/** The threshold that decides the class, and the answers of several models. */
function decisionSummary(record) {
  const lines = [];
  if (record.threshold) {
    const { label, value, rule } = record.threshold;
    lines.push(element("p", { className: "quiet", id: "threshold" }, `${label} is predicted from a probability of ${value.toFixed(3)} (${rule}).`));
  }
  if (record.members) {
    const answers = record.members.map(({ name, probabilities, outputs, patches }) => {
      const [what, number] = Object.entries({ ...probabilities, ...outputs }).at(-1);
      const visited = patches.reduce((sum, count) => sum + count, 0);
      return element("li", {}, `${name}: ${what} ${number.toFixed(3)}, ${visited} patches`);
    });
    lines.push(element("p", { className: "quiet" }, `Mean of ${answers.length} models, with the standard deviation:`), element("ul", { id: "members" }, ...answers));
  }
  return lines;
}

/** The patient whose prediction this is, and the part of the attention on this slide. */
function patientSummary(record) {
  if (!record.patient) return [];
  const { id, slides, share } = record.patient;
  const text = `Predicted for patient ${id}, from ${slides.length} ${slides.length === 1 ? "slide" : "slides"}; ${(100 * share).toFixed(1)}% of the attention at the lowest magnification is on this one.`;
  return [element("p", { className: "quiet", id: "patient" }, text)];
}

const key = location.pathname.split("/").at(-1);
try {
  await new Page(await fetchJson(`api/slides/${encodeURIComponent(key)}`), readLink()).start();
  document.body.dataset.ready = "yes";
} catch (error) {
  byId("message").hidden = false;
  byId("message").textContent = `The slide could not be loaded: ${error.message}`;
  document.body.dataset.ready = "failed";
}
