// @ts-check
// Runs cases against this very browser, as the harness of a client under test does: it connects,
// and echoes every message, until the connection ends. The verdicts are the server's.

/**
 * Seconds after which a connection is closed that has not ended by itself. X27 never does; H23 is
 * answered after 60.
 */
const PATIENCE = 75;

/**
 * Cases at a time. Some only wait, for up to a minute; but while one connects, Chromium lets others
 * to the same host wait, and one of many messages slows the others down. More are not faster.
 */
const AT_ONCE = 4;

/** Milliseconds after which a case only waits, and does not disturb others. */
const BUSY = 5000;

/** What a case comes to that was disturbed, too. */
const DOUBTFUL = ["FAILED", "UNCLEAN"];

/** Milliseconds for which a report waits for verdicts of other cases. */
const TOGETHER = 200;

/**
 * What the server says of a case: see docs/lab.md.
 *
 * @typedef {object} Verdict
 * @property {string} behavior
 * @property {string} why
 *
 * @typedef {object} Listeners
 * @property {(id: string) => void} onBegin
 * @property {(id: string, verdict: Verdict | undefined, isStopped: boolean) => void} onEnd
 *   without a verdict, if there is none
 * @property {() => void} onDone none runs any more, and none is to be run
 */

export class Runner {
  /**
   * @param {string} agent under which the server keeps the verdicts
   * @param {Listeners} listeners
   */
  constructor(agent, listeners) {
    this.agent = agent;
    this._listeners = listeners;
    /** @type {string[]} */
    this._coming = [];
    /** @type {string[]} when no other is busy */
    this._alone = [];
    /** @type {Map<string, number>} when they began */
    this._running = new Map();
    /** @type {Set<string>} those that are run, or will be, for the second time */
    this._again = new Set();
    this._workers = 0;
    this._stops = 0;
    /** @type {Set<WebSocket>} */
    this._open = new Set();
    /** @type {Promise<Record<string, Verdict>> | undefined} */
    this._report = undefined;
  }

  /**
   * Run these as soon as it is their turn.
   *
   * @param {string[]} ids
   * @param {string[]} holding the IDs of those that make a browser wait for the 101 for long: it
   *   connects to no other meanwhile, so that their turn is last
   * @returns {number} how many were not to be run anyway
   */
  add(ids, holding) {
    const isNew = (/** @type {string} */ id) =>
      ![...this._running.keys(), ...this._coming, ...this._alone].includes(id);
    const [quick, slow] = [ids, holding].map((some) => some.filter(isNew));
    this._coming.push(...quick);
    this._alone.push(...slow);
    const all = this._running.size + this._coming.length + this._alone.length;
    while (this._workers < Math.min(AT_ONCE, all)) {
      this._workers += 1;
      this._work().finally(() => {
        this._workers -= 1;
        if (this._workers === 0) this._listeners.onDone();
      });
    }
    return quick.length + slow.length;
  }

  /**
   * Run no other, and end those that have begun.
   *
   * @returns {number} how many will never begin
   */
  stop() {
    // They would be run again, and do not run now.
    const waiting = this._alone.filter((id) => this._again.has(id));
    const dropped = this._coming.length + this._alone.length - waiting.length;
    this._stops += 1;
    this._coming = [];
    this._alone = [];
    this._running.clear();
    this._again.clear();
    for (const socket of this._open) socket.close();
    for (const id of waiting) this._listeners.onEnd(id, undefined, true);
    return dropped;
  }

  async _work() {
    for (let id; (id = await this._next()) !== undefined;) {
      const stops = this._stops;
      const isAlone = this._workers === 1;
      this._running.set(id, performance.now());
      this._listeners.onBegin(id);
      await this._echo(id);
      const verdict = stops === this._stops ? await this._verdictOf(id) : undefined;
      const isStopped = stops !== this._stops;
      if (!isStopped) this._running.delete(id);
      if (verdict && !isStopped && !isAlone && this._isDoubtful(id, verdict)) {
        this._again.add(id);
        this._alone.unshift(id);
        continue;
      }
      this._again.delete(id);
      this._listeners.onEnd(id, isStopped ? undefined : verdict, isStopped);
    }
  }

  /**
   * Whether it is to be run again with nothing beside it.
   *
   * @param {string} id
   * @param {Verdict} verdict
   */
  _isDoubtful(id, { behavior }) {
    return DOUBTFUL.includes(behavior) && !this._again.has(id);
  }

  /** @returns {Promise<string | undefined>} the next case; undefined if there is none */
  async _next() {
    while (!this._coming.length && this._alone.length) {
      const now = performance.now();
      if (![...this._running.values()].some((began) => now - began < BUSY)) {
        return this._alone.shift();
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return this._coming.shift();
  }

  /**
   * Echoes until the connection of this case ends.
   *
   * @param {string} id
   */
  _echo(id) {
    return new Promise((resolve) => {
      const socket = this._connect(`runCase?casetuple=${id}`, ["echo"]);
      const timer = setTimeout(() => socket.close(), PATIENCE * 1000);
      socket.onmessage = ({ data }) => socket.send(data);
      socket.addEventListener("close", () => {
        clearTimeout(timer);
        resolve(undefined);
      });
    });
  }

  /** @param {string} id */
  async _verdictOf(id) {
    // This waits for the verdict, which the server has only when TCP has ended, too. The report
    // does not wait; and while there is no verdict at all, it is a 404, which a browser reports.
    const status = await this._ask(`getCaseStatus?casetuple=${id}`);
    if (status === undefined || JSON.parse(status).behavior === "UNIMPLEMENTED") return undefined;
    this._report ??= this._read();
    return (await this._report)[id];
  }

  /** @returns {Promise<Record<string, Verdict>>} by the IDs of the cases */
  async _read() {
    await new Promise((resolve) => setTimeout(resolve, TOGETHER));
    this._report = undefined;
    try {
      const answer = await fetch(`lab/report?format=json&${this._query}`, { cache: "no-store" });
      return answer.ok ? ((await answer.json())[this.agent] ?? {}) : {};
    } catch {
      return {};
    }
  }

  /**
   * @param {string} path
   * @returns {Promise<string | undefined>} the one message that it sends
   */
  _ask(path) {
    return new Promise((resolve) => {
      const socket = this._connect(path, []);
      /** @type {string | undefined} */
      let text;
      socket.onmessage = ({ data }) => (text = data);
      socket.addEventListener("close", () => resolve(text));
    });
  }

  /**
   * @param {string} path
   * @param {string[]} subprotocols
   */
  _connect(path, subprotocols) {
    const url = new URL(`${path}&${this._query}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, subprotocols);
    socket.binaryType = "arraybuffer";
    this._open.add(socket);
    socket.addEventListener("close", () => this._open.delete(socket));
    return socket;
  }

  get _query() {
    return `agent=${encodeURIComponent(this.agent)}`;
  }
}
