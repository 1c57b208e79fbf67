// @ts-check
// The trace of a connection as the service has it, read while it grows: docs/trace.schema.json.

/** Milliseconds until a trace that is missing is asked for again; each pause is twice the last. */
const FIRST = 500;

/** Attempts: about a minute. Each is an error in the console. */
const ATTEMPTS = 7;

/** Milliseconds that the end of a stream may take after its last event. */
const PATIENCE = 2000;

const TYPES = [
  ...["requested", "opened", "read", "wrote", "frameReceived", "frameSent", "bytesSent"],
  ...["refused", "scriptEnded", "finReceived", "finSent", "lost"],
];

/**
 * An event of the schema; what it has depends on its type.
 *
 * @typedef {object} TraceEvent
 * @property {number} number
 * @property {number} time microseconds since accept
 * @property {string} type
 * @property {string} [line] of the request
 * @property {Header[]} [headers]
 * @property {string} [head] of the response
 * @property {number} [size]
 * @property {boolean} [fin]
 * @property {number} [rsv]
 * @property {number} [opcode]
 * @property {number} [length]
 * @property {string | null} [mask]
 * @property {string} [data] hex
 * @property {string} [text]
 * @property {number | null} [code]
 * @property {string} [reason]
 * @property {string} [how]
 *
 * @typedef {{name: string, value: string | null, redacted?: number}} Header
 *
 * @typedef {object} Facts
 * @property {string} accepted
 * @property {string | null} peer
 * @property {string | null} client
 * @property {string[]} proxies
 * @property {{version: string, cipher: string, serverName: string | null} | null} tls
 * @property {string | null} subprotocol
 * @property {string | null} extensions
 * @property {{offer: string, why: string}[]} declined
 * @property {string | null} case
 * @property {{behavior: string, why: string} | null} verdict
 * @property {{time: number, by: string, how: string, tcp: string} | null} ended
 * @property {{events: number, segments: number}} leftOut
 *
 * @typedef {object} Hearer
 * @property {(facts: Facts) => void} onFacts first of all, and again at the end
 * @property {(event: TraceEvent) => void} onEvent
 * @property {() => void} onBreak its stream is broken, and tried again
 * @property {() => void} onEnd the connection has ended; there is no more
 * @property {() => void} onMissing the service has no such trace
 */

/** @param {string} id */
export const pathOf = (id) => `trace/${encodeURIComponent(id)}`;

/**
 * Whether the service has that trace now. Each time that it has not is an error in the console.
 *
 * @param {string} id
 */
export const hasTrace = async (id) => (await statusOf(pathOf(id))) === 200;

/**
 * Why the service makes no traces; empty if it does.
 *
 * @returns {Promise<string>}
 */
export async function whyNone() {
  const status = await statusOf("lab");
  if (status === 0) return "The service cannot be reached";
  if (status !== 404) return "";
  return "This service has no lab (--no-lab), which is where traces are made";
}

/**
 * @param {string} path
 * @returns {Promise<number>} 0 if there is no answer
 */
async function statusOf(path) {
  try {
    const answer = await fetch(path, { method: "HEAD", cache: "no-store" });
    await answer.text(); // A body that nobody reads, even none, is a request broken off.
    return answer.status;
  } catch {
    return 0;
  }
}

/**
 * A browser has six connections to a host by HTTP/1.1, for all tabs, and a stream takes one for as
 * long as it is followed. So whoever has several readings follows one of them.
 */
export class Reading {
  /**
   * @param {string} id
   * @param {Hearer} hearer
   */
  constructor(id, hearer) {
    this.id = id;
    /** Whether its stream was broken off, and has not come again. */
    this.isBroken = false;
    this._hearer = hearer;
    this._last = -1; // The number of the last event.
    this._attempt = 0;
    this._isFollowed = false;
    this._isGone = false;
    this._isOver = false;
    /** @type {EventSource | undefined} */
    this._source = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
  }

  /** Whether there may be more of it that a stream would bring. */
  get isGrowing() {
    return !this._isOver && (!this._isGone || this._isFollowed);
  }

  /** Read it as it grows. */
  follow() {
    if (!this.isGrowing || this._isFollowed) return;
    this._isFollowed = true;
    this._listen();
  }

  /** Leave the stream to another; what comes meanwhile is read later. */
  pause() {
    if (!this._isFollowed || this._isOver) return;
    this._leave();
    if (this._isGone) void this._read();
  }

  /** Read it to its end: its connection has ended. */
  finish() {
    if (this._isOver || this._isGone) return;
    this._isGone = true;
    // A stream that is there brings the end, or an error.
    if (this._isFollowed && !this.isBroken) return;
    this._leave();
    this._attempt = 0;
    void this._read();
  }

  /** Hear nothing more of it. */
  stop() {
    this._isOver = true;
    this._leave();
  }

  _listen() {
    const source = (this._source = new EventSource(`${pathOf(this.id)}?format=events`));
    source.addEventListener("trace", ({ data }) => {
      this._attempt = 0;
      this.isBroken = false;
      this._hearer.onFacts(JSON.parse(data));
    });
    for (const type of TYPES) {
      source.addEventListener(type, ({ data }) => this._hear(JSON.parse(data)));
    }
    source.addEventListener("end", ({ data }) => {
      this._hearer.onFacts(JSON.parse(data));
      this._isOver = true;
      // Closed now, it would be a request that was broken off; left alone, it would connect again.
      this._timer = setTimeout(() => this._leave(), PATIENCE);
      this._hearer.onEnd();
    });
    source.onerror = () => {
      if (this._isOver) this._leave();
      else this._break(source);
    };
  }

  /** @param {EventSource} source */
  _break(source) {
    this.isBroken = true;
    if (this._isGone) {
      this._leave();
      void this._read();
    } else if (source.readyState === EventSource.CLOSED) {
      // It was no 200, after which an EventSource gives up for good.
      this._tryAgain(() => this._listen());
    } else if ((this._attempt += 1) === ATTEMPTS) {
      this._miss(); // Else it would go on for ever.
    }
    this._hearer.onBreak();
  }

  /** Read what there is of it now, until it has an end. */
  async _read() {
    const answer = await fetch(pathOf(this.id), { cache: "no-store" }).catch(() => null);
    const trace = await answer?.json().catch(() => null);
    if (this._isOver) return;
    if (!answer?.ok || !trace) {
      if (answer === null) this._tryAgain(() => this._read());
      else this._miss();
      return;
    }
    const { events, ...facts } = trace;
    this._hearer.onFacts(facts);
    for (const event of events) this._hear(event);
    if (facts.ended === null) {
      // The close of the browser may be earlier than that of TCP, by some minutes even.
      this._attempt = Math.min(this._attempt + 1, ATTEMPTS - 1);
      this._later(() => this._read());
    } else {
      this.stop();
      this._hearer.onEnd();
    }
  }

  /** @param {() => void} what has failed */
  _tryAgain(what) {
    this._attempt += 1;
    if (this._attempt === ATTEMPTS) this._miss();
    else this._later(what);
  }

  /** @param {() => void} what is done after a pause */
  _later(what) {
    this._timer = setTimeout(what, FIRST * 2 ** (this._attempt - 1));
  }

  /** @param {TraceEvent} event */
  _hear(event) {
    if (event.number <= this._last) return; // One that is read again comes from its beginning.
    this._last = event.number;
    this._hearer.onEvent(event);
  }

  _miss() {
    this.stop();
    this._hearer.onMissing();
  }

  /** Close the stream, if there is one. */
  _leave() {
    clearTimeout(this._timer);
    this._source?.close();
    this._source = undefined;
    this._isFollowed = this.isBroken = false;
  }
}
