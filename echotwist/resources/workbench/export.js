// @ts-check
// The timeline as files: JSON of our own, and HAR, which Chrome's developer tools import.
import { formatBase64 } from "./bytes.js";
import { pageUrl } from "./link.js";

/**
 * @typedef {import("./history.js").Entry} Entry
 * @typedef {import("./history.js").History} History
 */

/**
 * All that an entry has. Times are in ISO 8601, to the microsecond; what is binary is in base64.
 *
 * @param {Entry[]} entries
 * @param {History} history
 * @returns {Iterable<string>} to be joined
 */
export function* asJson(entries, { urls }) {
  const addresses = Object.fromEntries([...urls].map(([number, url]) => [number, withoutId(url)]));
  const head = { page: pageUrl(), userAgent: navigator.userAgent, urls: addresses };
  yield `${JSON.stringify(head).slice(0, -1)},"entries":[`;
  let comma = "";
  for (const { time, data, url, ...rest } of entries) {
    const said = dataOf(saidBy(rest.from, data));
    yield `${comma}\n${JSON.stringify({ time: isoTime(time), ...rest, ...said })}`;
    comma = ",";
  }
  yield "\n]}\n";
}

/**
 * HAR 1.2, with what Chrome adds to it for WebSockets. It has an entry for each connection, and in
 * that the messages; neither what the server saw nor the headers, which a page is not told.
 *
 * @param {Entry[]} entries
 * @param {History} history
 * @returns {Iterable<string>} to be joined
 */
export function* asHar(entries, { urls, opened }) {
  const creator = { name: "echotwist workbench", version: "1" };
  yield `{"log":{"version":"1.2","creator":${JSON.stringify(creator)},"pages":[],"entries":[`;
  /** @type {Map<number, Entry[]>} */
  const own = new Map();
  for (const entry of entries) {
    if (entry.from === "server") continue;
    const others = own.get(entry.connection);
    if (others) others.push(entry);
    else own.set(entry.connection, [entry]);
  }
  let comma = "";
  for (const [number, some] of own) {
    const url = withoutId(urls.get(number) ?? "");
    const entry = harEntry(url, opened.has(number), some[0].time, some[some.length - 1].time);
    yield `${comma}\n${JSON.stringify(entry).slice(0, -1)},"_webSocketMessages":[`;
    comma = "";
    for (const each of some) {
      if (each.from === "status") continue;
      yield `${comma}\n${JSON.stringify(harMessage(each))}`;
      comma = ",";
    }
    yield "]}";
    comma = ",";
  }
  yield "]}}\n";
}

/**
 * Without the ID of a trace: whoever has the file could read what the server saw.
 *
 * @param {string} text
 */
const withoutId = (text) => text.replace(/([?&]trace=)[\w-]+/g, "$1…");

/**
 * The data of an entry, without the ID of a trace where it is no message.
 *
 * @param {import("./history.js").From} from
 * @param {string | Uint8Array} data
 */
export function saidBy(from, data) {
  const isOurs = from === "status" || from === "server";
  return isOurs && typeof data === "string" ? withoutId(data) : data;
}

/**
 * @param {string} url
 * @param {boolean} isOpened whether there was a 101
 * @param {number} began
 * @param {number} ended
 */
function harEntry(url, isOpened, began, ended) {
  const query = [...new URLSearchParams(url.split("?").slice(1).join("?"))];
  const nothing = { cookies: [], headers: [], headersSize: -1, bodySize: -1 };
  return {
    startedDateTime: isoTime(began),
    time: ended - began,
    request: {
      ...nothing,
      method: "GET",
      url,
      httpVersion: "HTTP/1.1",
      queryString: query.map(([name, value]) => ({ name, value })),
    },
    response: {
      ...nothing,
      status: isOpened ? 101 : 0,
      statusText: isOpened ? "Switching Protocols" : "",
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
