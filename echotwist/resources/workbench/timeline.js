// @ts-check
// The timeline: what has happened, filtered, paused, copied, exported; and one entry in detail.
import { formatBase64, formatHex, parseBase64 } from "./bytes.js";
import { Detail } from "./detail.js";
import { byId, copy, element, save } from "./element.js";
import { asHar, asJson } from "./export.js";
import { Grid } from "./grid.js";
import { ROOM } from "./session.js";
import { clockOf } from "./time.js";

/** Milliseconds that filtering has of a frame. All entries may be 256 MB. */
const TURN = 10;

/** Of a message, in its row. */
const PREVIEW = 300;

/**
 * @typedef {import("./history.js").Entry} Entry
 * @typedef {import("./history.js").History} History
 */

const MARKS = { sent: "↑ sent", received: "↓ received", status: "• status", server: "◆ server" };

export class Timeline {
  /** @param {History} history */
  constructor(history) {
    this._history = history;
    /** @type {Entry[]} those that pass the filter */
    this._shown = [];
    /** Entries of the history that were looked at. */
    this._seen = 0;
    this._version = -1;
    this._filter = makeFilter("", "", "", "");
    this._isPaused = false;
    this._from = byId("filter-from");
    this._type = byId("filter-type");
    this._connection = byId("filter-connection");
    this._text = byId("filter-text");
    this._pause = byId("pause");
    this._counts = byId("counts");
    const detail = new Detail(byId("detail"));
    /** @type {Grid<Entry>} */
    this._grid = new Grid(
      byId("grid"),
      this._columns(),
      ({ from }) => from,
      (entry) => detail.show(entry),
    );
    history.listeners.add(() => this._update());
    this._listen();
    this._update();
  }

  /** What a reload must not lose: the last entries, for which there is room. */
  get kept() {
    const kept = [];
    let room = ROOM / 2;
    for (let i = this._history.entries.length - 1; i >= 0; i -= 1) {
      const entry = this._history.entries[i];
      const isText = typeof entry.data === "string";
      room -= entry.data.length * (isText ? 1 : 1.4) + 150;
      if (room < 0) break;
      const base64 = isText ? undefined : formatBase64(/** @type {Uint8Array} */ (entry.data));
      kept.push({ ...entry, data: isText ? entry.data : undefined, base64 });
    }
    return kept.reverse();
  }

  set kept(kept) {
    for (const { base64, ...entry } of kept) {
      this._history.add({ ...entry, data: entry.data ?? parseBase64(base64 ?? "") });
    }
  }

  _listen() {
    for (const field of [this._from, this._type, this._connection, this._text]) {
      field.oninput = () => this._refilter();
    }
    this._pause.onclick = () => {
      this._isPaused = !this._isPaused;
      this._pause.setAttribute("aria-pressed", String(this._isPaused));
      this._update();
    };
    byId("clear").onclick = () => {
      this._grid.select(undefined);
      this._history.clear();
    };
    byId("copy").onclick = (/** @type {MouseEvent} */ { currentTarget }) =>
      copy(asLines(this._shown), /** @type {HTMLButtonElement} */ (currentTarget));
    byId("export-json").onclick = () =>
      save("websockets.json", asJson(this._shown, this._history.urls), "application/json");
    byId("export-har").onclick = () =>
      save("websockets.har", asHar(this._shown, this._history.urls), "application/json");
  }

  _refilter() {
    const [from, type, connection, text] = [
      this._from,
      this._type,
      this._connection,
      this._text,
    ].map(({ value }) => value);
    this._filter = makeFilter(from, type, connection, text);
    this._version = -1;
    this._update();
  }

  /** Show what is new, or all anew. */
  _update() {
    const { entries, version } = this._history;
    this._offer();
    if (this._isPaused && this._version !== -1) {
      this._count();
      return;
    }
    if (version !== this._version) {
      this._version = version;
      this._seen = 0;
      this._shown = [];
    }
    const until = performance.now() + TURN;
    while (this._seen < entries.length) {
      const entry = entries[this._seen];
      this._seen += 1;
      if (this._filter(entry)) this._shown.push(entry);
      if (this._seen % 100 === 0 && performance.now() > until) break;
    }
    if (this._seen < entries.length) this._history.changed(); // The rest with the next frame.
    this._grid.show(this._shown);
    this._count();
  }

  _count() {
    const { entries, forgotten } = this._history;
    const [shown, all] = [this._shown.length, entries.length].map((n) => n.toLocaleString("en"));
    let text = shown === all ? `${all} entries` : `${shown} of ${all} entries`;
    if (this._isPaused) text += ", paused";
    if (forgotten) text += `; ${forgotten.toLocaleString("en")} before are forgotten`;
    if (this._counts.textContent !== text) this._counts.textContent = text;
  }

  /** Let the filters choose among what there is. */
  _offer() {
    const { types, urls } = this._history;
    for (const [field, known] of [
      [this._type, types],
      [this._connection, [...urls.keys()]],
    ]) {
      for (const value of [...known].slice(field.options.length - 1)) {
        field.append(
          element("option", { value: `${value}` }, field === this._type ? value : `#${value}`),
        );
      }
    }
  }

  /** @returns {import("./grid.js").Column<Entry>[]} */
  _columns() {
    return [
      { name: "Time", textOf: ({ time }) => clockOf(time) },
      { name: "Gap", textOf: ({ time }, index) => gapOf(time, this._shown[index - 1]) },
      { name: "On", textOf: ({ connection }) => `#${connection}` },
      { name: "From", textOf: ({ from }) => MARKS[from] },
      { name: "Type", textOf: ({ type }) => type },
      {
        name: "Size",
        textOf: ({ size, from }) => (from === "status" ? "" : size.toLocaleString("en")),
      },
      {
        name: "Round trip",
        textOf: ({ roundTrip }) => (roundTrip === undefined ? "" : `${roundTrip.toFixed(1)} ms`),
      },
      { name: "Data", textOf: previewOf },
    ];
  }
}

/**
 * @param {string} from
 * @param {string} type
 * @param {string} connection
 * @param {string} text in any case; of a binary message, in hex
 * @returns {(entry: Entry) => boolean}
 */
function makeFilter(from, type, connection, text) {
  const number = Number(connection);
  const wanted = text.toLowerCase();
  const hex = /^[0-9a-f\s]+$/.test(wanted) ? wanted.replace(/\s/g, "") : undefined;
  return (entry) =>
    (!from || entry.from === from) &&
    (!type || entry.type === type) &&
    (!number || entry.connection === number) &&
    (!wanted ||
      (typeof entry.data === "string"
        ? entry.data.toLowerCase().includes(wanted)
        : hex !== undefined && formatHex(entry.data).replaceAll(" ", "").includes(hex)));
}

/**
 * @param {number} time
 * @param {Entry | undefined} before
 */
function gapOf(time, before) {
  if (before === undefined) return "";
  const gap = time - before.time;
  return gap < 10_000 ? `+${gap.toFixed(1)} ms` : `+${(gap / 1000).toFixed(1)} s`;
}

/** @param {Entry} entry */
function previewOf({ data }) {
  if (typeof data === "string") return data.slice(0, PREVIEW).replace(/\s+/g, " ");
  return formatHex(data.subarray(0, PREVIEW / 3));
}

/**
 * As they are in the grid, but whole messages: a line each, with tabs between the columns.
 *
 * @param {Entry[]} entries
 */
function asLines(entries) {
  return entries
    .map(({ time, connection, from, type, size, roundTrip, data }) => {
      const text = typeof data === "string" ? JSON.stringify(data) : formatHex(data);
      const trip = roundTrip === undefined ? "" : roundTrip.toFixed(1);
      return [new Date(time).toISOString(), connection, from, type, size, trip, text].join("\t");
    })
    .join("\n");
}
