// @ts-check
// A trace, to be read: what is odd, what is known of the connection, and the handshake.
import { element } from "./element.js";
import { changesBack, explainExtensions, readRequest } from "./handshake.js";
import { pathOf } from "./trace.js";
import { endWords, milliseconds, plural, printable } from "./words.js";

/** @typedef {import("./server.js").Seen} Seen */

const NOTHING =
  "Nothing is traced. Tick “Trace what the server sees” and connect, or watch another client.";

/** Lines of the request that a finding names. */
const NAMED = 8;

/** Lines of the request that are shown, and characters of each and of the response. */
const LINES = 200;
const CHARACTERS = 2000;

export class TraceView {
  constructor() {
    this._status = element("p", { role: "status" });
    // Not a part of the status, which would be read out twice for each ping; beside it, where there
    // is room, so that nothing else moves.
    this._pings = element("p", { className: "hint", hidden: true });
    this._parts = element("div");
    const head = element("div", { className: "row" }, this._status, this._pings);
    this.element = element("div", {}, head, this._parts);
    /** @type {Map<string, {key: string, element: HTMLElement}>} */
    this._drawn = new Map();
    /** @type {Seen | undefined} */
    this._seen = undefined;
  }

  /** @param {Seen | undefined} seen */
  show(seen) {
    if (seen !== this._seen) {
      this._parts.replaceChildren();
      this._drawn.clear();
      this._seen = seen;
    }
    const findings = seen ? findingsOf(seen) : [];
    const status = seen ? statusOf(seen, findings.length) : NOTHING;
    if (this._status.textContent !== status) this._status.textContent = status;
    const open = seen?.odd.open.length ?? 0;
    this._pings.hidden = open === 0;
    this._pings.textContent = `${plural(open, "ping")} not answered yet.`;
    if (seen?.facts === undefined) return;
    this._part("odd", findings, () => oddPart(seen, findings));
    const facts = factsOf(seen);
    this._part("facts", facts, () => factsPart(facts));
    this._part("links", [], () => linksPart(seen.id));
    this._part("request", [seen.request?.number], () => requestPart(seen));
    this._part("response", [seen.response?.number], () => responsePart(seen));
  }

  /**
   * A part is made anew only if what it shows is another: who reads, selects or scrolls it is not
   * disturbed.
   *
   * @param {string} name
   * @param {unknown} shown
   * @param {() => HTMLElement} make
   */
  _part(name, shown, make) {
    const key = JSON.stringify([shown, this._seen?.isOver && name === "odd"]);
    const drawn = this._drawn.get(name);
    if (drawn?.key === key) return;
    const made = make();
    if (drawn) drawn.element.replaceWith(made);
    else this._parts.append(made);
    this._drawn.set(name, { key, element: made });
  }
}

/**
 * @param {Seen} seen
 * @returns {string[]}
 */
function findingsOf({ odd, connection, request, facts }) {
  const { found, more } = odd;
  return [
    ...(connection && request ? changesOf(request, connection) : []),
    ...(connection && facts ? changesBack(facts, connection) : []),
    ...found,
    ...(more ? [`and ${more.toLocaleString("en")} more`] : []),
    ...odd.compare(connection?.ended),
  ];
}

/**
 * @param {import("./trace.js").TraceEvent} request
 * @param {import("./connection.js").Connection} connection
 */
function changesOf({ line = "", headers = [] }, connection) {
  const changed = readRequest(line, headers, connection).filter(({ note }) => note);
  const names = changed.slice(0, NAMED).map(({ name }) => name || "its first line");
  if (changed.length > NAMED) names.push("others");
  return names.length
    ? [`The request is not as this browser has sent it: ${names.join(", ")}`]
    : [];
}

/**
 * @param {Seen} seen
 * @param {number} count of findings
 */
function statusOf(seen, count) {
  if (seen.whyMissing) return `${seen.whyMissing}.`;
  if (seen.facts === undefined) {
    if (seen.connection?.ended) return "The connection has ended; its trace is being read.";
    return "Waits for the connection.";
  }
  const odd = count ? plural(count, "odd thing") : "nothing odd";
  if (seen.isOver) return `The connection has ended: ${odd}.`;
  if (seen.connection?.ended) {
    return `The connection has ended, of which the service has not told yet: ${odd} so far.`;
  }
  if (seen.reading.isBroken) {
    return `The service does not answer, and is asked again: ${odd} so far.`;
  }
  return `Live: ${odd} so far.`;
}

/**
 * @param {Seen} seen
 * @param {string[]} findings
 */
function oddPart(seen, findings) {
  const what = findings.length
    ? element(
        "ul",
        { className: "odd" },
        ...findings.map((one) => element("li", {}, printable(one))),
      )
    : element("p", {}, seen.isOver ? "Nothing." : "Nothing so far.");
  return element("div", {}, element("h3", {}, "What is odd"), what);
}

/**
 * What is known, as pairs of a name and lines.
 *
 * @param {Seen} seen
 * @returns {[string, string[]][]}
 */
function factsOf({ facts, clock, connection, framesReceived, framesSent, isOver, response }) {
  if (facts === undefined || clock === undefined) return [];
  const isAgreed = isOver || facts.extensions !== null || facts.subprotocol !== null || response;
  const { tls, verdict, ended, leftOut } = facts;
  /** @type {[string, (string | false | null | undefined)[]][]} */
  const pairs = [
    [
      "Accepted",
      [`${facts.accepted.replace("T", " ").replace("Z", "")} UTC, by the server's clock`],
    ],
    ["Clock", [clockWords(clock, connection !== undefined)]],
    ["Peer", [facts.peer ?? "unknown"]],
    ["Client", [facts.client && `${facts.client}, says ${facts.proxies.join(", ")}`]],
    [
      "TLS",
      [tls ? `${tls.version}, ${tls.cipher}, server name ${tls.serverName ?? "none"}` : "none"],
    ],
    ["Subprotocol", [facts.subprotocol ?? (isAgreed ? "none" : "not agreed yet")]],
    [
      "Extensions",
      [
        facts.extensions ?? (isAgreed ? "none" : "not agreed yet"),
        ...explainExtensions(facts.extensions ?? ""),
      ],
    ],
    ["Declined", facts.declined.map(({ offer, why }) => `${offer}: ${why}`)],
    ["Case", [facts.case]],
    ["Verdict", [verdict && `${verdict.behavior}: ${verdict.why}`]],
    [
      "Frames",
      [`${framesReceived.toLocaleString("en")} received, ${framesSent.toLocaleString("en")} sent`],
    ],
    [
      "Left out",
      [
        leftOut.events > 0 && plural(leftOut.events, "event"),
        leftOut.segments > 0 && `${leftOut.segments.toLocaleString("en")} reads and writes`,
      ],
    ],
    [
      "End",
      [
        ended ? `after ${milliseconds(ended.time)}, ${endWords(ended)}` : "open",
        connection?.ended && `this browser reports ${connection.ended.code}`,
      ],
    ],
  ];
  /** @type {[string, string[]][]} */
  const said = [];
  for (const [name, lines] of pairs) {
    const some = lines.filter((line) => typeof line === "string");
    if (some.length) said.push([name, some.map((line) => printable(line).slice(0, CHARACTERS))]);
  }
  return said;
}

/**
 * @param {import("./clock.js").Clock} clock
 * @param {boolean} isOurs whether the connection is this page's
 */
function clockWords({ isCompared, ahead, uncertainty }, isOurs) {
  if (!isCompared) {
    const why = isOurs ? "" : ", as the connection is not of this page";
    const but = ahead > 0.1 ? `, which is ahead by ${milliseconds(ahead * 1000)} at least` : "";
    return `not compared${why}: times are by the server's clock${but}`;
  }
  const within = `± ${milliseconds(Math.max(uncertainty, 0.1) * 1000)}`;
  if (Math.abs(ahead) <= uncertainty) return `the server's agrees with this device's, ${within}`;
  const side = ahead < 0 ? "behind" : "ahead";
  return `the server's is ${milliseconds(Math.abs(ahead) * 1000)} ${side}, ${within}`;
}

/** @param {[string, string[]][]} facts */
function factsPart(facts) {
  const list = element("dl");
  for (const [name, lines] of facts) {
    list.append(element("dt", {}, name), ...lines.map((line) => element("dd", {}, line)));
  }
  return element("div", {}, element("h3", {}, "Connection"), list);
}

/** @param {string} id */
function linksPart(id) {
  const link = (/** @type {string} */ format, /** @type {string} */ name) =>
    element("a", { href: `${pathOf(id)}?format=${format}`, target: "_blank" }, name);
  return element(
    "p",
    { className: "row" },
    link("text", "As text"),
    link("json", "As JSON"),
    link("har", "As HAR"),
  );
}

/** @param {Seen} seen */
function requestPart({ request, connection }) {
  const title = element("h3", {}, "Request, as it arrived");
  if (request === undefined) return element("div", {}, title, element("p", {}, "Not yet."));
  const lines = readRequest(
    request.line ?? "",
    (request.headers ?? []).slice(0, LINES),
    connection,
  );
  const noted = lines.filter(({ note }) => note).length;
  const summary = connection
    ? noted
      ? `${plural(noted, "line")} not as this browser has sent ${noted === 1 ? "it" : "them"}:`
      : "Nothing shows that it was changed on the way."
    : "What this client has sent is not known here; only what proxies add is marked.";
  return element(
    "div",
    {},
    title,
    element("p", { className: noted && connection ? "warn" : "hint" }, summary),
    scroll(
      "Request",
      element("table", { className: "request" }, element("tbody", {}, ...lines.map(rowOf))),
    ),
  );
}

/** @param {import("./handshake.js").Line} line */
function rowOf({ name, value, note }) {
  const cell = element("td", {}, element("span", { className: "mono" }, shortened(value)));
  if (note) cell.append(element("div", { className: "note warn" }, `← ${shortened(note)}`));
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, name ? shortened(name) : "(first line)"),
    cell,
  );
}

/** @param {Seen} seen */
function responsePart({ response }) {
  const title = element("h3", {}, "Response, as it was sent");
  if (response === undefined) return element("div", {}, title, element("p", {}, "None yet."));
  const head = (response.head ?? "").trimEnd().slice(0, 20 * CHARACTERS);
  const lines = head.split(/\r?\n/).slice(0, LINES).map(shortened);
  return element("div", {}, title, scroll("Response", element("pre", {}, lines.join("\n"))));
}

/** @param {string} text */
function shortened(text) {
  const some = printable(text.slice(0, CHARACTERS));
  return text.length > CHARACTERS ? `${some} …` : some;
}

/**
 * @param {string} label
 * @param {HTMLElement} what may be wider than the panel
 */
const scroll = (label, what) =>
  element("div", { className: "scroll", role: "region", "aria-label": label, tabIndex: 0 }, what);
