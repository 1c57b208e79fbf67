// @ts-check
// The WebSockets of a probe, whose messages and end can be waited for. `connection.js` tells of all
// that happens in the timeline; here there are too many, and nobody looks at them.
import { explain1006 } from "../closing.js";

/** Seconds for a connection, or an echo: as the probe of the command line has them. */
export const PATIENCE = 15;

/** It did not come in time. */
export class Late extends Error {}

/** There is no WebSocket; the message says what is known of it. */
export class Refused extends Error {}

/**
 * @typedef {object} End as the page sees it
 * @property {"close" | "an end without a close frame" | "no end"} how
 * @property {number | null} code
 * @property {string} reason
 */

/** The connection is at its end. */
export class Ended extends Error {
  /** @param {End} end */
  constructor(end) {
    super(wordsOf(end));
    this.end = end;
  }
}

/** @param {End} end */
export function wordsOf({ how, code, reason }) {
  if (how !== "close") return how;
  return `a close frame with ${code ?? "no code"}${reason && ` (${JSON.stringify(reason)})`}`;
}

/** Seconds of the page's clock. */
export const seconds = () => performance.now() / 1000;

/**
 * What goes on beside something else, and is awaited after it. If it is rejected before, that is no
 * error that nobody looks at, as which a browser would report it.
 *
 * @template T
 * @param {Promise<T>} promise
 * @returns {Promise<T>} the same
 */
export function beside(promise) {
  promise.catch(() => {});
  return promise;
}

/** Everything that one probe opens. */
export class Dialer {
  /**
   * @param {import("./sleeper.js").Sleeper} sleeper
   * @param {AbortSignal} signal ends all of them
   */
  constructor(sleeper, signal) {
    this.sleeper = sleeper;
    this.signal = signal;
    /** @type {Set<WebSocket>} */
    this._open = new Set();
    signal.addEventListener("abort", () => this._open.forEach((socket) => socket.close()));
  }

  /**
   * @param {string} url
   * @param {string[]} [subprotocols]
   * @returns {Promise<Dialog>} rejected with Refused
   */
  async open(url, subprotocols = []) {
    this.signal.throwIfAborted();
    const socket = new WebSocket(url, subprotocols);
    this._open.add(socket);
    const dialog = new Dialog(this, socket);
    socket.addEventListener("close", () => this._open.delete(socket));
    try {
      await dialog.untilOpen();
    } catch (error) {
      socket.close();
      if (error instanceof Late) throw new Refused(`no answer in ${PATIENCE} s`);
      if (error instanceof Ended) throw new Refused(await explain1006(false));
      throw error;
    }
    return dialog;
  }
}

/**
 * @typedef {object} Message
 * @property {number} time when it came, in seconds of the page's clock
 * @property {string | Uint8Array} data
 */

/** One connection. */
export class Dialog {
  /**
   * @param {Dialer} dialer
   * @param {WebSocket} socket
   */
  constructor(dialer, socket) {
    this.socket = socket;
    this.opened = 0;
    /** When the last message came; before it, when it was opened. */
    this.heard = 0;
    /** @type {End | undefined} */
    this.end = undefined;
    this.ended = 0;
    this._dialer = dialer;
    /** @type {Message[]} that nobody has asked for yet */
    this._messages = [];
    this._wake = () => {};
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.opened = this.heard = seconds();
      this._wake();
    };
    socket.onmessage = ({ data }) => {
      this.heard = seconds();
      const isText = typeof data === "string";
      this._messages.push({ time: this.heard, data: isText ? data : new Uint8Array(data) });
      this._wake();
    };
    socket.onclose = ({ code, reason }) => {
      this.ended = seconds();
      this.end =
        code === 1006
          ? { how: "an end without a close frame", code: null, reason: "" }
          : { how: "close", code: code === 1005 ? null : code, reason };
      this._wake();
    };
  }

  /** @returns {Promise<void>} rejected with Ended and Late */
  async untilOpen() {
    const deadline = seconds() + PATIENCE;
    while (this.socket.readyState === WebSocket.CONNECTING) await this._wait(deadline);
    if (this.end !== undefined) throw new Ended(this.end);
  }

  /** @param {string | Uint8Array<ArrayBuffer>} data */
  send(data) {
    this.socket.send(data);
  }

  /**
   * The next message.
   *
   * @param {number} [deadline]
   * @returns {Promise<Message>} rejected with Ended and Late
   */
  async message(deadline = seconds() + PATIENCE) {
    for (;;) {
      const message = this._messages.shift();
      if (message !== undefined) return message;
      await this._wait(deadline);
    }
  }

  /**
   * Say close, and wait for the end.
   *
   * @param {number} [code]
   * @param {string} [reason]
   * @returns {Promise<End>}
   */
  async close(code = 1000, reason = "") {
    this.socket.close(code, reason);
    try {
      const deadline = seconds() + PATIENCE;
      for (;;) await this.message(deadline);
    } catch (error) {
      if (error instanceof Ended) return error.end;
      if (error instanceof Late) return { how: "no end", code: null, reason: "" };
      throw error;
    }
  }

  /**
   * Until something has happened.
   *
   * @param {number} deadline
   * @returns {Promise<void>}
   */
  _wait(deadline) {
    const { sleeper, signal } = this._dialer;
    return new Promise((resolve, reject) => {
      if (signal.aborted) reject(signal.reason);
      else if (this.end !== undefined) reject(new Ended(this.end));
      else if (seconds() >= deadline) reject(new Late("no answer in time"));
      else {
        const done = () => {
          cancel();
          signal.removeEventListener("abort", onAbort);
          this._wake = () => {};
        };
        const onAbort = () => {
          done();
          reject(signal.reason);
        };
        const cancel = sleeper.after(deadline - seconds(), () => this._wake());
        signal.addEventListener("abort", onAbort);
        this._wake = () => {
          done();
          resolve();
        };
      }
    });
  }
}
