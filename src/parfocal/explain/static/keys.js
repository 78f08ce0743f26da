// The keys of a slide's page; the dialog lists them.

import { byId, element } from "./dom.js";

/** Give what each key does, with the words for it. */
function keysOf(page) {
  const { store, player, regions } = page;
  const toggle = (name) => store.set({ [name]: !store.get(name) });
  const opacity = (by) => store.set({ opacity: Math.min(Math.max(store.get("opacity") + by, 0), 1) });
  const keys = {
    f: ["the whole slide", () => page.main.zoom.fit()],
    "?": ["this list", () => byId("keys").showModal()],
  };
  if (!regions) return keys;
  if (regions.weighed) regions.names.slice(0, 9).forEach((magnification, place) => {
    keys[place + 1] = [`attention at ${magnification}`, () => store.set({ magnification })];
  });
  return {
    0: ["no attention", () => store.set({ magnification: null })],
    ...keys,
    ",": ["one patch back", () => player.move(-1)],
    ".": ["one patch on", () => player.move(1)],
    " ": ["play, stop", () => player.toggle()],
    "[": ["fainter", () => opacity(-0.1)],
    "]": ["stronger", () => opacity(0.1)],
    p: ["zoom path on, off", () => toggle("path")],
    l: ["outlines on, off", () => toggle("lesions")],
    Escape: ["select nothing", () => store.set({ selected: null })],
  };
}

/** Listen, wherever no control has a use of its own for the key. */
export function listenToKeys(page) {
  const keys = keysOf(page);
  const words = Object.entries(keys).flatMap(([key, [text]]) => [
    element("dt", {}, element("kbd", {}, key === " " ? "space" : key)),
    element("dd", {}, text),
  ]);
  byId("key-list").append(...words);
  byId("help").onclick = () => byId("keys").showModal();
  document.addEventListener("keydown", (event) => {
    const controls = event.key === "Escape" ? "dialog" : "input, select, button, dialog, [role=tree]";
    if (event.target.closest(controls) || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key][1]();
  });
}
