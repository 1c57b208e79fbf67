// @ts-check
// All that has happened, in the order of its time, and as much of it as a tab can bear.

/**
 * @typedef {"sent" | "received" | "status" | "server"} From
 *   whose doing it is: of this page, of the other end, of the browser; or, of a trace, what the
 *   server saw
 *
 * @typedef {object} Entry
 * @property {number} time milliseconds since 1970, with fractions
 * @property {number} connection its number, from 1 on
 * @property {From} from
 * @property {string} type `text` and `binary` are messages; `open` and `close` are of the browser;
 *   of a trace, the type of the event, or for a frame such as `ping sent`
 * @property {string | Uint8Array} data the message; of anything else, a sentence
 * @property {number} size of a message, bytes on the wire before it is compressed
 * @property {number} [roundTrip] milliseconds from sending to the echo, on both of them
 * @property {string} [url] of the connection that this begins
 * @property {number} [serverTime] microseconds since accept, by the server's clock
 */

/** Of a flood of 100,000 echoes, which has twice as many, the last ones tell enough. */
export const ENTRIES = 100_000;

/** Of all messages together. A browser gives a tab some gigabytes. */
export const BYTES = 128 << 20;

/** Entries of one frame after which the next waits: nobody reads them, and keys come first. */
const FLOOD = 200;

/**
 * What a connection is called.
 *
 * @param {number} number from 1 on; from -1 down for one that another client has
 */
export const nameOf = (number) => (number > 0 ? `#${number}` : `watched ${-number}`);

/** What an entry takes without its message. */
const ENTRY = 200;

/** The time of now, in milliseconds since 1970, which never goes back. */
export const now = () => performance.timeOrigin + performance.now();

/** @param {Entry} entry */
const weightOf = ({ data }) => ENTRY + data.length * (typeof data === "string" ? 2 : 1);

export class History {
  constructor() {
    /** @type {Entry[]} in the order of their times */
    this.entries = [];
    /** Entries that were added and are forgotten, or cleared. */
    this.forgotten = 0;
    /** Grows whenever entries have changed in any way but by more at the end. */
    this.version = 0;
    /** @type {Map<number, string>} of all connections, by their numbers */
    this.urls = new Map();
    /** @type {Set<number>} connections that were open, by their numbers */
    this.opened = new Set();
    /** @type {Set<string>} of all entries */
    this.types = new Set();
    /** @type {Set<() => void>} called at most once a frame, after a change */
    this.listeners = new Set();
    this._bytes = 0;
    this._added = 0; // Since it was told before.
    this._isComing = false;
    // A tab that is hidden draws no frames, not even those that it has promised.
    document.addEventListener("visibilitychange", () => this._tell());
  }

  /** @param {Entry} entry */
  add(entry) {
    const { entries } = this;
    this._bytes += weightOf(entry);
    this._added += 1;
    this.types.add(entry.type);
    if (entry.url) this.urls.set(entry.connection, entry.url);
    if (entry.type === "open") this.opened.add(entry.connection);
    if (entries.length === 0 || entries[entries.length - 1].time <= entry.time) {
      entries.push(entry);
    } else {
      entries.splice(this._after(entry.time), 0, entry);
      this.version += 1;
    }
    if (entries.length > ENTRIES || this._bytes > BYTES) this._forget();
    this.changed();
  }

  /**
   * Give new times to some entries: the server's clock is known better.
   *
   * @param {(entry: Entry) => boolean} isMeant
   * @param {(entry: Entry) => number} timeOf
   */
  retime(isMeant, timeOf) {
    for (const entry of this.entries) if (isMeant(entry)) entry.time = timeOf(entry);
    this.entries.sort((a, b) => a.time - b.time);
    this.version += 1;
    this.changed();
  }

  clear() {
    this.forgotten += this.entries.length;
    this.entries = [];
    this._bytes = 0;
    this.version += 1;
    this.changed();
  }

  /** Tell the listeners with the next frame: a thousand messages may come between two. */
  changed() {
    if (this._isComing) return;
    this._isComing = true;
    if (document.hidden || this._added > FLOOD) setTimeout(() => this._tell(), 100);
    else requestAnimationFrame(() => this._tell());
    this._added = 0;
  }

  _tell() {
    if (!this._isComing) return;
    this._isComing = false;
    for (const listener of this.listeners) listener();
  }

  /** Forget the oldest: a tenth, since to take them from the front costs as much for each. */
  _forget() {
    let gone = this.entries.length > ENTRIES ? ENTRIES / 10 : 0;
    let bytes = this._bytes;
    for (let i = 0; i < gone; i += 1) bytes -= weightOf(this.entries[i]);
    while (bytes > BYTES && gone < this.entries.length - 1) {
      bytes -= weightOf(this.entries[gone]);
      gone += 1;
    }
    this.entries.splice(0, gone);
    this._bytes = bytes;
    this.forgotten += gone;
    this.version += 1;
  }

  /**
   * The index of the first entry that is later.
   *
   * @param {number} time
   */
  _after(time) {
    let low = 0;
    let high = this.entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.entries[middle].time <= time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
