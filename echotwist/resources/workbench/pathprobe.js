// @ts-check
// One probe of the path between this browser and the service: all areas, and the verdicts, which the
// service gives by the same rules as `echotwist probe`.
import { beside, Dialer, Ended, Late, Refused, seconds } from "./dialer.js";
import { FarEnd } from "./farend.js";
import { urlOf } from "./link.js";
import { measureBytes } from "./pathbytes.js";
import { measureFlow } from "./pathflow.js";
import { measureHandshake } from "./pathhandshake.js";
import { measureIdle } from "./pathidle.js";
import { measureSizes } from "./pathsizes.js";
import { Sleeper } from "./sleeper.js";

/**
 * @typedef {object} Finding
 * @property {string} rule
 * @property {"problem" | "limit" | "note"} level
 * @property {string} title
 * @property {string[]} evidence
 * @property {string[]} consistentWith
 * @property {string[]} cures
 *
 * @typedef {object} Report
 * @property {string} url
 * @property {string} began in ISO 8601, UTC
 * @property {string} userAgent
 * @property {number} duration in seconds
 * @property {number} hidden seconds of it in which the page was hidden
 * @property {Finding[]} findings the worst first
 * @property {[string, string, string][]} lines area, what was measured, and what came of it
 * @property {Record<string, any>} measured as echotwist/paths/measured.py has it
 * @property {Record<string, string>} incomplete areas that could not be finished, and why
 * @property {string} whyNoVerdict empty if there is one
 */

export class Probe {
  /**
   * @param {number} duration seconds for which idle connections are watched
   * @param {(area: string, what: string) => void} say is told what is tried; `what` is empty once
   *   the area is done
   */
  constructor(duration, say) {
    this._duration = duration;
    this._say = say;
    this._stopping = new AbortController();
    /** @type {Report} */
    this.report = {
      url: urlOf(""),
      began: new Date().toISOString(),
      userAgent: navigator.userAgent,
      duration: 0,
      hidden: 0,
      findings: [],
      lines: [],
      measured: {},
      incomplete: {},
      whyNoVerdict: "",
    };
  }

  /** End it; what is known is judged. */
  stop() {
    this._stopping.abort(new Stopped("stopped"));
  }

  /** @returns {Promise<Report>} */
  async run() {
    const began = seconds();
    const watching = new Visibility();
    const { signal } = this._stopping;
    const sleeper = new Sleeper(signal);
    const { report } = this;
    try {
      await this._measure(new Dialer(sleeper, signal), new FarEnd(sleeper));
    } catch (error) {
      if (!(error instanceof Stopped)) throw error;
    } finally {
      this._stopping.abort(new Stopped("done"));
      report.duration = seconds() - began;
      report.hidden = watching.stop();
    }
    await this._judge();
    return report;
  }

  /**
   * @param {Dialer} near
   * @param {FarEnd} far
   */
  async _measure(near, far) {
    const { measured, incomplete } = this.report;
    measured.farEnd = await lookAtFarEnd();
    measured.handshake = {};
    await this._area("handshake", () => measureHandshake(near, far, measured.handshake));
    const { refused, labRefused } = measured.handshake;
    if (refused ?? labRefused) {
      // Both ends are seen at the lab alone.
      for (const area of ["bytes", "sizes", "flow", "idle"]) {
        incomplete[area] = "there is no WebSocket to the lab";
      }
      return;
    }
    measured.idle = [];
    const watching = beside(
      this._area("idle", (say) => measureIdle(near, far, this._duration, measured.idle, say)),
    );
    try {
      // They follow one another: each wants the path alone.
      measured.bytes = [];
      await this._area("bytes", (say) => measureBytes(near, far, measured.bytes, say));
      measured.sizes = [];
      await this._area("sizes", (say) => measureSizes(near, far, measured.sizes, say));
      measured.flow = {};
      await this._area("flow", (say) => measureFlow(near, far, measured.flow, say));
    } finally {
      await watching;
    }
  }

  /**
   * Have one area measured; what keeps it from being finished is noted.
   *
   * @param {string} area
   * @param {(say: (what: string) => void) => Promise<void>} measure
   */
  async _area(area, measure) {
    const { incomplete } = this.report;
    this._say(area, "begins");
    try {
      await measure((what) => this._say(area, what));
    } catch (error) {
      if (error instanceof Refused) incomplete[area] = `no WebSocket: ${error.message}`;
      else if (error instanceof Ended) incomplete[area] = `the connection ended: ${error.message}`;
      else if (error instanceof Late) incomplete[area] = error.message;
      else if (error instanceof Stopped) {
        incomplete[area] = error.message;
        throw error;
      } else throw error;
    } finally {
      this._say(area, "");
    }
  }

  async _judge() {
    const { report } = this;
    try {
      const answer = await fetch("lab/verdict", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(bounded(report.measured)),
      });
      const found = await answer.json();
      if (!answer.ok) {
        const { at, problem } = found.error;
        throw new Error(`${answer.status}, ${[at, problem].filter(Boolean).join(": ")}`);
      }
      report.findings = found.findings;
      report.lines = found.lines;
    } catch (error) {
      report.whyNoVerdict = `The service gave no verdict (${/** @type {Error} */ (error).message})`;
    }
    for (const [area, why] of Object.entries(report.incomplete)) {
      report.lines.push(["not finished", area, why]);
    }
  }
}

class Stopped extends Error {}

/** How long the page is hidden. */
class Visibility {
  constructor() {
    this._hidden = 0;
    this._since = document.hidden ? seconds() : undefined;
    this._onChange = () => {
      if (this._since !== undefined) this._hidden += seconds() - this._since;
      this._since = document.hidden ? seconds() : undefined;
    };
    document.addEventListener("visibilitychange", this._onChange);
  }

  /** @returns {number} seconds */
  stop() {
    this._onChange();
    document.removeEventListener("visibilitychange", this._onChange);
    return this._hidden;
  }
}

/** @returns {Promise<{isLab: boolean, why: string, server: string | null}>} */
async function lookAtFarEnd() {
  const answer = await fetch("lab", { cache: "no-store" }).catch(() => null);
  const isLab = (await answer?.json().catch(() => null))?.steps !== undefined;
  const why = answer === null ? "there is no answer" : `GET lab is answered ${answer.status}`;
  return { isLab, why: isLab ? "" : why, server: answer?.headers.get("Server") ?? null };
}

/** Characters of a text, and elements of a list of lists, that the service takes. */
const CHARACTERS = 1000;
const HEADERS = 40;

/**
 * What the service takes of it: the way may have added headers without end.
 *
 * @param {any} value
 * @returns {any}
 */
function bounded(value) {
  if (typeof value === "string") return value.slice(0, CHARACTERS);
  if (Array.isArray(value)) {
    return value.slice(0, Array.isArray(value[0]) ? HEADERS : undefined).map(bounded);
  }
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, bounded(each)]));
}
