// @ts-check
// What is odd about a connection, as far as the events of its trace prove it.
import { meaningOf } from "../closing.js";
import { endWords, milliseconds, payloadWords } from "./words.js";

/** @typedef {import("./trace.js").TraceEvent} TraceEvent */

/** Pings that are remembered, and findings that are kept. */
const MOST = 100;

const [CLOSE, PING, PONG] = [8, 9, 10];

/**
 * @typedef {object} Ping that the server has sent
 * @property {TraceEvent} event
 * @property {boolean} isAnswered
 */

export class Odd {
  constructor() {
    /** @type {string[]} */
    this.found = [];
    /** Findings beside these. */
    this.more = 0;
    /** @type {Ping[]} the last of them */
    this._pings = [];
    /** @type {Ping | undefined} the latest that was answered */
    this._latest = undefined;
    this._next = 0;
    this._gap = -1; // The number of the latest event before which others were left out.
    // Whether bytes have come that are no frame yet. At the end that is half of one, or what the
    // server did not look into any more.
    this._hasRest = false;
    this._isScripts = false; // Whether bytes were sent that may be any frame.
    this._is101 = false;
    this._hasResponse = false;
    /** @type {TraceEvent | undefined} */
    this._closeReceived = undefined;
    /** @type {TraceEvent | undefined} */
    this._closeSent = undefined;
    this._isOver = false;
  }

  /** Pings that wait for their answer, while the connection is there. */
  get open() {
    return this._isOver ? [] : this._unanswered.map(({ event }) => event);
  }

  /**
   * @param {TraceEvent} event
   * @returns {string} what is to be said of this event beside what it is; most often nothing
   */
  hear(event) {
    if (event.number !== this._next) {
      this._gap = event.number;
      this._pings = []; // Their answers may be among what is left out.
    }
    this._next = event.number + 1;
    if (event.type === "frameReceived") this._hasRest = false;
    if (event.type === "bytesSent") {
      this._isScripts = true;
    } else if (event.type === "read") {
      this._hasRest = true;
    } else if (event.type === "opened") {
      this._hasResponse = true;
      this._is101 = /^HTTP\/1\.\d 101\b/.test(event.head ?? "");
    } else if (event.type === "refused") {
      this._find(
        `${at(event)} the server refused what the client sent: ${event.code}, ${event.reason}`,
      );
    } else if (event.type === "frameSent" && event.opcode === PING) {
      this._pings.push({ event, isAnswered: false });
      if (this._pings.length > MOST) this._pings.shift();
    } else if (event.type === "frameReceived" && event.opcode === PONG) {
      return this._pong(event);
    } else if (event.opcode === CLOSE) {
      if (event.type === "frameReceived") this._closeReceived ??= event;
      else this._closeSent ??= event;
    }
    return "";
  }

  /**
   * The connection is gone.
   *
   * @param {{time: number, by: string, how: string}} ended
   * @param {{behavior: string, why: string} | null} verdict
   * @returns {TraceEvent[]} the pings that were not answered
   */
  end(ended, verdict) {
    this._isOver = true;
    if (verdict && ["FAILED", "NON-STRICT", "UNCLEAN"].includes(verdict.behavior)) {
      this._find(`The verdict is ${verdict.behavior}: ${verdict.why}`);
    }
    const unanswered = this._hasRest ? [] : this._unanswered;
    // If the server did, the client may have had no time to answer.
    const whose = ended.by === "server" ? ", which the server began" : "";
    for (const { event } of unanswered) {
      const ping = `The ping ${at(event, true)}, ${payloadWords(event)},`;
      const waited = milliseconds(ended.time - event.time);
      this._find(`${ping} was not answered in the ${waited} to the end${whose}`);
    }
    this._closing(ended);
    return unanswered.map(({ event }) => event);
  }

  /**
   * How the end that a client of this page has seen differs from the one that the server wrote.
   *
   * @param {import("./connection.js").Ended | undefined} seen
   * @returns {string[]}
   */
  compare(seen) {
    if (seen === undefined || this._closeSent === undefined) return [];
    const isReply =
      this._closeReceived !== undefined && this._closeReceived.number < this._closeSent.number;
    const code = this._closeSent.code ?? 1005;
    if (code === seen.code || isReply) return [];
    return [
      `The server closed with ${codeWords(this._closeSent)}, and this browser reports ${seen.code}`,
    ];
  }

  /** Whether all frames that the server has sent are known. */
  get _isWhole() {
    return this._gap === -1 && !this._isScripts;
  }

  /**
   * Those that should have been answered: whoever has answered a later one need not answer these
   * (RFC 6455, 5.5.3), nor one that came after a close (5.5.2).
   */
  get _unanswered() {
    const latest = this._latest?.event.number ?? -1;
    const [received, sent] = [this._closeReceived, this._closeSent].map(
      (close) => close?.number ?? Infinity,
    );
    const closed = Math.min(received, sent);
    return this._pings.filter(
      ({ event, isAnswered }) => !isAnswered && event.number > latest && event.number < closed,
    );
  }

  /** @param {TraceEvent} event */
  _pong(event) {
    /** @param {Ping} ping */
    const fits = ({ event: { length, data } }) => length === event.length && data === event.data;
    const open = this._pings.filter((ping) => !ping.isAnswered && fits(ping));
    // Of those that look the same, the first: whoever answers all of them answers that first.
    const ping = open.find((one) => one.event.number > this._number) ?? open[0];
    if (ping === undefined) return this._unsolicited(event, this._pings.findLast(fits));
    const after = milliseconds(event.time - ping.event.time);
    ping.isAnswered = true;
    if (ping.event.number < this._number) {
      const what = `answers an old ping, of ${after} before`;
      this._find(`The pong ${at(event, true)} ${what}: a later one was answered already`);
      return what;
    }
    this._latest = ping;
    return `answers the ping of ${after} before`;
  }

  /** The number of the latest ping that was answered. */
  get _number() {
    return this._latest?.event.number ?? -1;
  }

  /**
   * @param {TraceEvent} event
   * @param {Ping | undefined} before an answered ping with the same payload
   */
  _unsolicited(event, before) {
    if (!this._isWhole) return "answers none of the pings that are known here";
    const pong = `The pong ${at(event, true)}, ${payloadWords(event)},`;
    if (before !== undefined) {
      const after = milliseconds(event.time - before.event.time);
      const what = `answers the ping of ${after} before once more`;
      this._find(`${pong} ${what}`);
      return what;
    }
    const waits = this._unanswered[0]?.event;
    const differs = waits
      ? `; the ping ${at(waits, true)} has another payload: ${payloadWords(waits)}`
      : "";
    this._find(`${pong} answers no ping: unsolicited (RFC 6455, 5.5.3)${differs}`);
    return "answers no ping: unsolicited (RFC 6455, 5.5.3)";
  }

  /** @param {{by: string, how: string}} ended */
  _closing(ended) {
    const [received, sent] = [this._closeReceived, this._closeSent];
    if (!this._is101) {
      if (this._hasResponse) this._find("The response was no 101: there was no WebSocket");
      else this._find(`There was no response: ${endWords(ended)}`);
      return;
    }
    const code = received?.code ?? 1000;
    if (received && !(sent && sent.number < received.number) && code > 1001 && code < 3000) {
      this._find(`The client closed with ${code}: ${meaningOf(code)}`);
    }
    if (received && sent) {
      const [first, second] = received.number < sent.number ? [received, sent] : [sent, received];
      if (first.code !== second.code) {
        const [one, other] = first === sent ? ["server", "client"] : ["client", "server"];
        this._find(
          `The ${one} closed with ${codeWords(first)}, and the ${other} answered with ` +
            `${codeWords(second)}; most echo the code (RFC 6455, 5.5.1)`,
        );
      }
    } else if (sent) {
      if (this._gap > sent.number || this._hasRest) return;
      this._find(
        `The client did not answer the close frame with ${codeWords(sent)}: ${endWords(ended)}`,
      );
    } else if (!this._isWhole || this._hasRest) {
      // The script may have closed by bytes of its own, or the frame is one that is not known.
      if (ended.how === "close") return;
      this._find(`The end had no close frame that is known here: ${endWords(ended)}`);
    } else if (received) {
      const frame = `the close frame with ${codeWords(received)}`;
      this._find(`The server did not answer ${frame}: the client sees 1006`);
    } else {
      this._find(`The end had no close frame: ${endWords(ended)}; the client sees 1006`);
    }
  }

  /** @param {string} finding */
  _find(finding) {
    if (this.found.length < MOST) this.found.push(finding);
    else this.more += 1;
  }
}

/**
 * @param {TraceEvent} event
 * @param {boolean} [isWithin] a sentence
 */
const at = ({ time }, isWithin = false) => `${isWithin ? "at" : "At"} ${milliseconds(time)}`;

/** @param {TraceEvent} event */
const codeWords = ({ code }) => (typeof code === "number" ? String(code) : "no code");
