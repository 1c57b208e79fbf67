// @ts-check
// The connections of this page, in a list: each is opened, closed and removed here.
import { CODES, RANGES, explain1006, meaningOf } from "../closing.js";
import { Connection, utf8Length } from "./connection.js";
import { byId, element } from "./element.js";
import { makeTraceId, urlOf } from "./link.js";
import { check } from "./steps.js";
import { printable } from "./words.js";

/** Those that are closed stay in the list, so that one can read why; but not for ever. */
const LISTED = 50;

/** Bytes of a reason (RFC 6455, 5.5). */
const REASON = 123;

const TITLE = document.title;

/**
 * @typedef {import("./link.js").Wanted} Wanted
 *
 * @typedef {object} Listed
 * @property {Connection} connection
 * @property {Wanted} wanted
 * @property {HTMLElement} row
 * @property {HTMLElement} words its state
 * @property {HTMLElement} facts what it has agreed to, or how it ended
 * @property {HTMLElement} counts
 * @property {HTMLButtonElement} button closes it, and connects again once it is closed
 * @property {string} why it ended; empty while it is not known
 */

export class Connections {
  /**
   * @param {import("./history.js").History} history
   * @param {(connection: Connection) => void} onMade
   */
  constructor(history, onMade) {
    this._history = history;
    this._onMade = onMade;
    /** Is called when there are others, or one has another state. */
    this.onChange = () => {};
    /** @type {Listed[]} */
    this._listed = [];
    this._count = 0;
    this._list = byId("connections");
    this._status = byId("status");
    this._code = byId("close-code");
    this._reason = byId("close-reason");
    this._hint = byId("close-hint");
    byId("codes").append(...codeRows());
    history.listeners.add(() => this._showCounts());
    addEventListener("pagehide", () =>
      this._listed.forEach(({ connection }) => connection.leave()),
    );
  }

  /** @returns {Connection[]} those that can be sent to */
  get open() {
    return this._listed.map(({ connection }) => connection).filter(({ state }) => state === "Open");
  }

  /** The number of the newest. Those of before a reload are in the history alone. */
  get newest() {
    return this._count;
  }

  set newest(number) {
    this._count = number;
  }

  /** @param {Wanted} wanted */
  connect(wanted) {
    const traceId = wanted.isTraced ? makeTraceId() : undefined;
    const url = urlOf(wanted.script, traceId);
    this._count += 1;
    let connection;
    try {
      connection = new Connection(this._count, url, wanted.subprotocols, traceId, this._history);
    } catch (error) {
      // A subprotocol that is no token (RFC 6455, 4.1), or there twice.
      this._count -= 1;
      this._status.textContent = `Not connected: ${/** @type {Error} */ (error).message}`;
      return;
    }
    const listed = this._add(connection, wanted);
    connection.onChange = () => this._show(listed);
    this._onMade(connection);
    this._show(listed);
  }

  /**
   * @param {Connection} connection
   * @param {Wanted} wanted
   * @returns {Listed}
   */
  _add(connection, wanted) {
    const words = element("span", { className: "state" });
    const counts = element("span", { className: "hint" });
    const facts = element("span", { className: "hint facts" });
    const button = element("button", { type: "button" });
    const row = element(
      "li",
      {},
      element("b", {}, `#${connection.number}`),
      words,
      counts,
      button,
      element("code", {}, connection.url),
      facts,
    );
    const listed = { connection, wanted, row, words, facts, counts, button, why: "" };
    button.onclick = () => {
      if (connection.state === "Closed") this.connect(wanted);
      else if (connection.state !== "Closing") this._close(connection);
    };
    this._listed.push(listed);
    this._list.prepend(row);
    if (this._listed.length > LISTED) {
      const first = this._listed.findIndex(({ connection: { state } }) => state === "Closed");
      if (first !== -1) this._listed.splice(first, 1)[0].row.remove();
    }
    return listed;
  }

  /** @param {Connection} connection */
  _close(connection) {
    const code = this._code.value.trim();
    const reason = this._reason.value;
    const problem = problemOf(code, reason);
    if (problem) this._hint.closest("details").open = true;
    this._hint.textContent = problem;
    if (problem) return;
    if (code === "") connection.close();
    else connection.close(Number(code), reason);
  }

  /** @param {Listed} listed */
  _show(listed) {
    const { connection, words, facts, row, button } = listed;
    const { state, ended, socket } = connection;
    row.dataset.state = state;
    words.textContent = state;
    if (state === "Open") {
      const { protocol, extensions } = socket;
      facts.textContent = `Subprotocol: ${protocol || "none"}. Extensions: ${extensions || "none"}.`;
    } else if (ended !== undefined) {
      const how = ended.wasClean ? "Cleanly" : "Not cleanly";
      const reason = ended.reason && ` ${printable(JSON.stringify(ended.reason))}`;
      facts.textContent = `${how}, ${ended.code}${reason}: ${listed.why || meaningOf(ended.code)}.`;
      if (ended.code === 1006 && !listed.why) {
        explain(connection, listed.wanted).then((why) => {
          listed.why = why;
          this._show(listed);
        });
      }
    }
    button.textContent = state === "Closed" ? "Connect again" : "Close";
    // Not disabled, which would take the focus from whoever has pressed it.
    button.setAttribute("aria-disabled", String(state === "Closing"));
    this._say();
    this.onChange();
  }

  _say() {
    const open = this.open.length;
    const { connection, why } = this._listed[this._listed.length - 1];
    const { state, ended } = connection;
    let text = open > 1 ? `${open} connections are open` : "Connected";
    if (state === "Connecting") text = "Connecting";
    else if (open === 0) {
      text = state === "Closing" ? "Closing" : "Disconnected";
      if (ended !== undefined) text += `: ${why || meaningOf(ended.code)}`;
    }
    if (this._status.textContent !== text) this._status.textContent = text;
    document.title = `${text.replace(/:.*/s, "")} – ${TITLE}`;
  }

  _showCounts() {
    for (const { connection, counts } of this._listed) {
      const text = countsOf(connection);
      if (counts.textContent !== text) counts.textContent = text;
    }
  }
}

/**
 * Why it ended without a close frame, as far as that can be known.
 *
 * @param {Connection} connection
 * @param {Wanted} wanted
 */
async function explain({ opened, ownEnd }, { script, isTraced }) {
  if (ownEnd) return ownEnd;
  if (opened !== undefined || !(script || isTraced)) return explain1006(opened !== undefined);
  // The lab says what it makes of a script; a browser does not show what the answer was.
  const { status, problem } = await check(script);
  if (status === 404) return "this service has no lab (--no-lab)";
  if (problem) return `the server refuses this script: ${problem}`;
  if (status !== 200) return explain1006(false);
  return (
    "the server takes this script; but the answer was no WebSocket, as the script may want it, or " +
    "the server is full, or a proxy between does not pass on the header Upgrade"
  );
}

/** @param {Connection} connection */
function countsOf({ sent, received }) {
  return `${sent.toLocaleString("en")} sent, ${received.toLocaleString("en")} received`;
}

/**
 * Why a browser does not close with this; empty if it does.
 *
 * @param {string} code
 * @param {string} reason
 */
function problemOf(code, reason) {
  if (code === "") return reason && "A reason needs a code.";
  const number = /^\d+$/.test(code) ? Number(code) : NaN;
  if (!(number === 1000 || (number >= 3000 && number <= 4999))) {
    return "A browser sends 1000, and 3000 to 4999. The step close=CODE of the lab sends any.";
  }
  const size = utf8Length(reason);
  return size > REASON ? `A reason has at most ${REASON} bytes; this one has ${size}.` : "";
}

function codeRows() {
  const rows = [...Object.entries(CODES), ...Object.entries(RANGES)];
  return rows.map(([code, meaning]) =>
    element("tr", {}, element("th", { scope: "row" }, code), element("td", {}, meaning)),
  );
}
