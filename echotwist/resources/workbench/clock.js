// @ts-check
// The clock of the server beside that of this page: when, by ours, a time of a trace was.
//
// What the browser sent cannot have been seen before, and what it received cannot have been written
// after. Each such pair narrows what the offset can be, and any offset that is left keeps all of
// them in order. Half a round trip would not: the two ways do not take the same time.

/** Messages of each direction that are paired; `Connection` keeps the times of as many. */
const PAIRED = 1000;

export class Clock {
  /** @param {string} accepted by the server's clock: 0 of all its times */
  constructor(accepted) {
    // Date.parse knows no microseconds.
    this._accepted =
      Date.parse(`${accepted.slice(0, 23)}Z`) + Number(accepted.slice(23, 26)) / 1000;
    this._least = -Infinity;
    this._most = Infinity;
    /** @type {number | undefined} */
    this._requested = undefined;
    /** @type {number | undefined} */
    this._opened = undefined;
    /** Times of the first frames of messages, as the server saw or wrote them.
     * @type {number[]} */
    this._seen = [];
    /** @type {number[]} */
    this._written = [];
    this._pairedSent = 0;
    this._pairedReceived = 0;
    this._next = 0;
    this._isWhole = true;
    this._isScripts = false;
  }

  /**
   * Whether both ends of the offset are known. If not, the server's own clock is believed, as far
   * as nothing speaks against it.
   */
  get isCompared() {
    return this._least > -Infinity && this._most < Infinity;
  }

  /** 0 of the server's times, in milliseconds since 1970 by the clock of this page. */
  get offset() {
    if (this.isCompared) return (this._least + this._most) / 2;
    return Math.min(Math.max(this._accepted, this._least), this._most);
  }

  /** Milliseconds by which the offset may be wrong. */
  get uncertainty() {
    return (this._most - this._least) / 2;
  }

  /** Milliseconds by which the server's clock is ahead of this page's. */
  get ahead() {
    return this._accepted - this.offset;
  }

  /** @param {number} time of the server, in microseconds */
  at(time) {
    return this.offset + time / 1000;
  }

  /**
   * An event of the trace, which has come at this time.
   *
   * @param {import("./trace.js").TraceEvent} event
   * @param {number} came
   */
  hear(event, came) {
    const { number, type, time } = event;
    this._notAfter(came, time);
    // Behind a gap nobody knows how many messages there were.
    if (number !== this._next) this._isWhole = false;
    this._next = number + 1;
    if (type === "requested") this._requested = time;
    if (type === "opened") this._opened = time;
    if (type === "bytesSent") this._isScripts = true; // There may be messages in them.
    if (!this._isWhole || (event.opcode !== 1 && event.opcode !== 2)) return;
    if (type === "frameReceived" && this._seen.length < PAIRED) this._seen.push(time);
    if (type === "frameSent" && !this._isScripts && this._written.length < PAIRED) {
      this._written.push(time);
    }
  }

  /**
   * Compare with what the connection itself has seen, now or before.
   *
   * @param {import("./connection.js").Connection} connection
   */
  compare(connection) {
    if (this._requested !== undefined) this._notBefore(connection.began, this._requested);
    if (this._opened !== undefined && connection.opened !== undefined) {
      this._notAfter(connection.opened, this._opened);
    }
    const { sentTimes, receivedTimes } = connection;
    const sent = Math.min(this._seen.length, sentTimes.length);
    for (; this._pairedSent < sent; this._pairedSent += 1) {
      this._notBefore(sentTimes[this._pairedSent], this._seen[this._pairedSent]);
    }
    const received = Math.min(this._written.length, receivedTimes.length);
    for (; this._pairedReceived < received; this._pairedReceived += 1) {
      this._notAfter(receivedTimes[this._pairedReceived], this._written[this._pairedReceived]);
    }
  }

  // One that contradicts what is known already is of a clock that was set, or of messages that were
  // not those: it says nothing.

  /**
   * @param {number} local
   * @param {number} time
   */
  _notBefore(local, time) {
    const least = local - time / 1000;
    if (least <= this._most) this._least = Math.max(this._least, least);
  }

  /**
   * @param {number} local
   * @param {number} time
   */
  _notAfter(local, time) {
    const most = local - time / 1000;
    if (most >= this._least) this._most = Math.min(this._most, most);
  }
}
