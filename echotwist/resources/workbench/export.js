// @ts-check
// The timeline as files: JSON of our own, and HAR, which Chrome's developer tools import.
import { formatBase64 } from "./bytes.js";

/** Entries that become one string: those of all together could be longer than a string may be. */
const PART = 1000;

/**
 * @typedef {import("./history.js").Entry} Entry
 *
 * @typedef {Map<number, string>} Urls of the connections, by their numbers
 */

/**
 * All that an entry has. Times are in ISO 8601, to the microsecond; what is binary is in base64.
 *
 * @param {Entry[]} entries
 * @param {Urls} urls
 * @returns {string[]} to be joined
 */
export function asJson(entries, urls) {
  const head = {
    page: location.href,
    userAgent: navigator.userAgent,
    urls: Object.fromEntries(urls),
  };
  const members = parts(entries, ({ time, data, ...rest }) =>
    JSON.stringify({ time: isoTime(time), ...rest, ...dataOf(data) }),
  );
  return [`${JSON.stringify(head).slice(0, -1)},"entries":[`, ...members, "\n]}\n"];
}

/**
 * HAR 1.2, with what Chrome adds to it for WebSockets. It has an entry for each connection, and in
 * that the messages; what the server saw is not in it.
 *
 * @param {Entry[]} entries
 * @param {Urls} urls
 * @returns {string[]} to be joined
 */
export function asHar(entries, urls) {
  const creator = { name: "echotwist workbench", version: "1" };
  const whole = [
    `{"log":{"version":"1.2","creator":${JSON.stringify(creator)},"pages":[],"entries":[`,
  ];
  let comma = "";
  for (const [number, url] of urls) {
    const own = entries.filter(
      ({ connection, from }) => connection === number && from !== "server",
    );
    if (own.length === 0) continue;
    const messages = own.filter(({ from }) => from !== "status");
    const entry = harEntry(url, own[0].time, own[own.length - 1].time);
    whole.push(
      `${comma}\n${JSON.stringify(entry).slice(0, -1)},"_webSocketMessages":[`,
      ...parts(messages, (each) => JSON.stringify(harMessage(each))),
      "]}",
    );
    comma = ",";
  }
  whole.push("]}}\n");
  return whole;
}

/**
 * @param {string} url
 * @param {number} began
 * @param {number} ended
 */
function harEntry(url, began, ended) {
  const nothing = { cookies: [], headers: [], headersSize: -1, bodySize: -1 };
  return {
    startedDateTime: isoTime(began),
    time: ended - began,
    request: { ...nothing, method: "GET", url, httpVersion: "HTTP/1.1", queryString: [] },
    response: {
      ...nothing,
      status: 101,
      statusText: "Switching Protocols",
      httpVersion: "HTTP/1.1",
      content: { size: 0, mimeType: "x-unknown" },
      redirectURL: "",
    },
    cache: {},
    timings: { send: 0, wait: 0, receive: ended - began },
    _resourceType: "websocket",
  };
}

/** @param {Entry} entry */
function harMessage({ from, time, type, data }) {
  return {
    type: from === "sent" ? "send" : "receive",
    time: time / 1000,
    opcode: type === "text" ? 1 : 2,
    data: typeof data === "string" ? data : formatBase64(data),
  };
}

/** @param {string | Uint8Array} data */
const dataOf = (data) => (typeof data === "string" ? { data } : { base64: formatBase64(data) });

/** @param {number} time */
function isoTime(time) {
  const micros = String(Math.floor((time % 1) * 1000)).padStart(3, "0");
  return new Date(time).toISOString().replace("Z", `${micros}Z`);
}

/**
 * @param {Entry[]} entries
 * @param {(entry: Entry) => string} format
 */
function parts(entries, format) {
  const made = [];
  for (let i = 0; i < entries.length; i += PART) {
    const lines = entries.slice(i, i + PART).map((entry) => `\n${format(entry)}`);
    made.push((i ? "," : "") + lines.join(","));
  }
  return made;
}
