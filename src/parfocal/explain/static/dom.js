// Create elements, format texts and send requests.

/** Create an element from its properties and its children (elements or texts). */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in created) created[name] = value;
    else created.setAttribute(name, value);
  }
  created.append(...children);
  return created;
}

/** Create an SVG element. */
export function svgElement(tag, attributes = {}, ...children) {
  const created = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  created.append(...children);
  return created;
}

export const byId = (id) => document.getElementById(id);

// This file is at ROOT/static/dom.js, and ROOT may be a path of a proxy.
const root = new URL("../", import.meta.url);

/** Return the URL of a path on the server. */
export const urlOf = (path) => new URL(path, root).href;

/** Return the JSON at a path; throw an Error with the server's message if there is none. */
export async function fetchJson(path) {
  const response = await fetch(urlOf(path));
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

export const percent = (share) =>
  share === null ? "–" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;

/** Format a number with two significant digits; below 0.001 with a power of ten. */
export const formatNumber = (number) => {
  if (number !== 0 && Math.abs(number) < 1e-3) return number.toExponential(1);
  return Number(number.toPrecision(2)).toString();
};

export const magnificationText = (mpp) => `${Number((10 / mpp).toPrecision(3))}x`;
