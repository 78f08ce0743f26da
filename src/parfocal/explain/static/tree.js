// The zoom path as a tree: patches zoomed into, and within each what was found there.

import { element } from "./dom.js";

const FIRST_SHOWN = 8;

export class Tree {
  /**
   * @param root the list with role "tree".
   * @param regions of the prediction.
   * @param go is called with a region that was chosen.
   * @param hover is called with the region under the pointer, or null.
   */
  constructor(root, regions, { go, hover }) {
    this.root = root;
    this.regions = regions;
    this.go = go;
    this.hover = hover;
    root.onkeydown = (event) => this.#key(event);
    root.onpointerleave = () => hover(null);
    root.replaceChildren(...this.#items(null, 1));
    this.#reachable(root.querySelector("[role=treeitem]"));
  }

  /** Mark a region's item, if it is shown. */
  mark(id) {
    for (const item of this.root.querySelectorAll("[role=treeitem]")) {
      item.setAttribute("aria-selected", String(item.dataset.region === id && id !== null));
    }
    const item = this.#itemOf(id);
    item?.scrollIntoView({ block: "nearest" });
    if (item) this.#reachable(item);
  }

  #itemOf(id) {
    return [...this.root.querySelectorAll("[role=treeitem]")].find((each) => each.dataset.region === id);
  }

  /** Give the items within a region; all but the first few only when asked for. */
  #items(parent, level, from = 0) {
    const within = this.regions.within(parent);
    const important = within.filter((region) => region.selected).length;
    const until = from === 0 ? Math.max(important, parent === null && important ? 0 : FIRST_SHOWN) : within.length;
    const items = within.slice(from, until).map((region) => this.#item(region, level));
    const left = within.length - until;
    if (left > 0) items.push(this.#more(parent, level, until, left));
    return items;
  }

  #item(region, level) {
    const { regions } = this;
    const rank = element("span", { className: "rank" }, regions.rankText(region));
    const label = element("span", { className: region.selected ? "node chosen" : "node" }, regions.title(region), rank);
    const item = element("li", { role: "treeitem", tabIndex: -1, title: regions.describe(region) }, label);
    item.dataset.region = region.id;
    item.setAttribute("aria-level", level);
    item.setAttribute("aria-selected", "false");
    label.onclick = () => this.#choose(item, region);
    label.onpointerenter = () => this.hover(region);
    if (regions.children.has(region.id)) {
      item.append(element("ul", { role: "group" }, ...this.#items(region.id, level + 1)));
      item.setAttribute("aria-expanded", "true");
    }
    return item;
  }

  #more(parent, level, from, left) {
    const others = parent === null && this.regions.zoomed;
    const what = others ? "others, not zoomed into" : "more";
    const label = element("span", { className: "node more" }, `${left} ${what}`);
    const item = element("li", { role: "treeitem", tabIndex: -1 }, label);
    item.setAttribute("aria-level", level);
    item.setAttribute("aria-expanded", "false");
    label.onclick = () => {
      const items = this.#items(parent, level, from);
      item.replaceWith(...items);
      this.#focus(items[0]);
    };
    return item;
  }

  #choose(item, region) {
    this.#focus(item);
    this.go(region);
  }

  #reachable(item) {
    for (const other of this.root.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    if (item) item.tabIndex = 0;
  }

  #focus(item) {
    this.#reachable(item);
    item?.focus({ preventScroll: false });
  }

  #open(item, open) {
    if (item.hasAttribute("aria-expanded")) item.setAttribute("aria-expanded", String(open));
  }

  /** The keys of a tree, as screen readers expect them. */
  #key(event) {
    const item = event.target.closest("[role=treeitem]");
    const shown = [...this.root.querySelectorAll("[role=treeitem]")].filter((each) => each.checkVisibility());
    const place = shown.indexOf(item);
    const open = item.getAttribute("aria-expanded") === "true";
    const parent = item.parentElement.closest("[role=treeitem]");
    const moves = {
      ArrowDown: () => this.#focus(shown[place + 1] ?? item),
      ArrowUp: () => this.#focus(shown[place - 1] ?? item),
      ArrowRight: () => (open ? this.#focus(item.querySelector("[role=treeitem]")) : this.#open(item, true)),
      ArrowLeft: () => (open ? this.#open(item, false) : this.#focus(parent ?? item)),
      Home: () => this.#focus(shown[0]),
      End: () => this.#focus(shown.at(-1)),
      Enter: () => item.firstChild.click(),
      " ": () => item.firstChild.click(),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    moves[event.key]();
  }
}
