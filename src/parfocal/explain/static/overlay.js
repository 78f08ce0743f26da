// What is drawn over a slide: the attention of one magnification, the zoom path, lesions.

import { scaleOf } from "./colors.js";

const CHOSEN = "#d55e00";
const MARKED = "#0072b2";
const SEEN = "rgb(30 30 40 / 35%)";
const DRAWN = "rgb(30 30 40)";
const HALO = "rgb(255 255 255 / 85%)";

export class Overlay {
  /**
   * @param heat a canvas over the slide that darkens it, as a filter would.
   * @param lines a canvas over that.
   * @param place gives { left, top, scale }: where the slide lies on the pane, in CSS pixels.
   */
  constructor(heat, lines, place) {
    this.canvases = [heat, lines];
    this.place = place;
    this.regions = null;
    this.outlines = [];
  }

  draw(shown) {
    [this.brush, this.pen] = this.canvases.map(blank);
    this.at = this.place();
    if (this.regions) this.#regions(shown, this.canvases[0].clientWidth, this.canvases[0].clientHeight);
    if (shown.lesions) this.#outlines();
  }

  /** Find the smallest region at a point of the pane, of those shown. */
  hit(x, y, shown) {
    const at = this.place();
    const [px, py] = [(x - at.left) / at.scale, (y - at.top) / at.scale];
    const inside = this.regions.all.filter(
      (r) => this.#known(r, shown) && px >= r.x && px < r.x + r.width && py >= r.y && py < r.y + r.height,
    );
    return inside.reduce((best, r) => (best && best.width <= r.width ? best : r), null);
  }

  /** Whether a region was known when so many had been looked at: the rest of them from the start. */
  #known(region, shown) {
    return region.order === null || region.order < shown.order;
  }

  #regions(shown, width, height) {
    const seen = (r) => {
      const [x, y, w, h] = this.#box(r);
      return this.#known(r, shown) && x < width && y < height && x + w > 0 && y + h > 0;
    };
    if (shown.step !== null) this.#attention(this.regions.ofStep[shown.step], shown, seen);
    if (shown.path) {
      const visible = this.regions.looked.filter(seen);
      // The few that were drawn by chance stand out; of a grid, only what was zoomed into does.
      const [shade, thick] = this.regions.sampled ? [DRAWN, 2] : [SEEN, 1];
      for (const region of visible) this.#frame(region, shade, thick, this.regions.sampled);
      for (const region of visible.filter((r) => r.selected && !this.regions.sampled)) this.#frame(region, CHOSEN, 2, true);
    }
    for (const id of [shown.selected, shown.hovered]) {
      const region = this.regions.byId.get(id);
      if (region) this.#frame(region, MARKED, 3, true);
    }
  }

  /** Fill the squares of one magnification, the highest score on top. */
  #attention(regions, shown, seen) {
    const { colorOf } = scaleOf(regions, shown.scale);
    this.brush.globalAlpha = shown.opacity;
    for (const region of regions.filter(seen).sort((a, b) => a.score - b.score)) {
      this.brush.fillStyle = colorOf(region);
      this.brush.fillRect(...this.#box(region));
    }
  }

  #frame(region, color, width, halo) {
    const box = this.#box(region);
    if (halo) {
      this.pen.strokeStyle = HALO;
      this.pen.lineWidth = width + 2;
      this.pen.strokeRect(...box);
    }
    this.pen.strokeStyle = color;
    this.pen.lineWidth = width;
    this.pen.strokeRect(...box);
  }

  #outlines() {
    for (const [color, width] of [[HALO, 4], ["#111", 2]]) {
      this.pen.strokeStyle = color;
      this.pen.lineWidth = width;
      this.pen.setLineDash(width === 2 ? [6, 4] : []);
      for (const ring of this.outlines.flat()) {
        this.pen.beginPath();
        for (const [x, y] of ring) this.pen.lineTo(this.at.left + x * this.at.scale, this.at.top + y * this.at.scale);
        this.pen.closePath();
        this.pen.stroke();
      }
    }
    this.pen.setLineDash([]);
  }

  /** Where a region lies on the pane; a tiny one is still seen. */
  #box(region) {
    const { left, top, scale } = this.at;
    const [width, height] = [Math.max(region.width * scale, 2), Math.max(region.height * scale, 2)];
    return [left + region.x * scale, top + region.y * scale, width, height];
  }
}

/** Make a canvas as fine as the screen, and empty; gives what draws on it in CSS pixels. */
function blank(canvas) {
  const ratio = window.devicePixelRatio;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
}
