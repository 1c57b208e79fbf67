// @ts-check
// What the server saw of a connection: of one of this page's, or of another client's.
import { Clock } from "./clock.js";
import { element } from "./element.js";
import { nameOf, now } from "./history.js";
import { Lookout } from "./lookout.js";
import { Odd } from "./odd.js";
import { Reading, whyNone } from "./trace.js";
import { TraceView } from "./traceview.js";
import { endWords, typeOf, wordsOf } from "./words.js";

/**
 * @typedef {import("./connection.js").Connection} Connection
 * @typedef {import("./history.js").Entry} Entry
 * @typedef {import("./history.js").History} History
 * @typedef {import("./trace.js").TraceEvent} TraceEvent
 */

/** Traces that are kept; of more, the oldest are forgotten. */
const TRACES = 20;

/** Pings that may yet be said to have no answer; as many as `Odd` knows. */
const PINGS = 100;

/** Milliseconds by which the offset must be better for entries to get new times. */
const BETTER = 0.05;

/** Milliseconds between two looks at the clock: new times sort the whole history. */
const PAUSE = 250;

export class Server {
  /**
   * @param {HTMLElement} panel empty; becomes the tool
   * @param {History} history gets an entry for each event of a trace
   */
  constructor(panel, history) {
    this.panel = panel;
    this.history = history;
    /** @type {Seen[]} the oldest first */
    this._seen = [];
    /** @type {Seen | undefined} */
    this._shown = undefined;
    /** @type {Seen | undefined} the one that is read live */
    this._followed = undefined;
    this._isComing = false;
    this._select = element("select", { onchange: () => this._choose() });
    const label = element("label", {}, "Trace ", this._select);
    this._chooser = element("div", { className: "row", hidden: true }, label);
    this._view = new TraceView();
    const lookout = new Lookout((id) => this._open(id));
    panel.append(lookout.element, this._chooser, this._view.element);
    // Nothing is drawn while nobody sees it.
    new MutationObserver(() => this._change()).observe(panel, { attributeFilter: ["hidden"] });
    document.addEventListener("visibilitychange", () => this._change());
    this._draw();
  }

  /**
   * Read the trace of this connection, which has a `traceId` and is being opened, and show it.
   *
   * @param {Connection} connection
   */
  watch(connection) {
    if (connection.traceId !== undefined) this._add(connection.traceId, connection);
  }

  /**
   * Show this trace, which the service has.
   *
   * @param {string} id
   */
  _open(id) {
    const index = this._seen.findIndex((seen) => seen.id === id);
    if (index === -1) {
      this._add(id, undefined);
    } else {
      this._select.selectedIndex = index;
      this._choose();
    }
  }

  /**
   * @param {string} id
   * @param {Connection | undefined} connection
   */
  _add(id, connection) {
    const number = connection?.number ?? this._lowest - 1;
    const seen = new Seen(id, number, connection, this.history, () => {
      this._follow();
      this._change();
    });
    this._seen.push(seen);
    this._select.append(element("option", {}, seen.name));
    while (this._seen.length > TRACES) {
      this._seen.shift()?.stop();
      this._select.firstChild.remove();
    }
    this._select.selectedIndex = this._seen.length - 1;
    this._chooser.hidden = false;
    this._choose();
  }

  _choose() {
    this._shown = this._seen[this._select.selectedIndex];
    this._follow();
    this._change();
  }

  /**
   * Have one trace read live: that which is shown, or the newest that there is more of. The others
   * are read when their connections have ended. A few at once would take all the connections that a
   * browser has to the service, with a second tab at the latest.
   */
  _follow() {
    const followed = this._shown?.isGrowing
      ? this._shown
      : this._seen.findLast(({ isGrowing }) => isGrowing);
    if (followed === this._followed) return;
    this._followed?.reading.pause();
    this._followed = followed;
    followed?.reading.follow();
  }

  /** Connections of other clients are numbered from -1 down: those of this page have the others. */
  get _lowest() {
    let lowest = 0;
    const see = (/** @type {number} */ number) => (lowest = Math.min(lowest, number));
    this._seen.forEach(({ number }) => see(number));
    // Those of before a reload; not all of them have a URL there.
    [...this.history.urls.keys()].forEach(see);
    this.history.entries.forEach(({ connection }) => see(connection));
    return lowest;
  }

  /** Draw it with the next frame, if anybody sees it. */
  _change() {
    if (this._isComing || this.panel.hidden || document.hidden) return;
    this._isComing = true;
    requestAnimationFrame(() => this._draw());
  }

  _draw() {
    this._isComing = false;
    this._view.show(this._shown);
  }
}

/** A trace, as much of it as is shown; its events are in the history. */
export class Seen {
  /**
   * @param {string} id
   * @param {number} number of the connection, in the history
   * @param {Connection | undefined} connection undefined if it is another client's
   * @param {History} history
   * @param {() => void} onChange
   */
  constructor(id, number, connection, history, onChange) {
    this.id = id;
    this.number = number;
    this.connection = connection;
    this.name = `${nameOf(number)}, ${id}`;
    /** Why there is nothing to read; empty if there is. */
    this.whyMissing = "";
    this.isOver = false;
    /** @type {import("./trace.js").Facts | undefined} */
    this.facts = undefined;
    /** @type {Clock | undefined} */
    this.clock = undefined;
    /** @type {TraceEvent | undefined} */
    this.request = undefined;
    /** @type {TraceEvent | undefined} */
    this.response = undefined;
    this.framesReceived = 0;
    this.framesSent = 0;
    this.odd = new Odd();
    this._history = history;
    this._onChange = onChange;
    /** @type {WeakSet<Entry>} so that the history may forget them */
    this._entries = new WeakSet();
    /** @type {Map<number, Entry>} of the last pings, by the numbers of their events */
    this._pings = new Map();
    /** @type {Entry | undefined} */
    this._lost = undefined;
    this._offset = NaN; // With which the entries have got their times.
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
    this._stopping = new AbortController();
    this.reading = new Reading(id, {
      onFacts: (facts) => this._onFacts(facts),
      onEvent: (event) => this._onEvent(event),
      onEnd: () => this._onEnd(),
      onBreak: () => this._onChange(),
      onMissing: () => void this._onMissing(),
    });
    // The service has the trace when it has the request: to ask before would be an error.
    this._hasBegun = connection === undefined;
    if (connection !== undefined) this._listen(connection.socket);
  }

  /** Whether it has begun, and there may be more of it that a stream would bring. */
  get isGrowing() {
    return this._hasBegun && this.reading.isGrowing;
  }

  stop() {
    clearTimeout(this._timer);
    this._stopping.abort();
    this.reading.stop();
  }

  /** @param {WebSocket} socket */
  _listen(socket) {
    const options = { signal: this._stopping.signal };
    const onOpen = () => {
      this._hasBegun = true;
      this._onChange();
    };
    socket.addEventListener("open", onOpen, options);
    socket.addEventListener(
      "close",
      () => {
        this.reading.finish();
        this._later();
        this._onChange();
      },
      options,
    );
    socket.addEventListener("message", () => this._later(), options);
  }

  /** @param {import("./trace.js").Facts} facts */
  _onFacts(facts) {
    this.facts = facts;
    this.clock ??= new Clock(facts.accepted);
    this._onChange();
  }

  /** @param {TraceEvent} event */
  _onEvent(event) {
    if (this.clock === undefined) return;
    this.clock.hear(event, now());
    if (Number.isNaN(this._offset)) this._offset = this.clock.offset;
    const comment = this.odd.hear(event);
    /** @type {Entry} */
    const entry = {
      time: this._offset + event.time / 1000,
      connection: this.number,
      from: "server",
      type: typeOf(event),
      data: wordsOf(event) + (comment && `; ${comment}`),
      size: event.length ?? event.size ?? 0,
      serverTime: event.time,
      // Of this page's own, the entry says it that it was begun with.
      url: this.connection || event.type !== "requested" ? undefined : urlIn(event),
    };
    this._entries.add(entry);
    this._history.add(entry);
    this._keep(event, entry);
    this._later();
    this._onChange();
  }

  /**
   * @param {TraceEvent} event
   * @param {Entry} entry
   */
  _keep(event, entry) {
    switch (event.type) {
      case "requested":
        this.request = event;
        break;
      case "opened":
        this.response = event;
        break;
      case "frameReceived":
        this.framesReceived += 1;
        break;
      case "frameSent":
        this.framesSent += 1;
        if (event.opcode !== 9) break;
        this._pings.set(event.number, entry);
        for (const number of this._pings.keys()) {
          if (this._pings.size > PINGS) this._pings.delete(number);
        }
        break;
      case "lost":
        this._lost = entry;
    }
  }

  _onEnd() {
    this.isOver = true;
    const { ended, verdict } = this.facts ?? {};
    if (ended) {
      for (const { number } of this.odd.end(ended, verdict ?? null)) {
        const ping = this._pings.get(number);
        if (ping) ping.data += "; not answered";
      }
      if (this._lost) this._lost.data += `; ${endWords(ended)}`;
    }
    this._pings.clear();
    this._compare(true);
    this._onChange();
  }

  async _onMissing() {
    this.whyMissing =
      (await whyNone()) ||
      "The service has no trace of it: it has not had the request, has refused its script, or " +
        "has forgotten it";
    this._onChange();
  }

  /** Compare the clocks in a moment. */
  _later() {
    this._timer ??= setTimeout(() => {
      this._timer = undefined;
      this._compare(false);
    }, PAUSE);
  }

  /** @param {boolean} isForced give them new times also if these are not much better */
  _compare(isForced) {
    const { clock, connection } = this;
    if (clock === undefined) return;
    if (connection) clock.compare(connection);
    const offset = clock.offset;
    if (!isForced && Math.abs(offset - this._offset) <= BETTER) return;
    this._offset = offset;
    this._history.retime(
      (entry) => this._entries.has(entry),
      ({ serverTime = 0 }) => offset + serverTime / 1000,
    );
    this._onChange();
  }
}

/**
 * What another client has asked for. Whether by ws: or wss:, a proxy may have hidden.
 *
 * @param {TraceEvent} request
 */
function urlIn({ line = "", headers = [] }) {
  const host = headers.find(({ name }) => name.toLowerCase() === "host")?.value ?? "";
  return `${location.protocol.replace("http", "ws")}//${host}${line.split(" ")[1] ?? ""}`;
}
