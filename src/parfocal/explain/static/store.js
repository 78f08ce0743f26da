// The state of the page, with listeners that are called on each change.

export class Store {
  #listeners = [];

  constructor(values) {
    this.values = values;
  }

  get(name) {
    return this.values[name];
  }

  /** Change values; listeners are called once, with the names of those that changed. */
  set(changes) {
    const changed = Object.keys(changes).filter((name) => this.values[name] !== changes[name]);
    Object.assign(this.values, changes);
    if (changed.length) for (const listener of this.#listeners) listener(new Set(changed));
  }

  /** Add a listener until the signal aborts. */
  listen(listener, signal) {
    this.#listeners.push(listener);
    signal?.addEventListener("abort", () => (this.#listeners = this.#listeners.filter((each) => each !== listener)));
  }
}
