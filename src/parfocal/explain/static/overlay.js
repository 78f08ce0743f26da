// Draw over the slide: the attention at one magnification, the zoom path and outlines of lesions.

import { scaleOf } from "./colors.js";

const ZOOMED = "#d55e00";
const MARKED = "#0072b2"; // selected or under the pointer
const VISITED = "rgb(30 30 40 / 35%)";
const SAMPLED = "rgb(30 30 40)";
const HALO = "rgb(255 255 255 / 85%)";

export class Overlay {
  /**
   * @param heat canvas over the slide, blended with it, for attention.
   * @param lines canvas above `heat`, for frames and outlines.
   * @param position returns { left, top, scale }: the position of the slide in the pane, in CSS pixels.
   */
  constructor(heat, lines, position) {
    this.canvases = [heat, lines];
    this.position = position;
    this.regions = null;
    this.outlines = [];
  }

  draw(state) {
    [this.brush, this.pen] = this.canvases.map(blank);
    this.at = this.position();
    if (this.regions) this.#regions(state, this.canvases[0].clientWidth, this.canvases[0].clientHeight);
    if (state.lesions) this.#outlines();
  }

  /** Return the smallest visible region at a point of the pane; null if there is none. */
  hit(x, y, state) {
    const at = this.position();
    const [px, py] = [(x - at.left) / at.scale, (y - at.top) / at.scale];
    const inside = this.regions.all.filter(
      (r) => this.#reached(r, state) && px >= r.x && px < r.x + r.width && py >= r.y && py < r.y + r.height,
    );
    return inside.reduce((best, r) => (best && best.width <= r.width ? best : r), null);
  }

  /** Whether a region is shown at the position of the player; regions never visited always are. */
  #reached(region, state) {
    return region.order === null || region.order < state.order;
  }

  #regions(state, width, height) {
    const onScreen = (r) => {
      const [x, y, w, h] = this.#box(r);
      return this.#reached(r, state) && x < width && y < height && x + w > 0 && y + h > 0;
    };
    if (state.step !== null) this.#attention(this.regions.ofStep[state.step], state, onScreen);
    if (state.path) {
      const visible = this.regions.visited.filter(onScreen);
      // Sampled patches are few and get a strong frame; on a grid, only patches zoomed into do.
      const [shade, thick] = this.regions.sampled ? [SAMPLED, 2] : [VISITED, 1];
      for (const region of visible) this.#frame(region, shade, thick, this.regions.sampled);
      for (const region of visible.filter((r) => r.selected && !this.regions.sampled)) this.#frame(region, ZOOMED, 2, true);
    }
    for (const id of [state.selected, state.hovered]) {
      const region = this.regions.byId.get(id);
      if (region) this.#frame(region, MARKED, 3, true);
    }
  }

  /** Fill the patches of one magnification, the highest score on top. */
  #attention(regions, state, onScreen) {
    const { colorOf } = scaleOf(regions, state.scale);
    this.brush.globalAlpha = state.opacity;
    for (const region of regions.filter(onScreen).sort((a, b) => a.score - b.score)) {
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

  /** Position and size of a region in the pane, at least 2 px so that it stays visible. */
  #box(region) {
    const { left, top, scale } = this.at;
    const [width, height] = [Math.max(region.width * scale, 2), Math.max(region.height * scale, 2)];
    return [left + region.x * scale, top + region.y * scale, width, height];
  }
}

/** Clear a canvas and set it to the screen's resolution; return a context that draws in CSS pixels. */
function blank(canvas) {
  const ratio = window.devicePixelRatio;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
}
