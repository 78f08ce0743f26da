// The zoom path as a tree: under each patch the patches that were found by zooming into it.

import { element } from "./dom.js";

const FIRST_SHOWN = 8;

export class Tree {
  /**
   * @param root the list element with role "tree".
   * @param regions the regions of the prediction.
   * @param go called with a region that was clicked.
   * @param hover called with the region under the pointer, or null.
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

  /** Mark the item of a region, if it is in the tree. */
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

  /** Return the items for the children of a region; after the first few, one item that expands the rest. */
  #items(parent, level, from = 0) {
    const children = this.regions.childrenOf(parent);
    const selected = children.filter((region) => region.selected).length;
    const until = from === 0 ? Math.max(selected, parent === null && selected ? 0 : FIRST_SHOWN) : children.length;
    const items = children.slice(from, until).map((region) => this.#item(region, level));
    const remaining = children.length - until;
    if (remaining > 0) items.push(this.#more(parent, level, until, remaining));
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
    label.onclick = () => this.#select(item, region);
    label.onpointerenter = () => this.hover(region);
    if (regions.children.has(region.id)) {
      item.append(element("ul", { role: "group" }, ...this.#items(region.id, level + 1)));
      item.setAttribute("aria-expanded", "true");
    }
    return item;
  }

  #more(parent, level, from, remaining) {
    const notZoomed = parent === null && this.regions.zoomed;
    const description = notZoomed ? "others, not zoomed into" : "more";
    const label = element("span", { className: "node more" }, `${remaining} ${description}`);
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

  #select(item, region) {
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

  /** Handle the keys that the ARIA tree pattern defines. */
  #key(event) {
    const item = event.target.closest("[role=treeitem]");
    const visible = [...this.root.querySelectorAll("[role=treeitem]")].filter((each) => each.checkVisibility());
    const index = visible.indexOf(item);
    const open = item.getAttribute("aria-expanded") === "true";
    const parent = item.parentElement.closest("[role=treeitem]");
    const moves = {
      ArrowDown: () => this.#focus(visible[index + 1] ?? item),
      ArrowUp: () => this.#focus(visible[index - 1] ?? item),
      ArrowRight: () => (open ? this.#focus(item.querySelector("[role=treeitem]")) : this.#open(item, true)),
      ArrowLeft: () => (open ? this.#open(item, false) : this.#focus(parent ?? item)),
      Home: () => this.#focus(visible[0]),
      End: () => this.#focus(visible.at(-1)),
      Enter: () => item.firstChild.click(),
      " ": () => item.firstChild.click(),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    moves[event.key]();
  }
}
