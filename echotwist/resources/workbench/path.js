// @ts-check
// What the path between this browser and the service does to WebSockets: a probe, and its report.
import { copy, element, save } from "./element.js";
import { urlOf } from "./link.js";
import { asMarkdown, circumstancesOf, partsOf, summaryOf } from "./pathreport.js";
import { whyNone } from "./trace.js";

/** Seconds: infrastructure cuts what is idle after 30 to 120. */
const DURATION = 150;
const LEAST = 5;
const MOST = 4 * 3600;

/** Milliseconds between two looks at how long it still takes. */
const TICK = 500;

/**
 * @typedef {import("./pathprobe.js").Probe} Probe
 * @typedef {import("./pathprobe.js").Report} Report
 */

export class Path {
  /** @param {HTMLElement} panel empty; becomes the tool */
  constructor(panel) {
    /** @type {Probe | undefined} the one that runs */
    this._probe = undefined;
    /** @type {Report | undefined} the last one */
    this._report = undefined;
    /** @type {Map<string, string>} what is tried, by the area */
    this._trying = new Map();
    this._ends = 0;

    this._duration = element("input", {
      type: "number",
      min: LEAST,
      max: MOST,
      value: DURATION,
      required: true,
    });
    this._start = element("button", { type: "submit" }, "Probe this path");
    this._stop = element("button", { type: "button", hidden: true, onclick: () => this._onStop() });
    this._stop.textContent = "Stop, and judge what is known";
    this._bar = element("progress", { "aria-label": "Progress of the probe", max: 1 });
    this._left = element("span", { className: "left" });
    this._progress = element("div", { className: "row", hidden: true }, this._bar, this._left);
    this._status = element("p", { role: "status" });
    this._result = element("div", { hidden: true });
    const form = element(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          void this._run();
        },
      },
      element("label", {}, "Watch idle connections for (s)", this._duration),
      this._start,
      this._stop,
    );
    panel.append(
      element(
        "p",
        { className: "hint" },
        "Finds out what the proxies between this browser and the service do to WebSockets: " +
          "what cuts, strips, buffers or limits them. It opens connections to the lab, and compares " +
          "what the page sees with what the server saw. It takes as long as idle connections are " +
          "watched, half a minute at least on a slow line, and transfers some 50 MB.",
      ),
      form,
      this._progress,
      this._status,
      this._result,
      unseen(),
    );
  }

  async _run() {
    if (this._probe !== undefined) return;
    const hadFocus = this._start === document.activeElement; // Of which a disabled one is no place.
    this._start.disabled = true;
    this._say("");
    try {
      const why = await whyNone();
      if (why) {
        this._say(`${why}: without it nothing can be told of the path from a page`);
        return;
      }
      // Loaded now: few who open the workbench want it, and it is a tenth of all its scripts.
      const { Probe } = await import("./pathprobe.js");
      const duration = this._duration.valueAsNumber;
      this._trying.clear();
      this._ends = performance.now() + duration * 1000;
      this._probe = new Probe(duration, (area, what) => this._onTry(area, what));
      this._result.hidden = true;
      this._stop.hidden = this._progress.hidden = false;
      if (hadFocus) this._stop.focus();
      this._say("The probe runs");
      await this._finish(this._probe, duration);
    } catch (error) {
      this._say(`The probe failed: ${/** @type {Error} */ (error).message}`);
    } finally {
      this._probe = undefined;
      const isFocused = this._stop === document.activeElement;
      this._stop.hidden = this._progress.hidden = true;
      this._start.disabled = false;
      if (isFocused) this._start.focus();
    }
  }

  /**
   * @param {Probe} probe
   * @param {number} duration
   */
  async _finish(probe, duration) {
    const timer = setInterval(() => this._showProgress(duration), TICK);
    this._showProgress(duration);
    try {
      this._report = await probe.run();
    } finally {
      clearInterval(timer);
    }
    this._show(this._report);
    this._say(summaryOf(this._report));
  }

  _onStop() {
    this._probe?.stop();
  }

  /**
   * @param {string} area
   * @param {string} what
   */
  _onTry(area, what) {
    if (what) this._trying.set(area, what);
    else this._trying.delete(area);
  }

  /** @param {number} duration */
  _showProgress(duration) {
    const left = Math.max((this._ends - performance.now()) / 1000, 0);
    this._bar.value = 1 - left / duration;
    const seconds = String(Math.round(left) % 60).padStart(2, "0");
    const time =
      left > 0 ? `${Math.floor(Math.round(left) / 60)}:${seconds} left` : "the rest of it";
    const trying = [...this._trying].map(([area, what]) => `${area}: ${what}`);
    this._left.textContent = [time, ...trying].join("; ");
  }

  /** @param {string} text */
  _say(text) {
    this._status.textContent = text && `${text.replace(/\.$/, "")}.`;
  }

  /** @param {Report} report */
  _show(report) {
    const button = (
      /** @type {string} */ label,
      /** @type {(button: HTMLButtonElement) => void} */ deed,
    ) =>
      element(
        "button",
        {
          type: "button",
          onclick: (/** @type {MouseEvent} */ { currentTarget }) =>
            deed(/** @type {HTMLButtonElement} */ (currentTarget)),
        },
        label,
      );
    const json = () => `${JSON.stringify(report, null, 1)}\n`;
    const name = `path-${report.began.slice(0, 19).replaceAll(":", "-")}.json`;
    this._result.replaceChildren(
      ...(report.findings.length > 0 ? [element("h3", {}, "What was found")] : []),
      ...report.findings.map(findingOf),
      element(
        "div",
        { className: "row" },
        button("Copy report", (it) => void copy(asMarkdown(report), it)),
        button("Copy JSON", (it) => void copy(json(), it)),
        button("Save JSON", () => save(name, [json()], "application/json")),
      ),
      element("h3", {}, "What was measured"),
      element("p", { className: "hint" }, `${circumstancesOf(report)}.`),
      tableOf(report),
      element(
        "p",
        { className: "hint" },
        "A page sees neither the request that its browser sends nor the answer: what arrived was " +
          "compared with what every browser sends, and of the answer the extensions and the " +
          "subprotocol are known.",
      ),
    );
    this._result.hidden = false;
  }
}

/** @param {import("./pathprobe.js").Finding} finding */
function findingOf(finding) {
  const style = { problem: "bad", limit: "warn", note: "" }[finding.level];
  return element(
    "article",
    { className: "finding", "data-rule": finding.rule },
    element("h4", {}, element("span", { className: style }, `${finding.level}: `), finding.title),
    ...partsOf(finding).flatMap(([label, values]) => [
      element("p", { className: "label" }, label),
      element("ul", {}, ...values.map((value) => element("li", {}, value))),
    ]),
  );
}

/** @param {Report} report */
function tableOf({ lines }) {
  const areas = [...new Set(lines.map(([area]) => area))];
  return element(
    "table",
    {},
    element("caption", { className: "offscreen" }, "What was measured"),
    ...areas.map((area) =>
      element(
        "tbody",
        {},
        element("tr", {}, element("th", { colSpan: 2, scope: "rowgroup" }, area)),
        ...lines
          .filter(([each]) => each === area)
          .map(([, what, result]) =>
            element("tr", {}, element("th", { scope: "row" }, what), element("td", {}, result)),
          ),
      ),
    ),
  );
}

/** What is left to the command line. */
function unseen() {
  const command = `echotwist probe ${urlOf("")}`;
  return element(
    "details",
    { open: true },
    element("summary", {}, "What a page cannot see"),
    element(
      "p",
      { className: "hint" },
      "TCP and TLS; the headers of the answer, also of one that is no 101; the order of its own " +
        "headers, and the Sec-WebSocket-Key; frames, so neither fragments nor masks; pings, and " +
        "who answers them; whether a connection without a close frame ended by a FIN or a reset. " +
        "The command line sees all of that, from the same place in the network:",
    ),
    element("p", {}, element("code", {}, command)),
    element(
      "button",
      {
        type: "button",
        onclick: (/** @type {MouseEvent} */ { currentTarget }) =>
          copy(command, /** @type {HTMLButtonElement} */ (currentTarget)),
      },
      "Copy command",
    ),
  );
}
