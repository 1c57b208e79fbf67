// @ts-check
// The handshake as a page can look at it: what arrived at the server, beside what every browser
// sends; what was agreed to; and why there is no WebSocket, if there is none.
import { Refused, seconds } from "./dialer.js";
import { eventsOf } from "./farend.js";
import { changesThere } from "./handshake.js";
import { urlOf } from "./link.js";

/** The lab agrees to the second: a hop that chooses by itself would take the first. */
const SUBPROTOCOLS = ["echotwist-probe", "echotwist-probe-2"];

/** Bytes of a query. */
const QUERY = 8000;

const EXTENSIONS = "Sec-WebSocket-Extensions";
const PROTOCOL = "Sec-WebSocket-Protocol";

/** What every browser offers; its parameters differ. */
const DEFLATE = "permessage-deflate";

/**
 * @typedef {import("./dialer.js").Dialer} Dialer
 * @typedef {import("./farend.js").FarEnd} FarEnd
 * @typedef {import("./farend.js").Trace} Trace
 */

/**
 * Fill in `facts`, as far as the path lets it.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 * @param {Record<string, any>} facts
 */
export async function measureHandshake(near, far, facts) {
  const began = seconds();
  try {
    const dialog = await near.open(urlOf(""));
    facts.took = { open: dialog.opened - began };
    await dialog.close();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    facts.refused = refusal(error.message, null);
  }
  await compare(near, far, facts);
  if (facts.refused === undefined) facts.limits = [await tryQuery(near)];
}

/**
 * @param {string} why
 * @param {number | null} status
 */
const refusal = (why, status) => ({ why, status, location: null, body: "", arrived: null });

/**
 * What both ends saw of one handshake.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 * @param {Record<string, any>} facts
 */
async function compare(near, far, facts) {
  const [url, traceId] = far.script(`subprotocol=${SUBPROTOCOLS[1]}`);
  /** @type {import("./dialer.js").Dialog | undefined} */
  let dialog;
  let why = "";
  try {
    dialog = await near.open(url, SUBPROTOCOLS);
    await dialog.close();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    why = error.message;
  }
  const trace = await far.trace(traceId);
  const [request] = eventsOf(trace, "requested");
  const [response] = eventsOf(trace, "opened");
  if (dialog === undefined) {
    const refused = whyRefused(why, trace);
    if (facts.refused === undefined) facts.labRefused = refused;
    else facts.refused = refused;
  }
  if (request === undefined) return;
  const { line = "", headers = [] } = request;
  facts.toServer = changesThere(line, headers, { url, subprotocols: SUBPROTOCOLS });
  // Of an answer that it does not take, this browser tells nothing.
  if (dialog === undefined || response === undefined) return;
  const arrived = headers.map(({ name, value }) => /** @type {const} */ ([name, value ?? ""]));
  const answered = headersIn(response.head ?? "");
  const { extensions, protocol } = dialog.socket;
  const agreed = valueOf(answered, EXTENSIONS);
  facts.extensions = {
    offered: DEFLATE,
    arrived: valueOf(arrived, EXTENSIONS),
    answered: agreed,
    // Firefox leaves out the parameters.
    received: (agreed !== null && extensions === nameIn(agreed) ? agreed : extensions) || null,
  };
  facts.subprotocols = {
    offered: SUBPROTOCOLS.join(", "),
    arrived: valueOf(arrived, PROTOCOL),
    answered: valueOf(answered, PROTOCOL),
    received: protocol || null,
  };
  facts.toClient = changesBack([
    [EXTENSIONS, facts.extensions],
    [PROTOCOL, facts.subprotocols],
  ]);
}

/**
 * What became of the answer: of the two headers of it that a page can know of.
 *
 * @param {[string, {answered: string | null, received: string | null}][]} offers
 */
function changesBack(offers) {
  return {
    line: null,
    isReordered: false,
    added: offers.flatMap(([name, { answered, received }]) =>
      answered === null && received !== null ? [[name, received]] : [],
    ),
    removed: offers.flatMap(([name, { answered, received }]) =>
      answered !== null && received === null ? [[name, answered]] : [],
    ),
    rewritten: offers.flatMap(([name, { answered, received }]) =>
      answered !== null && received !== null && answered !== received
        ? [{ name, sent: answered, arrived: received }]
        : [],
    ),
  };
}

/**
 * @param {string} why as the page knows it
 * @param {Trace | undefined} trace
 */
function whyRefused(why, trace) {
  if (trace === undefined) return refusal(`${why}; the server has had no request to upgrade`, null);
  if (eventsOf(trace, "opened").length === 0) return refusal(why, null);
  return refusal("the server has answered 101, and this browser did not take what came of it", 101);
}

/**
 * @param {string} head of a response
 * @returns {(readonly [string, string])[]}
 */
function headersIn(head) {
  return head.split("\r\n").flatMap((line) => {
    const [, name, value] = /^([^:\s]+):\s*(.*)$/.exec(line) ?? [];
    return name === undefined ? [] : [/** @type {const} */ ([name, value])];
  });
}

/**
 * @param {(readonly [string, string])[]} headers
 * @param {string} name
 * @returns {string | null}
 */
function valueOf(headers, name) {
  const values = headers.filter(([each]) => each.toLowerCase() === name.toLowerCase());
  return values.map(([, value]) => value).join(", ") || null;
}

/** @param {string} extensions */
const nameIn = (extensions) =>
  extensions
    .split(",")
    .map((one) => one.split(";", 1)[0].trim())
    .join(", ");

/**
 * A handshake with a long query.
 *
 * @param {Dialer} near
 */
async function tryQuery(near) {
  const tried = { what: "query", size: QUERY };
  try {
    const dialog = await near.open(`${urlOf("")}?probe=${"q".repeat(QUERY)}`);
    await dialog.close();
    return { ...tried, answer: "101", passed: true };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { ...tried, answer: `no WebSocket: ${error.message}`, passed: false };
  }
}
