// @ts-check
// One connection: opened, used, and told of in the history.
import { meaningOf } from "../closing.js";
import { now } from "./history.js";
import { Unanswered } from "./unanswered.js";
import { printable } from "./words.js";

/** Times that are kept for the clock of a trace (`trace.js`). */
const TIMES = 1000;

/**
 * @typedef {import("./history.js").Entry} Entry
 * @typedef {"Connecting" | "Open" | "Closing" | "Closed"} State
 *
 * @typedef {object} Ended
 * @property {number} code
 * @property {string} reason
 * @property {boolean} wasClean
 */

export class Connection {
  /**
   * Opens it at once.
   *
   * @param {number} number from 1 on
   * @param {string} url
   * @param {string[]} subprotocols
   * @param {string | undefined} traceId of its trace, if its URL has one
   * @param {import("./history.js").History} history
   */
  constructor(number, url, subprotocols, traceId, history) {
    this.number = number;
    this.url = url;
    this.subprotocols = subprotocols;
    this.traceId = traceId;
    this.sent = 0;
    this.received = 0;
    /** When it was begun, and opened; as `Entry.time`. */
    this.began = now();
    /** @type {number | undefined} */
    this.opened = undefined;
    /** @type {Ended | undefined} */
    this.ended = undefined;
    /** Why it may end without a close frame by what this page does; else empty. */
    this.ownEnd = "";
    /** @type {number[]} of the first messages, in their order */
    this.sentTimes = [];
    /** @type {number[]} */
    this.receivedTimes = [];
    /** Is called when its state, or what it has agreed to, is another. */
    this.onChange = () => {};
    /** @type {(roundTrip: number, time: number) => void} in milliseconds; when the echo came */
    this.onRoundTrip = () => {};
    this._history = history;
    this._unanswered = new Unanswered();
    const socket = (this.socket = new WebSocket(url, subprotocols));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this._onOpen();
    socket.onmessage = (event) => this._onMessage(event.data);
    socket.onclose = (event) => this._onClose(event);
    this._say("connecting", `to ${url}`, url);
  }

  /** @returns {State} */
  get state() {
    return /** @type {State[]} */ (["Connecting", "Open", "Closing", "Closed"])[
      this.socket.readyState
    ];
  }

  /**
   * Send it, if it is open.
   *
   * @param {string | Uint8Array} data
   */
  send(data) {
    if (this.state !== "Open") return;
    // As a browser sends it: half a character becomes U+FFFD.
    if (typeof data === "string") data = data.replace(/\p{Cs}/gu, "\ufffd");
    const entry = this._entry("sent", data);
    this.socket.send(/** @type {string | Uint8Array<ArrayBuffer>} */ (data));
    this.sent += 1;
    if (this.sentTimes.length < TIMES) this.sentTimes.push(entry.time);
    this._unanswered.add(entry);
    this._history.add(entry);
  }

  /**
   * @param {number} [code]
   * @param {string} [reason] at most 123 bytes
   * @throws {DOMException} for what a browser does not send
   */
  close(code, reason) {
    const isOpen = this.state === "Open";
    this.socket.close(code, reason);
    this.ownEnd = isOpen
      ? "this page has closed it, and no answer to that came"
      : "this page has given it up before it was open";
    if (this.state === "Closing") {
      this._say(
        "closing",
        code === undefined ? "without a code" : `with ${code} ${reason ?? ""}`.trim(),
      );
    }
    this.onChange();
  }

  /** The page is left, with which a browser ends its connections. */
  leave() {
    this.ownEnd ||= "this page was left";
  }

  _onOpen() {
    this.opened = now();
    const { protocol, extensions } = this.socket;
    const took = (this.opened - this.began).toFixed(1);
    this._say(
      "open",
      `after ${took} ms; subprotocol: ${protocol || "none"}; extensions: ${extensions || "none"}`,
    );
    this.onChange();
  }

  /** @param {string | ArrayBuffer} received */
  _onMessage(received) {
    const entry = this._entry(
      "received",
      typeof received === "string" ? received : new Uint8Array(received),
    );
    this.received += 1;
    if (this.receivedTimes.length < TIMES) this.receivedTimes.push(entry.time);
    const sent = this._unanswered.take(entry);
    if (sent !== undefined) {
      sent.roundTrip = entry.roundTrip = entry.time - sent.time;
      this.onRoundTrip(entry.roundTrip, entry.time);
    }
    this._history.add(entry);
  }

  /** @param {CloseEvent} event */
  _onClose({ code, reason, wasClean }) {
    this.ended = { code, reason, wasClean };
    const how = wasClean ? "cleanly" : "not cleanly";
    const said = reason && `, ${printable(JSON.stringify(reason))}`;
    const { count, isAll } = this._unanswered;
    const most = isAll ? "" : "at least ";
    const lost = count ? `; ${most}${count.toLocaleString("en")} not answered` : "";
    this._unanswered.clear();
    this._say("close", `${code}${said}, ${how}: ${meaningOf(code)}${lost}`);
    this.onChange();
  }

  /**
   * @param {"sent" | "received"} from
   * @param {string | Uint8Array} data
   * @returns {Entry}
   */
  _entry(from, data) {
    const isText = typeof data === "string";
    return {
      time: now(),
      connection: this.number,
      from,
      type: isText ? "text" : "binary",
      data,
      size: isText ? utf8Length(data) : data.length,
    };
  }

  /**
   * @param {string} type
   * @param {string} data
   * @param {string} [url]
   */
  _say(type, data, url) {
    this._history.add({
      time: now(),
      connection: this.number,
      from: "status",
      type,
      data,
      size: 0,
      url,
    });
  }
}

/**
 * The bytes of a text in UTF-8. Counted: an encoder would make them.
 *
 * @param {string} text
 */
export function utf8Length(text) {
  let length = text.length;
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    // A surrogate is half of a character of four bytes; alone, it is sent as U+FFFD, of three.
    if (unit < 0x800) length += 1;
    else if (unit < 0xd800 || unit > 0xdfff) length += 2;
    else if (unit < 0xdc00 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
      length += 2;
      i += 1;
    } else length += 2;
  }
  return length;
}
