// @ts-check
// Why a connection ended, in words.

// RFC 6455, 7.4.1, and the registry of IANA.
/** @type {Record<number, string>} */
export const CODES = {
  1000: "it is done",
  1001: "the server goes away",
  1002: "something broke the protocol",
  1003: "this type of message is not taken",
  1004: "this code is reserved",
  1005: "the close had no code",
  1006: "the connection ended without a close",
  1007: "a text was not UTF-8",
  1008: "something is not allowed",
  1009: "a message was too large",
  1010: "an extension is missing",
  1011: "the server met an error",
  1012: "the server restarts",
  1013: "the server has too much to do; try again later",
  1014: "a gateway had a bad answer",
  1015: "TLS failed",
  3000: "one has to log in",
  3003: "one is not allowed to",
  3008: "it took too long",
};

/** Those of others, as RFC 6455, 7.4.2 has them. */
export const RANGES = {
  "3000 to 3999": "a library or a framework knows what this means",
  "4000 to 4999": "the application knows what this means",
};

/** @param {number} code */
export function meaningOf(code) {
  if (code in CODES) return CODES[code];
  if (code >= 3000) return RANGES[code < 4000 ? "3000 to 3999" : "4000 to 4999"];
  return "this code has no meaning";
}

/**
 * What can be known of an end without a close frame (1006), for which a browser gives no reason.
 *
 * @param {boolean} wasOpen
 * @returns {Promise<string>}
 */
export async function explain1006(wasOpen) {
  const answer = await fetch("readyz", { cache: "no-store" }).catch(() => null);
  if (answer === null && !navigator.onLine) return "this device is offline";
  if (answer === null) {
    return wasOpen
      ? "the connection was lost, and the server cannot be reached now"
      : "the server cannot be reached: it does not run, or nothing leads there";
  }
  if (!answer.ok) return `the server takes nobody now (${answer.status} at readyz)`;
  return wasOpen
    ? "the connection was lost without a close, though the server is there: something between may " +
        "have cut it, for being silent or too old"
    : "the server is there, but its answer was no WebSocket: it may be full, or a proxy between " +
        "does not pass on the header Upgrade";
}
