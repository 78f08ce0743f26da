// Show the slide: with OpenSeadragon, or as one picture if OpenSeadragon is not installed.

import { urlOf } from "./dom.js";

const FLY_FACTOR = 2.5; // width of the view after flying to a region, in widths of the region

/** Show a slide in an element; return an object with its position and methods to move the view. */
export function showSlide(container, slide, changed) {
  return globalThis.OpenSeadragon ? new DeepZoom(container, slide, changed) : new StaticImage(container, slide, changed);
}

class DeepZoom {
  constructor(container, slide, changed) {
    this.slide = slide;
    const { size, levels } = slide.tiles;
    const needed = Math.ceil(Math.log2(Math.max(...slide.size) / size));
    this.osd = OpenSeadragon({
      element: container,
      tileSources: {
        width: slide.size[0],
        height: slide.size[1],
        tileSize: size,
        minLevel: Math.max(0, levels - 1 - needed),
        maxLevel: levels - 1,
        getTileUrl: (level, column, row) => urlOf(`tiles/${slide.key}/${level}/${column}/${row}`),
      },
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "BOTTOM_RIGHT",
      navigatorAutoFade: false,
      navigatorWidth: "9rem",
      navigatorHeight: "7rem",
      animationTime: 0.4,
      maxZoomPixelRatio: 4,
      visibilityRatio: 0.3,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      drawer: "canvas",
      crossOriginPolicy: false,
    });
    this.surface = this.osd.canvas; // elements appended to it stay below the navigator
    this.ready = new Promise((resolve) => this.osd.addOnceHandler("open", resolve));
    this.ready.then(() => {
      const busy = (event) => (container.ariaBusy = String(!event.fullyLoaded));
      this.osd.world.getItemAt(0).addHandler("fully-loaded-change", busy);
    });
    container.ariaBusy = "true";
    this.osd.addHandler("update-viewport", () => changed());
    this.osd.addHandler("resize", () => changed());
  }

  position() {
    const image = this.osd.world.getItemAt(0);
    if (!image) return { left: 0, top: 0, scale: 0 };
    const corner = image.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const other = image.imageToViewerElementCoordinates(new OpenSeadragon.Point(this.slide.size[0], 0));
    return { left: corner.x, top: corner.y, scale: (other.x - corner.x) / this.slide.size[0] };
  }

  /** Center and width of the view, in level-0 pixels. */
  view() {
    const bounds = this.osd.viewport.viewportToImageRectangle(this.osd.viewport.getBounds());
    return { x: bounds.x + bounds.width / 2, y: bounds.y + bounds.height / 2, width: bounds.width };
  }

  setView({ x, y, width }, immediately = true) {
    const height = (width * this.osd.container.clientHeight) / this.osd.container.clientWidth;
    const box = new OpenSeadragon.Rect(x - width / 2, y - height / 2, width, height);
    this.osd.viewport.fitBounds(this.osd.viewport.imageToViewportRectangle(box), immediately);
  }

  fly({ x, y, width, height }) {
    this.setView({ x: x + width / 2, y: y + height / 2, width: Math.max(width, height) * FLY_FACTOR }, false);
  }

  fit() {
    this.osd.viewport.goHome(true);
  }

  /** Call `moved` on every move, until the signal aborts. */
  onMove(moved, signal) {
    const listener = () => moved();
    for (const event of ["zoom", "pan", "animation-finish"]) {
      this.osd.addHandler(event, listener);
      signal?.addEventListener("abort", () => this.osd.removeHandler(event, listener));
    }
  }

  close() {
    this.osd.destroy();
  }
}

class StaticImage {
  constructor(container, slide, changed) {
    this.slide = slide;
    this.surface = this.container = container;
    this.picture = document.createElement("img");
    this.picture.src = urlOf(`thumbnails/${slide.key}`);
    this.picture.alt = "";
    this.picture.className = "still";
    container.append(this.picture);
    this.ready = Promise.resolve();
    new ResizeObserver(() => changed()).observe(container);
  }

  position() {
    const [width, height] = this.slide.size;
    const [paneWidth, paneHeight] = [this.container.clientWidth, this.container.clientHeight];
    const scale = Math.min(paneWidth / width, paneHeight / height);
    return { left: (paneWidth - width * scale) / 2, top: (paneHeight - height * scale) / 2, scale };
  }

  view() {
    return { x: this.slide.size[0] / 2, y: this.slide.size[1] / 2, width: this.slide.size[0] };
  }

  setView() {}

  fly() {}

  fit() {}

  onMove() {}

  close() {
    this.container.replaceChildren();
  }
}
