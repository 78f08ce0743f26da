// Steps through the order in which patches were looked at.

import { byId } from "./dom.js";

const BEAT_MS = 500;

export class Player {
  /** @param go is called with the region reached. */
  constructor(store, regions, go) {
    this.store = store;
    this.regions = regions;
    this.go = go;
    this.count = regions.looked.length;
    byId("order").max = this.count;
    byId("order").oninput = (event) => this.set(Number(event.target.value));
    byId("first").onclick = () => this.set(0);
    byId("back").onclick = () => this.move(-1);
    byId("next").onclick = () => this.move(1);
    byId("last").onclick = () => this.set(this.count);
    byId("play").onclick = () => this.toggle();
    this.show();
  }

  /** How many have been looked at so far. */
  get position() {
    return Math.min(this.store.get("order") ?? this.count, this.count);
  }

  move(by) {
    this.set(this.position + by);
  }

  set(position) {
    const at = Math.min(Math.max(position, 0), this.count);
    const region = at > 0 && at < this.count ? this.regions.looked[at - 1] : null;
    this.store.set({ order: at === this.count ? null : at, selected: region?.id ?? null });
    if (region && byId("follow").checked) this.go(region);
  }

  toggle() {
    if (this.timer) return this.stop();
    if (this.position === this.count) this.set(0);
    byId("play").setAttribute("aria-pressed", "true");
    byId("play").textContent = "Stop";
    this.timer = setInterval(() => (this.position < this.count ? this.move(1) : this.stop()), BEAT_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    byId("play").setAttribute("aria-pressed", "false");
    byId("play").textContent = "Play";
  }

  show() {
    byId("order").value = this.position;
    const region = this.regions.looked[this.position - 1];
    const where = `Patch ${this.position} of ${this.count}`;
    if (this.position === this.count) byId("now").textContent = `All ${this.count} patches looked at.`;
    else byId("now").textContent = region ? `${where}: ${this.regions.describe(region)}` : "Nothing looked at yet.";
  }
}
