// Keyboard shortcuts of the slide page, which a dialog lists.

import { byId, element } from "./dom.js";

/** Return the description and the action of each key. */
function keysOf(page) {
  const { store, player, regions } = page;
  const toggle = (name) => store.set({ [name]: !store.get(name) });
  const opacity = (by) => store.set({ opacity: Math.min(Math.max(store.get("opacity") + by, 0), 1) });
  const keys = {
    f: ["show the whole slide", () => page.main.zoom.fit()],
    "?": ["show this list", () => byId("keys").showModal()],
  };
  if (!regions) return keys;
  if (regions.hasAttention) regions.names.slice(0, 9).forEach((magnification, index) => {
    keys[index + 1] = [`show attention at ${magnification}`, () => store.set({ magnification })];
  });
  return {
    0: ["hide attention", () => store.set({ magnification: null })],
    ...keys,
    ",": ["previous patch", () => player.move(-1)],
    ".": ["next patch", () => player.move(1)],
    " ": ["play or stop", () => player.toggle()],
    "[": ["lower opacity", () => opacity(-0.1)],
    "]": ["higher opacity", () => opacity(0.1)],
    p: ["show or hide the zoom path", () => toggle("path")],
    l: ["show or hide outlines", () => toggle("lesions")],
    Escape: ["clear the selection", () => store.set({ selected: null })],
  };
}

/** Listen for keys, except where a control uses the key itself. */
export function listenToKeys(page) {
  const keys = keysOf(page);
  const entries = Object.entries(keys).flatMap(([key, [text]]) => [
    element("dt", {}, element("kbd", {}, key === " " ? "space" : key)),
    element("dd", {}, text),
  ]);
  byId("key-list").append(...entries);
  byId("help").onclick = () => byId("keys").showModal();
  document.addEventListener("keydown", (event) => {
    const controls = event.key === "Escape" ? "dialog" : "input, select, button, dialog, [role=tree]";
    if (event.target.closest(controls) || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key][1]();
  });
}
