// One slide with one prediction over it: what is under the pointer is told, a click goes there.

import { ask, element, magnified } from "./dom.js";
import { Overlay } from "./overlay.js";
import { Regions, answer } from "./regions.js";
import { showSlide } from "./zoom.js";

const LONGEST_BAR = 140; // CSS pixels

export class Pane {
  constructor(slide, listed, store) {
    this.slide = slide;
    this.listed = listed;
    this.store = store;
    this.life = new AbortController(); // what listens for this pane ends with it
    this.title = element("p", { className: "pane-title" });
    this.view = element("div", { className: "deep", role: "application", ariaLabel: `Slide ${slide.id}` });
    this.heat = element("canvas", { className: "over heat", ariaHidden: "true" });
    this.lines = element("canvas", { className: "over", ariaHidden: "true" });
    this.bar = element("p", { className: "scale-bar" });
    this.card = element("p", { className: "card", hidden: true });
    this.frame = element("section", { className: "pane" }, this.title, this.view, this.bar, this.card);
  }

  /** Begin to show; the frame must be on the page by now. */
  async open() {
    this.zoom = showSlide(this.view, this.slide, () => this.draw());
    this.zoom.surface.append(this.heat, this.lines);
    this.overlay = new Overlay(this.heat, this.lines, () => this.zoom.place());
    this.overlay.outlines = this.slide.outlines;
    this.frame.addEventListener("pointermove", (event) => this.#point(event));
    this.frame.addEventListener("pointerleave", () => this.store.set({ hovered: null }));
    this.view.addEventListener("click", (event) => this.#click(event));
    this.store.listen(() => this.draw(), this.life.signal);
    await this.zoom.ready;
    if (this.listed) await this.#load();
    this.draw();
  }

  async #load() {
    const url = `/api/slides/${this.slide.key}/predictions/${this.listed.key}`;
    this.record = await ask(url);
    this.regions = new Regions(this.record);
    this.overlay.regions = this.regions;
    this.title.textContent = `${this.listed.model}: ${answer(this.record.prediction.probabilities)}`;
  }

  draw() {
    if (!this.overlay || this.life.signal.aborted) return;
    const values = this.store.values;
    // Models may look at different magnifications: the same one is shown, where it was looked at.
    const step = this.regions?.weighed ? this.regions.names.indexOf(values.magnification) : -1;
    this.overlay.draw({ ...values, step: step < 0 ? null : step, order: this.#order() });
    this.#scaleBar();
  }

  close() {
    this.life.abort();
    this.zoom.close();
    this.frame.remove();
  }

  /** How many regions are shown: the player's count is of the first pane. */
  #order() {
    return this.store.get("order") ?? Infinity;
  }

  #under(event) {
    const edge = this.lines.getBoundingClientRect();
    const shown = { order: this.#order() };
    return this.regions ? this.overlay.hit(event.clientX - edge.left, event.clientY - edge.top, shown) : null;
  }

  #point(event) {
    const region = event.target.closest(".deep") ? this.#under(event) : null;
    this.store.set({ hovered: region?.id ?? null });
    this.card.hidden = region === null;
    if (region) this.card.textContent = this.regions.describe(region);
  }

  #click(event) {
    const region = this.#under(event);
    if (region) this.store.set({ selected: region.id });
  }

  #scaleBar() {
    const um = this.slide.mpp / this.zoom.place().scale; // per CSS pixel
    if (!Number.isFinite(um)) return;
    const power = 10 ** Math.floor(Math.log10(um * LONGEST_BAR));
    const length = power * Math.max(...[1, 2, 5].filter((part) => part * power <= um * LONGEST_BAR));
    this.bar.style.setProperty("--length", `${length / um}px`);
    this.bar.textContent = `${length >= 1000 ? `${length / 1000} mm` : `${length} µm`} · shown at ${magnified(um)}`;
  }
}
