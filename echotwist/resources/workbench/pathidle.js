// @ts-check
// Connections that lie there, or talk in one direction, for as long as they may: which of them are
// cut, when, and who saw it. echotwist/probe/idle.py says why they are side by side, and opened some
// seconds apart.
import { beside, Ended, Late, seconds } from "./dialer.js";
import { eventsOf } from "./farend.js";

/** Seconds between two messages, or pings. */
const PERIOD = 1;

/** Seconds between the openings of two connections. */
const APART = 2;

/** Seconds without a message where one should come each PERIOD; then the connection is looked at. */
const STALLED = 15;

/** Seconds for the answer to the last message. */
const ALIVE = 10;

/** The last message. */
const QUESTION = "alive?";

/**
 * @typedef {object} Kind what one of the connections does
 * @property {string} name
 * @property {string[]} steps of the lab
 * @property {boolean} [sends] whether the client sends something each PERIOD
 * @property {boolean} [hears] whether the server does
 * @property {boolean} [isMute] whether the server answers no message; the trace has those that came
 *
 * @typedef {object} Row as echotwist/paths/measured.py has it
 * @property {string} row
 * @property {number} opened
 * @property {number} watched
 * @property {number | null} ended
 * @property {import("./dialer.js").End | null} client
 * @property {{age: number, by: string, how: string, tcp: string} | null} server
 * @property {boolean} isServerKnown
 * @property {boolean | null} alive
 * @property {number} fromServer
 * @property {number} fromClient
 */

// Not compressed: so small, they are the same, and their traces can be read.
/** @type {Kind[]} */
const KINDS = [
  { name: "silent", steps: ["extension=none", "keepalive=no"] },
  { name: "serverPings", steps: ["extension=none", `keepalive=${PERIOD}s`] },
  {
    name: "serverData",
    steps: ["extension=none", "keepalive=no", `push=${PERIOD}s`],
    hears: true,
  },
  {
    name: "clientData",
    steps: ["extension=none", "keepalive=no", "ignore=1000000"],
    sends: true,
    isMute: true,
  },
  { name: "both", steps: ["extension=none", "keepalive=no"], sends: true, hears: true },
];

/**
 * Append to `found`, at once, what each connection is at; it is whole after so many seconds.
 *
 * @param {import("./dialer.js").Dialer} near
 * @param {import("./farend.js").FarEnd} far
 * @param {number} duration in seconds
 * @param {Row[]} found
 * @param {(what: string) => void} say
 */
export async function measureIdle(near, far, duration, found, say) {
  const began = seconds();
  /** @type {Promise<void>[]} */
  const watching = [];
  try {
    for (const kind of KINDS) {
      if (watching.length > 0) await near.sleeper.sleep(Math.min(APART, duration / 10));
      const watch = await Watch.open(near, far, kind, began);
      found.push(watch.row);
      watching.push(beside(watch.run(began + duration)));
    }
    say(`${KINDS.length} connections, silent or with data in one direction`);
  } finally {
    await Promise.allSettled(watching);
  }
  await Promise.all(watching);
}

/** One of them. */
class Watch {
  /**
   * @param {import("./dialer.js").Dialer} near
   * @param {import("./farend.js").FarEnd} far
   * @param {Kind} kind
   * @param {number} began
   */
  static async open(near, far, kind, began) {
    const [url, traceId] = far.script(...kind.steps);
    return new Watch(near, far, kind, began, await near.open(url), traceId);
  }

  /**
   * @param {import("./dialer.js").Dialer} near
   * @param {import("./farend.js").FarEnd} far
   * @param {Kind} kind
   * @param {number} began
   * @param {import("./dialer.js").Dialog} dialog
   * @param {string} traceId
   */
  constructor(near, far, kind, began, dialog, traceId) {
    this._near = near;
    this._far = far;
    this._kind = kind;
    this._dialog = dialog;
    this._traceId = traceId;
    this._sent = dialog.opened;
    /** @type {Row} */
    this.row = {
      row: kind.name,
      opened: dialog.opened - began,
      watched: 0,
      ended: null,
      client: null,
      server: null,
      isServerKnown: false,
      alive: null,
      fromServer: 0,
      fromClient: 0,
    };
  }

  /**
   * Talk, or be silent, until then; see whether it is alive; and ask what the server saw.
   *
   * @param {number} until
   */
  async run(until) {
    const { row, _dialog: dialog } = this;
    try {
      await this._talk(until);
      row.alive = false; // Unless it shows.
      row.alive = await this._isAlive();
    } catch (error) {
      if (!(error instanceof Ended)) {
        row.alive = null; // It was stopped, and nobody knows.
        throw error;
      }
      row.ended = dialog.ended - dialog.opened;
      row.client = error.end;
    } finally {
      this._note();
    }
    if (row.alive === false || row.ended !== null) await this._ask();
    if (dialog.end === undefined) await dialog.close();
  }

  /**
   * Returns before `until` if nothing comes for STALLED seconds where something should.
   *
   * @param {number} until
   */
  async _talk(until) {
    const { _dialog: dialog, _kind: kind } = this;
    for (let now = seconds(); now < until; now = seconds()) {
      let deadline = until;
      if (kind.hears) {
        if (now - dialog.heard >= STALLED) return;
        deadline = Math.min(deadline, dialog.heard + STALLED);
      }
      if (kind.sends) {
        if (now - this._sent >= PERIOD) {
          dialog.send("still here");
          this._sent = now;
        }
        deadline = Math.min(deadline, this._sent + PERIOD);
      }
      this._note();
      try {
        await dialog.message(deadline);
      } catch (error) {
        if (!(error instanceof Late)) throw error;
      }
    }
  }

  /** A page sends no ping: a message does it, which makes another silence than a ping. */
  async _isAlive() {
    const { _dialog: dialog, _kind: kind } = this;
    dialog.send(QUESTION);
    const late = seconds() + ALIVE;
    if (kind.isMute) return await this._hasArrived();
    try {
      for (;;) if ((await dialog.message(late)).data === QUESTION) return true;
    } catch (error) {
      if (!(error instanceof Late)) throw error;
      return false;
    }
  }

  /** @returns {Promise<boolean | null>} null if the server cannot be asked */
  async _hasArrived() {
    const isThere = (/** @type {import("./farend.js").Trace} */ trace) =>
      eventsOf(trace, "frameReceived").some(({ text }) => text === QUESTION);
    const trace = await this._far.trace(
      this._traceId,
      (one) => isThere(one) || one.ended !== null || this._dialog.end !== undefined,
      ALIVE,
    );
    if (this._dialog.end !== undefined) throw new Ended(this._dialog.end);
    return trace === undefined ? null : isThere(trace);
  }

  /** How long it has been there, and silent. */
  _note() {
    const { row, _dialog: dialog } = this;
    const at = dialog.end === undefined ? seconds() : dialog.ended;
    row.watched = at - dialog.opened;
    row.fromServer = Math.max(at - dialog.heard, 0);
    row.fromClient = Math.max(at - this._sent, 0);
  }

  async _ask() {
    const trace = await this._far.trace(this._traceId);
    if (trace === undefined) return;
    this.row.isServerKnown = true;
    const { ended } = trace;
    if (ended === null) return;
    const [opened] = eventsOf(trace, "opened");
    this.row.server = {
      age: (ended.time - (opened?.time ?? 0)) / 1e6,
      by: ended.by,
      how: ended.how,
      tcp: ended.tcp,
    };
  }
}
