// A view as the part of the address behind "#": it can be kept, or sent to a colleague.

const NUMBERS = ["x", "y", "w", "order", "opacity"];

/** Read what the address asks for; what is no number there is left out. */
export function readLink() {
  const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const name of NUMBERS) {
    if (!(name in asked)) continue;
    asked[name] = Number(asked[name]);
    if (!Number.isFinite(asked[name])) delete asked[name];
  }
  return asked;
}

/** Keep a view in the address, without a step in the browser's history. */
export function writeLink(values) {
  const told = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
  const rounded = told.map(([name, value]) => [name, typeof value === "number" ? Number(value.toFixed(2)) : value]);
  history.replaceState(null, "", `#${new URLSearchParams(rounded)}`);
}
