// The state of a view in the part of the address after "#", as a link to keep or to send.

const NUMBERS = ["x", "y", "w", "order", "opacity"];

/** Read the state from the address; values that should be numbers but are not are ignored. */
export function readLink() {
  const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const name of NUMBERS) {
    if (!(name in state)) continue;
    state[name] = Number(state[name]);
    if (!Number.isFinite(state[name])) delete state[name];
  }
  return state;
}

/** Write the state to the address, without an entry in the browser's history. */
export function writeLink(values) {
  const set = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
  const rounded = set.map(([name, value]) => [name, typeof value === "number" ? Number(value.toFixed(2)) : value]);
  history.replaceState(null, "", `#${new URLSearchParams(rounded)}`);
}
