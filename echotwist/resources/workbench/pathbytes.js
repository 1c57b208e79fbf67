// @ts-check
// Whether each message and each code arrives as it was sent, both ways: as echotwist/probe/octets.py
// looks at it, as far as a page can.
import { Ended, Late, Refused, wordsOf } from "./dialer.js";
import { eventsOf, isMessage } from "./farend.js";

/** Characters of one to four bytes, and those that somebody might remove or normalize. */
const TEXT = "ASCII, é, \u0000, \ufeff, €, 漢字, 🜁, e\u0301";

/** Codes and reasons of this page; those of the server. A page may choose 1000, and from 3000 on. */
const OURS = /** @type {[number, string][]} */ ([
  [1000, ""],
  [4321, "the probe’s reason"],
]);
const THEIRS = /** @type {[number, string][]} */ ([
  [1000, ""],
  [4123, "a server's reason"],
]);

/** The opcode. */
const CLOSE = 8;

/** Says that a message is compressed (RFC 7692, 6). */
const RSV1 = 4;

/**
 * @typedef {import("./dialer.js").Dialer} Dialer
 * @typedef {import("./farend.js").FarEnd} FarEnd
 * @typedef {{check: string, passed: boolean | null, why: string}} Check
 *
 * @typedef {(near: Dialer, far: FarEnd) => Promise<string>} Checker resolves with why it did not
 *   arrive as it was sent; empty if it did
 */

/** It could not be tried, or not be seen; the message says why. */
class NotSeen extends Error {}

/** @type {[string, Checker][]} */
const CHECKERS = [
  ["text", (near, far) => echoes(near, far, [TEXT])],
  ["binary", (near, far) => echoes(near, far, [allBytes()])],
  ["empty messages", (near, far) => echoes(near, far, ["", new Uint8Array()])],
  ["a compressed message", checkCompressed],
  ["the client's close", checkOurClose],
  ["the server's close", checkTheirClose],
];

/** What is seen by the probe of the command line alone. */
const UNSEEN = ["a ping between fragments", "who answers pings", "frames and masks"];

/**
 * Append to `found`; `say` is told what is tried.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 * @param {Check[]} found
 * @param {(what: string) => void} say
 */
export async function measureBytes(near, far, found, say) {
  for (const [check, checker] of CHECKERS) {
    say(check);
    try {
      const why = await checker(near, far);
      found.push({ check, passed: why === "", why });
    } catch (error) {
      if (error instanceof NotSeen) found.push({ check, passed: null, why: error.message });
      else if (error instanceof Late || error instanceof Ended) {
        found.push({ check, passed: false, why: error.message });
      } else if (error instanceof Refused) {
        found.push({ check, passed: null, why: `no WebSocket: ${error.message}` });
      } else throw error;
    }
  }
  for (const check of UNSEEN) found.push({ check, passed: null, why: "a page sees no frames" });
}

/** Each byte, four times. */
const allBytes = () => Uint8Array.from({ length: 1024 }, (_, i) => i % 256);

/**
 * @param {Dialer} near
 * @param {FarEnd} far
 * @param {(string | Uint8Array<ArrayBuffer>)[]} messages
 */
async function echoes(near, far, messages) {
  const [url] = far.script();
  const dialog = await near.open(url);
  let why = "";
  for (const message of messages) {
    dialog.send(message);
    why ||= differenceOf(message, (await dialog.message()).data);
  }
  await dialog.close();
  return why;
}

/**
 * @param {string | Uint8Array} sent
 * @param {string | Uint8Array} echo
 * @returns {string} why it is another one; empty if it is not
 */
export function differenceOf(sent, echo) {
  if (typeof sent !== typeof echo) {
    return `a ${typeof sent === "string" ? "text" : "binary"} message came back as the other type`;
  }
  if (sent.length !== echo.length) {
    return `a message of ${sizeOf(sent)} came back with ${sizeOf(echo)}`;
  }
  if (typeof sent === "string") return sent === echo ? "" : "other characters came back";
  // A loop: every() takes ten times as long, and there may be 16 MB.
  for (let i = 0; i < sent.length; i += 1) if (sent[i] !== echo[i]) return "other bytes came back";
  return "";
}

/** @param {string | Uint8Array} message */
function sizeOf(message) {
  const what = typeof message === "string" ? "UTF-16 units" : "bytes";
  return `${message.length.toLocaleString("en")} ${what}`;
}

/** @type {Checker} */
async function checkCompressed(near, far) {
  const [url, traceId] = far.script("compress=always");
  const dialog = await near.open(url);
  const isAgreed = /^permessage-deflate\b/.test(dialog.socket.extensions);
  const message = "to be compressed, ".repeat(20);
  dialog.send(message);
  const { data } = await dialog.message();
  await dialog.close();
  const why = differenceOf(message, data);
  if (!isAgreed) throw new NotSeen("compression is not agreed on");
  const [frame] = eventsOf(await far.trace(traceId), "frameReceived").filter(isMessage);
  if (!why && frame !== undefined && !((frame.rsv ?? 0) & RSV1)) {
    throw new NotSeen("it did not arrive compressed: this browser need not do it");
  }
  return why;
}

/** @type {Checker} */
async function checkOurClose(near, far) {
  for (const [code, reason] of OURS) {
    const [url, traceId] = far.script();
    const end = await (await near.open(url)).close(code, reason);
    const trace = await far.trace(traceId);
    const [frame] = eventsOf(trace, "frameReceived").filter(({ opcode }) => opcode === CLOSE);
    if (trace !== undefined && frame === undefined) {
      return `the close frame with ${code} did not come to the server`;
    }
    if (frame !== undefined && (frame.code !== code || (frame.reason ?? "") !== reason)) {
      return `${code} came to the server as ${frame.code} (${JSON.stringify(frame.reason ?? "")})`;
    }
    if (end.how !== "close") return `${code} was not answered by a close frame: ${wordsOf(end)}`;
    if (end.code !== code) return `${code} was answered by ${end.code ?? "no code"}`;
  }
  return "";
}

/** @type {Checker} */
async function checkTheirClose(near, far) {
  for (const [code, reason] of THEIRS) {
    const [url] = far.script(`close=${code}${reason && `,${encodeURIComponent(reason)}`}`);
    const dialog = await near.open(url);
    try {
      await dialog.message();
      return "a message came instead";
    } catch (error) {
      if (!(error instanceof Ended)) throw error;
      const { end } = error;
      if (end.how !== "close" || end.code !== code || end.reason !== reason) {
        return `${code} of the server came as ${wordsOf(end)}`;
      }
    }
  }
  return "";
}
