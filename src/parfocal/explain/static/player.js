// Step through the patches in the order in which the model visited them.

import { byId } from "./dom.js";

const INTERVAL_MS = 500;

export class Player {
  /** @param go called with the region that was reached. */
  constructor(store, regions, go) {
    this.store = store;
    this.regions = regions;
    this.go = go;
    this.count = regions.visited.length;
    byId("order").max = this.count;
    byId("order").oninput = (event) => this.set(Number(event.target.value));
    byId("first").onclick = () => this.set(0);
    byId("back").onclick = () => this.move(-1);
    byId("next").onclick = () => this.move(1);
    byId("last").onclick = () => this.set(this.count);
    byId("play").onclick = () => this.toggle();
    this.show();
  }

  /** Number of patches visited so far. */
  get position() {
    return Math.min(this.store.get("order") ?? this.count, this.count);
  }

  move(by) {
    this.set(this.position + by);
  }

  set(position) {
    const order = Math.min(Math.max(position, 0), this.count);
    const region = order > 0 && order < this.count ? this.regions.visited[order - 1] : null;
    this.store.set({ order: order === this.count ? null : order, selected: region?.id ?? null });
    if (region && byId("follow").checked) this.go(region);
  }

  toggle() {
    if (this.timer) return this.stop();
    if (this.position === this.count) this.set(0);
    byId("play").setAttribute("aria-pressed", "true");
    byId("play").textContent = "Stop";
    this.timer = setInterval(() => (this.position < this.count ? this.move(1) : this.stop()), INTERVAL_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    byId("play").setAttribute("aria-pressed", "false");
    byId("play").textContent = "Play";
  }

  show() {
    byId("order").value = this.position;
    const region = this.regions.visited[this.position - 1];
    const count = `Patch ${this.position} of ${this.count}`;
    if (this.position === this.count) byId("now").textContent = `All ${this.count} patches visited.`;
    else byId("now").textContent = region ? `${count}: ${this.regions.describe(region)}` : "No patch visited yet.";
  }
}
