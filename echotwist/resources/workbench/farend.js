// @ts-check
// The far end of a path: connections to the lab, and what the server saw of them.
import { makeTraceId, urlOf } from "./link.js";
import { pathOf } from "./trace.js";

/** Seconds that the server may take to see the end of a connection, too. */
const SETTLED = 3;

/** Seconds between two questions for a trace. */
const PAUSE = 0.25;

/**
 * @typedef {import("./trace.js").TraceEvent} TraceEvent
 * @typedef {import("./trace.js").Facts & {events: TraceEvent[]}} Trace
 */

export class FarEnd {
  /** @param {import("./sleeper.js").Sleeper} sleeper */
  constructor(sleeper) {
    this._sleeper = sleeper;
  }

  /**
   * The URL of a connection that does this, and the ID of its trace.
   *
   * @param {...string} steps
   * @returns {[string, string]}
   */
  script(...steps) {
    const id = makeTraceId();
    return [urlOf(steps.join("&"), id), id];
  }

  /**
   * What the server saw; undefined if it has not seen that connection, or cannot be asked.
   *
   * @param {string} id
   * @param {(trace: Trace) => boolean} [isWhole] whether that is all that is waited for
   * @param {number} [patience] seconds after which it is taken as it is
   * @returns {Promise<Trace | undefined>}
   */
  async trace(id, isWhole = ({ ended }) => ended !== null, patience = SETTLED) {
    for (let left = patience; ; left -= PAUSE) {
      const answer = await fetch(pathOf(id), { cache: "no-store" }).catch(() => null);
      const trace = answer?.ok ? await answer.json().catch(() => undefined) : undefined;
      if (trace === undefined || isWhole(trace) || left <= 0) return trace;
      await this._sleeper.sleep(PAUSE);
    }
  }
}

/**
 * @param {Trace | undefined} trace
 * @param {string} type
 */
export const eventsOf = (trace, type) => (trace?.events ?? []).filter((one) => one.type === type);

/** @param {TraceEvent} event */
export const isMessage = ({ opcode = 0 }) => opcode < 8;
