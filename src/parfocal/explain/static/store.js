// What the page shows at the moment; whoever shows it is told of each change.

export class Store {
  #listeners = [];

  constructor(values) {
    this.values = values;
  }

  get(name) {
    return this.values[name];
  }

  /** Change values; listeners are told once, of the names that really changed. */
  set(changes) {
    const changed = Object.keys(changes).filter((name) => this.values[name] !== changes[name]);
    Object.assign(this.values, changes);
    if (changed.length) for (const listener of this.#listeners) listener(new Set(changed));
  }

  /** Be told of changes, until the signal. */
  listen(listener, signal) {
    this.#listeners.push(listener);
    signal?.addEventListener("abort", () => (this.#listeners = this.#listeners.filter((each) => each !== listener)));
  }
}
