// @ts-check
// The events of a trace in the words of RFC 6455, as GET /trace/ID?format=text has them.

/** @typedef {import("./trace.js").TraceEvent} TraceEvent */

/** RFC 6455, 5.2. @type {Record<number, string>} */
const OPCODES = { 0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong" };

/** @type {Record<string, string>} */
const HOW = {
  close: "with a close frame",
  fin: "with FIN",
  rst: "with RST",
  drop: "by dropping the connection",
};

/** @type {Record<string, string>} */
const TCP = {
  fin: "TCP has ended in order",
  eof: "TLS has ended without close_notify",
  rst: "the client has reset TCP",
  us: "the server has dropped the connection",
};

// Kept: to make one takes longer than all the rest of a sentence.
const WHOLE = new Intl.NumberFormat("en");
const TENTHS = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** @type {Record<string, string>} */
const TYPES = {
  requested: "request",
  opened: "response",
  bytesSent: "bytes sent",
  refused: "refusal",
  scriptEnded: "script ended",
  finReceived: "FIN received",
  finSent: "FIN sent",
  lost: "end",
};

/** Bytes of a payload in hex that a line shows. */
const SHOWN = 16;

/**
 * What happened, in a word or two: of a frame, what it is, and who sent it.
 *
 * @param {TraceEvent} event
 */
export function typeOf({ type, opcode = 0 }) {
  if (type !== "frameReceived" && type !== "frameSent") return TYPES[type] ?? type;
  return `${OPCODES[opcode] ?? "reserved"} ${type === "frameReceived" ? "received" : "sent"}`;
}

/**
 * What happened, as a sentence.
 *
 * @param {TraceEvent} event
 * @returns {string}
 */
export function wordsOf(event) {
  switch (event.type) {
    case "requested":
      return `${printable(event.line ?? "")}, ${plural(event.headers?.length ?? 0, "header")}`;
    case "opened":
      return printable((event.head ?? "").split(/\r?\n/, 1)[0]);
    case "read":
    case "wrote":
      return `${event.type} ${plural(event.size ?? 0, "byte")}`;
    case "frameReceived":
    case "frameSent":
      return frameWords(event);
    case "bytesSent":
      return `bytes of the script: ${hexWords(event.data ?? "", (event.data ?? "").length / 2)}`;
    case "refused":
      return `the server refuses this with ${event.code}: ${printable(event.reason ?? "")}`;
    case "scriptEnded":
      return "the script has ended";
    case "finReceived":
      return "the client has ended its side of TCP (FIN)";
    case "finSent":
      return "the server has ended its side of TCP (FIN)";
    case "lost":
      return TCP[event.how ?? ""] ?? "the connection is gone";
    default:
      return event.type;
  }
}

/**
 * Who began the end, and how.
 *
 * @param {{by: string, how: string}} ended
 */
export const endWords = ({ by, how }) => `the ${by} began the end, ${HOW[how] ?? how}`;

/** @param {TraceEvent} event */
function frameWords({ opcode = 0, fin, rsv = 0, mask, length = 0, data = "", ...event }) {
  const words = [OPCODES[opcode] ?? `reserved opcode 0x${opcode.toString(16)}`];
  if (fin) words.push("FIN");
  if (rsv & 4) words.push("RSV1");
  if (rsv & 2) words.push("RSV2");
  if (rsv & 1) words.push("RSV3");
  if (mask) words.push("masked");
  words.push(`payload length ${WHOLE.format(length)}`);
  if (mask) words.push(`masking-key ${mask}`);
  const said = words.join(", ");
  if (data === "") return said;
  if (opcode === 8) {
    return typeof event.code === "number"
      ? `${said}: ${event.code} ${quoted(event.reason ?? "")}`
      : `${said}: ${hexWords(data, length)}`;
  }
  if (event.text !== undefined) {
    return `${said}: ${quoted(event.text)}${length * 2 > data.length ? " ..." : ""}`;
  }
  return `${said}: ${payloadWords({ opcode, data, length })}`;
}

/**
 * The payload of a control frame as text, if it is one; of others in hex.
 *
 * @param {{opcode?: number, data?: string, length?: number}} frame
 */
export function payloadWords({ opcode = 0, data = "", length = 0 }) {
  if (length === 0) return "no payload";
  const text = opcode > 8 ? textOf(data) : undefined;
  if (text === undefined) return hexWords(data, length);
  return quoted(text) + (length * 2 > data.length ? " ..." : "");
}

/**
 * The text that these bytes are; undefined if they are none that a person could read.
 *
 * @param {string} hex
 */
function textOf(hex) {
  const bytes = Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16));
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return printable(text) === text ? text : undefined;
  } catch {
    return undefined;
  }
}

/**
 * @param {string} hex
 * @param {number} length of the whole
 */
function hexWords(hex, length) {
  const bytes = hex.match(/../g) ?? [];
  return bytes.slice(0, SHOWN).join(" ") + (length > Math.min(SHOWN, bytes.length) ? " ..." : "");
}

/** @param {string} text */
const quoted = (text) => `'${printable(text.replace(/['\\]/g, "\\$&"))}'`;

/**
 * What does not print, or would turn the rest of the line around, is escaped.
 *
 * @param {string} text
 */
export const printable = (text) =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0)?.toString(16)}}`);

/**
 * @param {number} count
 * @param {string} noun
 */
export const plural = (count, noun) => `${WHOLE.format(count)} ${noun}${count === 1 ? "" : "s"}`;

/** @param {number} time of the server, in microseconds */
export const milliseconds = (time) => `${TENTHS.format(time / 1000)} ms`;
