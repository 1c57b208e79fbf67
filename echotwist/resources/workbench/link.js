// @ts-check
// What is wanted of a connection: as a URL of the service, and as a URL of the workbench.
//
//     ws://host/lab?ping&delay=500ms&trace=…
//     http://host/workbench.html#script=ping%26delay%3D500ms&trace&message=hello
//
// What is behind the # is not sent to any server. A connection is always to this service, and a
// message is put into the composer, not sent: whoever follows a link decides that.

/**
 * @typedef {object} Wanted
 * @property {string} script the steps of the lab; empty for an echo
 * @property {string[]} subprotocols
 * @property {boolean} isTraced
 *
 * @typedef {object} Draft
 * @property {string} text
 * @property {string} format `text`, `hex` or `base64`
 */

const FORMATS = ["hex", "base64"];

/** Characters of a message. A browser takes half a minute to lay out two million. */
const MOST = 100_000;

/**
 * The URL of the service. Relative to the page, so that it works behind TLS and below a proxy's
 * prefix.
 *
 * @param {string} script
 * @param {string} [traceId]
 */
export function urlOf(script, traceId) {
  const steps = [withoutTrace(script), traceId && `trace=${traceId}`].filter(Boolean).join("&");
  // A # would end the query, and is meant as a part of a value.
  const url = new URL(steps ? `lab?${steps.replaceAll("#", "%23")}` : "echo", pageUrl());
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

/**
 * The script that somebody has typed, or pasted with the ? of a URL.
 *
 * @param {string} typed
 */
export const scriptOf = (typed) => typed.trim().replace(/^\?/, "");

/** An ID for a trace: 128 bits in base64url, since whoever knows it can read the trace. */
export function makeTraceId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const base64 = btoa(String.fromCharCode(...bytes));
  return base64.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * @param {string} hash `location.hash`
 * @returns {{wanted: Wanted, draft: Draft, tab: string}}
 */
export function parseLink(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const format = FORMATS.find((name) => given.has(name)) ?? "text";
  return {
    wanted: {
      script: withoutTrace(given.get("script") ?? ""),
      subprotocols: given.getAll("subprotocol"),
      isTraced: given.has("trace"),
    },
    draft: {
      text: (given.get(format === "text" ? "message" : format) ?? "").slice(0, MOST),
      format,
    },
    tab: given.get("tab") ?? "",
  };
}

/**
 * The URL of the workbench that asks for this.
 *
 * @param {Wanted} wanted
 * @param {Draft} draft
 */
export function linkTo({ script, subprotocols, isTraced }, { text, format }) {
  const given = new URLSearchParams();
  if (script) given.set("script", withoutTrace(script));
  for (const subprotocol of subprotocols) given.append("subprotocol", subprotocol);
  if (isTraced) given.set("trace", "");
  if (text) given.set(format === "text" ? "message" : format, text);
  return `${pageUrl()}#${given}`;
}

/**
 * A script without the step `trace`: whoever has made a link could read what is sent then. Nor does
 * it have what a parser of URLs deletes, and makes `trace` of others by.
 *
 * @param {string} script
 */
function withoutTrace(script) {
  const steps = script.replace(/[\t\n\r]/g, encodeURIComponent).split("&");
  return steps.filter((step) => nameOf(step) !== "trace").join("&");
}

/** @param {string} step */
function nameOf(step) {
  try {
    return decodeURIComponent(step.split("=", 1)[0]);
  } catch {
    return step; // Which the server refuses.
  }
}

/** The URL of the workbench, without what is wanted of it. */
export const pageUrl = () => location.href.replace(/#.*/s, "");
