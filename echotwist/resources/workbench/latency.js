// @ts-check
// Round trips: the last of them as a line, a histogram, and a table.
import { drawHistogram, drawLine, makeChart } from "./chart.js";
import { copy, element } from "./element.js";

/** @typedef {import("./chart.js").Bin} Bin */

/** Round trips that are kept. */
const KEPT = 10_000;

/** Of them, those in the line. */
const SHOWN = 500;

/** Connections that can be chosen. */
const CHOICES = 100;

/** Milliseconds between two drawings. */
const PAUSE = 250;

/**
 * The edges of the bins, in milliseconds. Five to a decade: of more, some would be empty for no
 * other reason than the steps of the browser's clock.
 */
const EDGES = [0];
for (let exponent = -2; exponent < 7; exponent += 1) {
  for (const digits of [1, 1.6, 2.5, 4, 6.3]) EDGES.push(Number(`${digits}e${exponent}`));
}
EDGES.push(Infinity);

/** Of a chart of one: a bar as wide as the chart looks like no bar. */
const BINS = 5;

/** The figures, by their names in the table. */
const FIGURES = /** @type {const} */ (["count", "min", "p50", "p90", "p99", "max", "mean"]);

export class Latency {
  /** @param {HTMLElement} panel empty; becomes the tool */
  constructor(panel) {
    // Of each that is kept; a new one takes the place of the oldest.
    this._roundTrips = new Float64Array(KEPT);
    this._times = new Float64Array(KEPT);
    this._connections = new Uint32Array(KEPT);
    /** Round trips since they were cleared. */
    this._added = 0;
    this._isShown = false;
    this._isComing = false;
    /** @type {Map<number, HTMLOptionElement>} of the connections that can be chosen */
    this._options = new Map();

    this._choice = element(
      "select",
      { onchange: () => this._draw() },
      element("option", { value: "" }, "all"),
    );
    this._line = makeChart();
    this._histogram = makeChart();
    /** @type {Record<string, HTMLElement>} */
    this._figures = Object.fromEntries(FIGURES.map((name) => [name, element("td")]));
    this._bins = element("tbody");
    this._details = element(
      "details",
      { ontoggle: () => this._draw() },
      element("summary", {}, "The histogram as a table"),
      table("How many took how long", ["Milliseconds", "Round trips"], this._bins),
    );
    this._empty = element("p", {}, "No echo yet: send a message and its round trip appears here.");
    this._full = element(
      "div",
      {},
      element(
        "div",
        { className: "charts" },
        figure("The last of them, in ms", this._line),
        figure("How many took how long, in ms", this._histogram),
        table(
          "Round trips in ms",
          [],
          element("tbody", {}, ...FIGURES.map((name) => row(name, this._figures[name]))),
        ),
      ),
      this._details,
      element(
        "p",
        { className: "hint" },
        `From sending a message to its echo, for the last ${KEPT.toLocaleString("en")}; in a ` +
          "burst they wait for each other. A browser’s clock has steps of 0.005 to 1 ms, and the " +
          "page’s own work is counted too.",
      ),
    );
    panel.append(
      element(
        "div",
        { className: "row" },
        element("label", {}, "Connection ", this._choice),
        element("button", { type: "button", onclick: () => this._clear() }, "Clear"),
        element(
          "button",
          {
            type: "button",
            onclick: (/** @type {MouseEvent} */ { currentTarget }) =>
              copy(this._csv(), /** @type {HTMLButtonElement} */ (currentTarget)),
          },
          "Copy as CSV",
        ),
      ),
      this._empty,
      this._full,
    );
    this._draw();
    // Which is also told when the panel is shown, and hidden: then it has no size.
    new ResizeObserver(([{ contentRect }]) => {
      this._isShown = contentRect.width > 0;
      // Not now: what is drawn has a height, of which the observer would be told at once.
      if (this._isShown) requestAnimationFrame(() => this._draw());
    }).observe(panel);
  }

  /**
   * An echo has come.
   *
   * @param {number} roundTrip milliseconds
   * @param {number} time when it came, in milliseconds since 1970
   * @param {number} connection the number of its connection
   */
  add(roundTrip, time, connection) {
    const index = this._added % KEPT;
    // To a microsecond: the sum of two times since 1970 is no more exact, and would be beside the
    // edge of a bin on which it is.
    this._roundTrips[index] = Math.max(0, Math.round(roundTrip * 1000) / 1000);
    this._times[index] = time;
    this._connections[index] = connection;
    this._added += 1;
    if (!this._options.has(connection)) this._offer(connection);
    if (this._isShown) this._drawSoon();
  }

  /** @param {number} connection that can be chosen now, instead of the oldest of too many */
  _offer(connection) {
    const option = element("option", { value: String(connection) }, String(connection));
    this._choice.append(option);
    this._options.set(connection, option);
    if (this._options.size <= CHOICES) return;
    const oldest = [...this._options].find(([, { selected }]) => !selected);
    if (oldest === undefined) return;
    oldest[1].remove();
    this._options.delete(oldest[0]);
  }

  _clear() {
    this._added = 0;
    this._draw();
  }

  _drawSoon() {
    if (this._isComing) return;
    this._isComing = true;
    // With a frame, of which a tab that is hidden has none.
    const draw = () => {
      this._isComing = false;
      this._draw();
    };
    setTimeout(() => requestAnimationFrame(draw), PAUSE);
  }

  /** Where those are that are kept, and of the chosen connection, in their order. */
  _chosen() {
    const chosen = Number(this._choice.value);
    const indices = [];
    for (let i = Math.max(0, this._added - KEPT); i < this._added; i += 1) {
      if (!chosen || this._connections[i % KEPT] === chosen) indices.push(i % KEPT);
    }
    return indices;
  }

  _draw() {
    const values = this._chosen().map((index) => this._roundTrips[index]);
    this._empty.hidden = values.length > 0;
    this._full.hidden = values.length === 0;
    if (!this._isShown || values.length === 0) return;
    const sorted = Float64Array.from(values).sort();
    const { count, min, p50, p90, p99, max, mean } = figuresOf(sorted);
    const figures = { min, p50, p90, p99, max, mean };
    for (const [name, value] of Object.entries(figures)) {
      this._figures[name].textContent = formatTime(value);
    }
    this._figures.count.textContent = count.toLocaleString("en");
    const shown = values.slice(-SHOWN);
    const range = `from ${formatTime(Math.min(...shown))} to ${formatTime(Math.max(...shown))} ms`;
    drawLine(this._line, `The last ${shown.length} round trips, ${range}.`, shown);
    const bins = binsOf(sorted);
    const marks = Object.entries({ p50, p90, p99 }).map(([name, value]) => ({
      value,
      label: `${name} ${formatTime(value)} ms`,
    }));
    drawHistogram(
      this._histogram,
      `Histogram of ${count.toLocaleString("en")} round trips: half took at most ` +
        `${formatTime(p50)} ms, 90 % at most ${formatTime(p90)} ms, 99 % at most ` +
        `${formatTime(p99)} ms.`,
      widened(bins),
      marks,
    );
    if (!this._details.open) return;
    const rows = bins.map(({ from, to, count }) => {
      return row(formatBin(from, to), element("td", {}, count.toLocaleString("en")));
    });
    this._bins.replaceChildren(...rows);
  }

  _csv() {
    const rows = this._chosen().map((index) => {
      const time = new Date(this._times[index]).toISOString();
      return `${time},${this._connections[index]},${this._roundTrips[index]}`;
    });
    return ["time,connection,round_trip_ms", ...rows, ""].join("\n");
  }
}

/**
 * Percentiles are by the nearest rank: the smallest value that so many percent do not exceed, so
 * that each is a round trip that was measured.
 *
 * @param {Float64Array} sorted one at least
 */
export function figuresOf(sorted) {
  const count = sorted.length;
  /** @param {number} percent */
  const percentile = (percent) => sorted[Math.ceil((percent * count) / 100) - 1];
  return {
    count,
    min: sorted[0],
    p50: percentile(50),
    p90: percentile(90),
    p99: percentile(99),
    max: sorted[count - 1],
    mean: sorted.reduce((sum, value) => sum + value, 0) / count,
  };
}

/**
 * The bins from the smallest value to the largest.
 *
 * @param {Float64Array} sorted one at least
 * @returns {Bin[]}
 */
function binsOf(sorted) {
  const bins = [];
  let index = EDGES.findIndex((edge) => edge > sorted[0]) - 1;
  for (let from = 0; from < sorted.length; index += 1) {
    let end = from;
    while (sorted[end] < EDGES[index + 1]) end += 1;
    bins.push({ from: EDGES[index], to: EDGES[index + 1], count: end - from });
    from = end;
  }
  return bins;
}

/**
 * With empty bins on both sides, if they are few.
 *
 * @param {Bin[]} bins
 */
function widened(bins) {
  let from = EDGES.indexOf(bins[0].from);
  let to = EDGES.indexOf(bins[bins.length - 1].to);
  while (to - from < BINS) {
    if (to < EDGES.length - 2) to += 1;
    if (from > 0 && to - from < BINS) from -= 1;
  }
  const wide = [];
  for (let i = from; i < to; i += 1) {
    const same = bins.find((bin) => bin.from === EDGES[i]);
    wide.push(same ?? { from: EDGES[i], to: EDGES[i + 1], count: 0 });
  }
  return wide;
}

/** @param {number} milliseconds */
function formatTime(milliseconds) {
  const digits = milliseconds < 0.1 ? 3 : milliseconds < 10 ? 2 : milliseconds < 100 ? 1 : 0;
  return milliseconds.toLocaleString("en", { maximumFractionDigits: digits });
}

/**
 * @param {number} from
 * @param {number} to
 */
function formatBin(from, to) {
  if (from === 0) return `under ${to}`;
  if (to === Infinity) return `${from.toLocaleString("en")} and more`;
  return `${from.toLocaleString("en")} to under ${to.toLocaleString("en")}`;
}

/**
 * @param {string} caption
 * @param {Element} chart
 */
const figure = (caption, chart) => element("figure", {}, element("figcaption", {}, caption), chart);

/**
 * @param {string} caption
 * @param {string[]} columns
 * @param {HTMLElement} body
 */
function table(caption, columns, body) {
  const heads = columns.map((column) => element("th", { scope: "col" }, column));
  const head = columns.length ? [element("thead", {}, element("tr", {}, ...heads))] : [];
  return element("table", {}, element("caption", {}, caption), ...head, body);
}

/**
 * @param {string} name
 * @param {HTMLElement} cell
 */
const row = (name, cell) => element("tr", {}, element("th", { scope: "row" }, name), cell);
