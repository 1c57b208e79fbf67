// @ts-check
// What was sent and has not come back yet.

/** Messages that may wait, and bytes; of more, nobody knows whether the oldest were answered. */
const MESSAGES = 100_000;
const BYTES = 16 << 20;

/** Messages that look alike which are compared: all of each. */
const COMPARED = 3;

/** What tells most messages apart: so much of their beginning, and of their end. */
const SAMPLE = 64;

/** @typedef {import("./history.js").Entry} Entry */

export class Unanswered {
  constructor() {
    /** @type {Set<Entry>} the oldest first */
    this._all = new Set();
    /** @type {Map<string, Set<Entry>>} those that look alike, the oldest first */
    this._alike = new Map();
    this._bytes = 0;
    /** Whether those are all. */
    this.isAll = true;
  }

  get count() {
    return this._all.size;
  }

  /** @param {Entry} sent */
  add(sent) {
    const key = keyOf(sent);
    const alike = this._alike.get(key);
    if (alike === undefined) this._alike.set(key, new Set([sent]));
    else alike.add(sent);
    this._all.add(sent);
    this._bytes += sent.size;
    while (this._all.size > MESSAGES || (this._bytes > BYTES && this._all.size > 1)) {
      const [oldest] = this._all;
      this._remove(oldest, keyOf(oldest));
      this.isAll = false;
    }
  }

  /**
   * Take out the one that this is the echo of: of several, the oldest.
   *
   * @param {Entry} received
   * @returns {Entry | undefined} undefined if it is the echo of none
   */
  take(received) {
    const key = keyOf(received);
    let compared = 0;
    for (const sent of this._alike.get(key) ?? []) {
      if (isSame(sent.data, received.data)) {
        this._remove(sent, key);
        return sent;
      }
      compared += 1;
      if (compared === COMPARED) break;
    }
    return undefined;
  }

  /** Nothing comes back any more. */
  clear() {
    this.isAll = true;
    this._bytes = 0;
    this._all.clear();
    this._alike.clear();
  }

  /**
   * @param {Entry} sent
   * @param {string} key
   */
  _remove(sent, key) {
    const alike = this._alike.get(key);
    alike?.delete(sent);
    if (alike?.size === 0) this._alike.delete(key);
    this._all.delete(sent);
    this._bytes -= sent.size;
  }
}

/** @param {Entry} entry */
function keyOf({ type, size, data }) {
  if (data.length <= 2 * SAMPLE) return `${type} ${data}`;
  return `${type} ${size} ${data.slice(0, SAMPLE)} ${data.slice(-SAMPLE)}`;
}

/**
 * @param {string | Uint8Array} a
 * @param {string | Uint8Array} b of the same kind and size
 */
function isSame(a, b) {
  if (typeof a === "string" || typeof b === "string") return a === b;
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return false;
  return true;
}
