// Elements, texts and requests: the few things every part of the page needs.

/** Make an element: properties, then children (elements or texts). */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Make an SVG element. */
export function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Ask the server; what it refuses is an Error that carries its reason. */
export async function ask(url) {
  const response = await fetch(url);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

export const percent = (share) =>
  share === null ? "–" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;

/** Give a number with two digits that tell; the small ones all with a power of ten. */
export const short = (number) => {
  if (number !== 0 && Math.abs(number) < 1e-3) return number.toExponential(1);
  return Number(number.toPrecision(2)).toString();
};

export const magnified = (mpp) => `${Number((10 / mpp).toPrecision(3))}x`;
