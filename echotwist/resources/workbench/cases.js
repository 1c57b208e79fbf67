// @ts-check
// The cases: a list to choose from, and what this browser makes of them.
import { element } from "./element.js";
import { Runner } from "./runner.js";

/** By the first letter of an ID. */
/** @type {Record<string, string>} */
const GROUPS = { F: "Frames", C: "Compression", X: "Closing and loss", H: "Handshake" };

/** From the best to the worst, as docs/lab.md has them. */
/** @type {Record<string, {style: string, meaning: string}>} */
const BEHAVIORS = {
  OK: { style: "good", meaning: "it did what it must, as far as the server can see" },
  "NON-STRICT": { style: "warn", meaning: "it may do that, and should do otherwise" },
  INFORMATIONAL: {
    style: "",
    meaning: "what matters cannot be seen from the server, or no rule says what is right",
  },
  UNCLEAN: {
    style: "bad",
    meaning: "it did what it must, and left TCP, or the closing handshake, without an end",
  },
  FAILED: { style: "bad", meaning: "it broke a rule" },
};

/**
 * @typedef {import("./runner.js").Verdict} Verdict
 *
 * @typedef {object} Case what GET /lab/cases tells of one
 * @property {string} id
 * @property {string} title what the server does: `masks a frame`
 * @property {string} script
 * @property {string} source
 * @property {string | null} seen where a client did otherwise
 * @property {string | null} needs what a client has to offer
 *
 * @typedef {object} Row
 * @property {Case} case
 * @property {HTMLElement} item
 * @property {HTMLElement} result
 * @property {Verdict | undefined} verdict
 */

export class Cases {
  /**
   * @param {HTMLElement} section empty; becomes the list
   * @param {Case[]} cases
   * @param {(script: string) => void} onUse somebody wants this script
   */
  constructor(section, cases, onUse) {
    this._onUse = onUse;
    /** @type {Map<string, Row>} */
    this._rows = new Map(cases.map((each) => [each.id, this._makeRow(each)]));
    this._runner = new Runner(agentName(), {
      onBegin: (id) => this._onBegin(id),
      onEnd: (...ended) => this._onEnd(...ended),
      onDone: () => this._onDone(),
    });
    this._total = 0;
    this._done = 0;
    this._latest = ""; // The one that was the last to begin, or to end.
    this._isStopped = false;

    this._filter = element("input", {
      type: "search",
      placeholder: "such as ping, or F01, F02",
      autocomplete: "off",
      spellcheck: false,
      oninput: () => this._onFilter(),
    });
    this._runShown = element("button", {
      type: "button",
      onclick: () => this._run(this._shown().map((row) => row.case)),
    });
    this._stop = element("button", {
      type: "button",
      hidden: true,
      textContent: "Stop",
      onclick: () => this._stopAll(),
    });
    this._bar = element("progress", { "aria-label": "Cases that were run", hidden: true });
    this._progress = element("span");
    this._counts = element("span");
    this._report = element("a", {
      href: `lab/report?agent=${encodeURIComponent(this._runner.agent)}`,
      target: "_blank",
      hidden: true,
      textContent: "Report, in a new tab",
    });
    this._status = element("p", { role: "status", className: "hint" });
    this._groups = this._makeGroups();
    section.append(
      element("h3", {}, "Cases"),
      element(
        "p",
        { className: "hint" },
        "Scripts of which the server judges what a client makes of them. Run has this browser " +
          "connect, and echo what comes, until the connection ends; one that fails beside others " +
          "is run again alone. Use only makes it the script: send back what comes yourself. All of them take about a minute and a half. Many end in what the " +
          "browser reports as an error in its console; and while one waits for its 101, the " +
          "browser may let other connections to this server wait.",
      ),
      element(
        "div",
        { className: "row" },
        element("label", { className: "wide" }, "Filter by any word, verdicts too", this._filter),
        this._runShown,
        this._stop,
      ),
      element("div", { className: "row" }, this._bar, this._progress),
      element("div", { className: "row" }, this._counts, this._report),
      this._status,
      ...this._groups.map(({ details }) => details),
      makeLegend(),
    );
    this._show();
  }

  /**
   * @param {Case} each
   * @returns {Row}
   */
  _makeRow(each) {
    const { id, title, script, source, seen, needs } = each;
    const result = element("p", { hidden: true });
    const facts = [source, needs && `needs ${needs}`, seen && `seen with ${seen}`];
    const button = (/** @type {string} */ label, /** @type {() => void} */ onclick) =>
      element("button", { type: "button", onclick, "aria-label": `${label} ${id}` }, label);
    const item = element(
      "li",
      { className: "case" },
      element("b", {}, id),
      element(
        "div",
        {},
        element("p", {}, `The server ${title}. `),
        element("p", { className: "hint" }, facts.filter(Boolean).join("; ")),
        element("code", {}, script),
        result,
      ),
      element(
        "div",
        { className: "buttons" },
        button("Use", () => this._onUse(`case=${id}`)),
        button("Run", () => this._run([each])),
      ),
    );
    return { case: each, item, result, verdict: undefined };
  }

  /** In the order of the catalogue. */
  _makeGroups() {
    const letters = [...new Set([...this._rows.keys()].map((id) => id[0]))];
    return letters.map((letter) => {
      const rows = [...this._rows.values()].filter((row) => row.case.id[0] === letter);
      const summary = element("summary");
      const items = rows.map(({ item }) => item);
      const list = element("ul", { className: "cases", role: "list" }, ...items);
      const details = element("details", {}, summary, list);
      return { name: GROUPS[letter] ?? letter, rows, summary, details };
    });
  }

  /** The rows that the filter lets through: all words of one of its parts are in them. */
  _shown() {
    const parts = this._filter.value
      .toLowerCase()
      .split(",")
      .map((/** @type {string} */ part) => part.split(/\s+/).filter(Boolean))
      .filter((/** @type {string[]} */ words) => words.length);
    return [...this._rows.values()].filter(({ case: each, verdict }) => {
      const { id, title, script, source, seen, needs } = each;
      const texts = [id, title, script, source, seen, needs, verdict?.behavior];
      const text = texts.join("\n").toLowerCase();
      return !parts.length || parts.some((/** @type {string[]} */ words) => isIn(text, words));
    });
  }

  _show() {
    const shown = new Set(this._shown());
    const isFiltered = shown.size < this._rows.size;
    for (const row of this._rows.values()) row.item.hidden = !shown.has(row);
    for (const { name, rows, summary, details } of this._groups) {
      const some = rows.filter((row) => shown.has(row));
      details.hidden = !some.length;
      if (isFiltered) details.open = true;
      const counts = countsOf(some);
      summary.textContent = `${name}: ${many(some.length)}${counts && `; ${counts}`}`;
    }
    const which = shown.size === 1 ? "this one" : `these ${shown.size}`;
    this._runShown.textContent = `Run ${isFiltered ? which : `all ${shown.size}`}`;
    this._runShown.disabled = !shown.size;
    this._counts.textContent = countsOf([...this._rows.values()]);
  }

  _onFilter() {
    this._show();
    const { length } = this._shown();
    const isFiltered = length < this._rows.size;
    this._status.textContent = isFiltered ? `The filter lets ${many(length)} through.` : "";
  }

  /** @param {Case[]} cases */
  _run(cases) {
    if (this._done === this._total) this._total = this._done = 0;
    const idsOf = (/** @type {Case[]} */ some) => some.map(({ id }) => id);
    const added = this._runner.add(
      idsOf(cases.filter((each) => !isHolding(each))),
      idsOf(cases.filter(isHolding)),
    );
    this._total += added;
    this._isStopped = false;
    this._stop.hidden = this._bar.hidden = false;
    this._showProgress();
    if (added) this._status.textContent = `Running ${many(added)}.`;
  }

  _stopAll() {
    this._isStopped = true;
    this._total -= this._runner.stop();
  }

  /** @param {string} id */
  _onBegin(id) {
    const row = /** @type {Row} */ (this._rows.get(id));
    row.verdict = undefined;
    row.result.hidden = false;
    row.result.replaceChildren("Running");
    this._latest = id;
    this._showProgress();
  }

  /**
   * @param {string} id
   * @param {Verdict | undefined} verdict
   * @param {boolean} isStopped
   */
  _onEnd(id, verdict, isStopped) {
    const row = /** @type {Row} */ (this._rows.get(id));
    row.verdict = verdict;
    if (verdict) {
      const className = BEHAVIORS[verdict.behavior]?.style ?? "";
      row.result.replaceChildren(
        element("b", { className }, verdict.behavior),
        `: this browser ${verdict.why}`,
      );
      this._report.hidden = false;
    } else {
      row.result.replaceChildren(
        isStopped
          ? "No verdict: it was stopped"
          : "No verdict: the server is full or gone, or has several processes (--workers)",
      );
    }
    this._done += 1;
    this._latest = id;
    this._showProgress();
    this._show();
  }

  _onDone() {
    if (document.activeElement === this._stop) this._runShown.focus();
    this._stop.hidden = true;
    this._total = this._done;
    this._latest = "";
    this._showProgress();
    const how = this._isStopped ? "Stopped" : "Done";
    this._status.textContent = `${how}: ${many(this._done)} run.`;
  }

  _showProgress() {
    this._bar.max = this._total;
    this._bar.value = this._done;
    const latest = this._latest && `, ${this._latest}`;
    this._progress.textContent = `${this._done} of ${this._total}${latest}`;
  }
}

/**
 * @param {string} text
 * @param {string[]} words
 */
function isIn(text, words) {
  return words.every((word) => text.includes(word));
}

/** @param {number} count */
function many(count) {
  return count === 1 ? "1 case" : `${count} cases`;
}

/**
 * Whether the answer to its handshake is held for ten seconds and more.
 *
 * @param {Case} each
 */
function isHolding({ script }) {
  return /(?:^|&)hold=\d\d+s/.test(script);
}

/**
 * @param {Row[]} rows
 * @returns {string} such as `3 OK, 1 FAILED`; empty without a verdict
 */
function countsOf(rows) {
  return Object.keys(BEHAVIORS)
    .map((name) => ({ name, count: rows.filter((r) => r.verdict?.behavior === name).length }))
    .filter(({ count }) => count)
    .map(({ name, count }) => `${count} ${name}`)
    .join(", ");
}

function makeLegend() {
  const terms = Object.entries(BEHAVIORS).flatMap(([name, { style, meaning }]) => [
    element("dt", { className: style }, name),
    element("dd", {}, meaning),
  ]);
  return element(
    "details",
    {},
    element("summary", {}, "What the verdicts mean"),
    element("dl", { className: "verdicts" }, ...terms),
  );
}

/**
 * A name for this browser in its report, such as `Chromium 120 k3v9qx`. It is random: whoever knows
 * it can read the report, and add to it.
 */
function agentName() {
  const random = [...crypto.getRandomValues(new Uint8Array(10))];
  const letters = random.map((byte) => (byte % 36).toString(36)).join("");
  return `${browserName()} ${letters}`;
}

/** Of this browser, and its version. */
function browserName() {
  /** @type {{brand: string, version: string}[]} */
  const brands = /** @type {any} */ (navigator).userAgentData?.brands ?? [];
  // One of them is nonsense, so that nobody relies on the list: `Not/A)Brand`.
  const real = brands.filter(({ brand }) => !/not.*brand/i.test(brand));
  const best = real.find(({ brand }) => brand !== "Chromium") ?? real[0];
  if (best) return `${best.brand} ${best.version}`.slice(0, 60);
  const agent = navigator.userAgent;
  const found = /(Firefox|Edg|OPR|Chrome)\/(\d+)/.exec(agent) ?? /(Version)\/(\d+)/.exec(agent);
  return found ? `${found[1].replace("Version", "Safari")} ${found[2]}` : "Browser";
}
