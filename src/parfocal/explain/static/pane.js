// One slide with one prediction drawn over it; a card describes the patch under the pointer.

import { fetchJson, element, magnificationText } from "./dom.js";
import { Overlay } from "./overlay.js";
import { Regions, topClass } from "./regions.js";
import { showSlide } from "./zoom.js";

const MAX_BAR_PX = 140; // of the scale bar, in CSS pixels

export class Pane {
  constructor(slide, listed, store) {
    this.slide = slide;
    this.listed = listed;
    this.store = store;
    this.life = new AbortController(); // removes the listeners of this pane when it is closed
    this.title = element("p", { className: "pane-title" });
    this.view = element("div", { className: "deep", role: "application", ariaLabel: `Slide ${slide.id}` });
    this.heat = element("canvas", { className: "over heat", ariaHidden: "true" });
    this.lines = element("canvas", { className: "over", ariaHidden: "true" });
    this.bar = element("p", { className: "scale-bar" });
    this.card = element("p", { className: "card", hidden: true });
    this.frame = element("section", { className: "pane" }, this.title, this.view, this.bar, this.card);
  }

  /** Show the slide; the frame must already be on the page. */
  async open() {
    this.zoom = showSlide(this.view, this.slide, () => this.draw());
    this.zoom.surface.append(this.heat, this.lines);
    this.overlay = new Overlay(this.heat, this.lines, () => this.zoom.position());
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
    const path = `api/slides/${this.slide.key}/predictions/${this.listed.key}`;
    this.record = await fetchJson(path);
    this.regions = new Regions(this.record);
    this.overlay.regions = this.regions;
    const other = this.listed.slide ? `${this.slide.id} · ` : ""; // another slide of the patient
    this.title.textContent = `${other}${this.listed.model}: ${topClass(this.record.prediction.probabilities) || this.record.prediction.label}`;
  }

  draw() {
    if (!this.overlay || this.life.signal.aborted) return;
    const values = this.store.values;
    // Models differ in their magnifications; the selected one is shown if this model has it.
    const step = this.regions?.hasAttention ? this.regions.names.indexOf(values.magnification) : -1;
    this.overlay.draw({ ...values, step: step < 0 ? null : step, order: this.#order() });
    this.#scaleBar();
  }

  close() {
    this.life.abort();
    this.zoom.close();
    this.frame.remove();
  }

  /** Number of visited regions to show; the player counts those of the first pane. */
  #order() {
    return this.store.get("order") ?? Infinity;
  }

  #under(event) {
    const edge = this.lines.getBoundingClientRect();
    const state = { order: this.#order() };
    return this.regions ? this.overlay.hit(event.clientX - edge.left, event.clientY - edge.top, state) : null;
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
    const um = this.slide.mpp / this.zoom.position().scale; // per CSS pixel
    if (!Number.isFinite(um)) return;
    const power = 10 ** Math.floor(Math.log10(um * MAX_BAR_PX));
    const length = power * Math.max(...[1, 2, 5].filter((factor) => factor * power <= um * MAX_BAR_PX));
    this.bar.style.setProperty("--length", `${length / um}px`);
    this.bar.textContent = `${length >= 1000 ? `${length / 1000} mm` : `${length} µm`} · ${magnificationText(um)} on screen`;
  }
}
