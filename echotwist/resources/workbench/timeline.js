// @ts-check
// The timeline: what has happened, filtered, paused, copied, exported; and one entry in detail.
import { formatBase64, formatHex, parseBase64, parseHex } from "./bytes.js";
import { Detail } from "./detail.js";
import { byId, copy, element, save } from "./element.js";
import { asHar, asJson, saidBy } from "./export.js";
import { Grid } from "./grid.js";
import { nameOf } from "./history.js";
import { ROOM } from "./session.js";
import { clockOf } from "./time.js";

/** Milliseconds that filtering has of a frame. All entries may be 128 MB. */
const TURN = 10;

/** Of a message, in its row. */
const PREVIEW = 300;

/** Characters or bytes of a message that Copy takes; the detail copies all of it. */
const COPIED = 10_000;

/** Entries that a reload may leave out, as they are too large, before older ones are left out too. */
const MISSED = 100;

/** No version of the history. */
const NONE = -1;

/**
 * @typedef {import("./history.js").Entry} Entry
 * @typedef {import("./history.js").History} History
 *
 * @typedef {object} Pass through entries
 * @property {Entry[]} entries
 * @property {Entry[]} shown those of them that pass the filter
 * @property {number} seen how many were looked at
 */

const MARKS = { sent: "↑ sent", received: "↓ received", status: "• status", server: "◆ server" };

export class Timeline {
  /** @param {History} history */
  constructor(history) {
    this._history = history;
    /** @type {Pass} what is shown */
    this._now = { entries: [], shown: [], seen: 0 };
    /** @type {Pass | undefined} what will be */
    this._next = undefined;
    this._version = NONE - 1;
    this._filter = makeFilter("", "", "", "");
    /** @type {Entry[] | undefined} while it is paused, the entries of that moment */
    this._frozen = undefined;
    this._from = byId("filter-from");
    this._type = byId("filter-type");
    this._connection = byId("filter-connection");
    this._text = byId("filter-text");
    this._pause = byId("pause");
    this._counts = byId("counts");
    this._detail = new Detail(byId("detail"));
    /** @type {Grid<Entry>} */
    this._grid = new Grid(
      byId("grid"),
      this._columns(),
      ({ from }) => from,
      (entry) => this._detail.show(entry),
    );
    history.listeners.add(() => this._update());
    this._listen();
    this._update();
  }

  /** What a reload must not lose: the last entries, for which there is room. */
  get kept() {
    const kept = [];
    const { entries } = this._history;
    let room = ROOM;
    let missed = 0;
    for (let i = entries.length - 1; i >= 0 && missed < MISSED; i -= 1) {
      const { data, ...rest } = entries[i];
      if (data.length > room) {
        missed += 1;
        continue;
      }
      const text = typeof data === "string" ? { data } : { base64: formatBase64(data) };
      const line = JSON.stringify({ ...rest, ...text });
      if (line.length > room) missed += 1;
      else kept.push(line);
      room -= line.length > room ? 0 : line.length;
    }
    return kept.reverse();
  }

  set kept(kept) {
    for (const line of kept) {
      const { base64, ...entry } = JSON.parse(line);
      this._history.add({ ...entry, data: entry.data ?? parseBase64(base64) });
    }
  }

  _listen() {
    for (const field of [this._from, this._type, this._connection, this._text]) {
      field.oninput = () => this._refilter();
    }
    this._pause.onclick = () => {
      this._frozen = this._frozen ? undefined : this._history.entries.slice();
      this._pause.setAttribute("aria-pressed", String(this._frozen !== undefined));
      this._anew();
    };
    byId("clear").onclick = () => {
      this._grid.select(undefined);
      if (this._frozen) this._frozen = [];
      this._history.clear();
      this._anew();
    };
    byId("copy").onclick = (/** @type {MouseEvent} */ { currentTarget }) =>
      copy(asLines(this._now.shown), /** @type {HTMLButtonElement} */ (currentTarget));
    byId("export-json").onclick = (/** @type {MouseEvent} */ { currentTarget }) =>
      this._export("websockets.json", asJson, /** @type {HTMLButtonElement} */ (currentTarget));
    byId("export-har").onclick = (/** @type {MouseEvent} */ { currentTarget }) =>
      this._export("websockets.har", asHar, /** @type {HTMLButtonElement} */ (currentTarget));
  }

  /**
   * Save what is shown, in turns that leave time for others.
   *
   * @param {string} name of the file
   * @param {typeof asJson} format
   * @param {HTMLButtonElement} button whose deed it is
   */
  async _export(name, format, button) {
    button.disabled = true;
    const parts = [];
    let until = performance.now() + TURN;
    for (const part of format(this._now.shown.slice(), this._history)) {
      parts.push(part);
      if (performance.now() < until) continue;
      await new Promise((resolve) => setTimeout(resolve));
      until = performance.now() + TURN;
    }
    button.disabled = false;
    if (document.activeElement === document.body) button.focus(); // It had lost it.
    save(name, parts, "application/json");
  }

  _refilter() {
    const [from, type, connection, text] = [
      this._from,
      this._type,
      this._connection,
      this._text,
    ].map(({ value }) => value);
    this._filter = makeFilter(from, type, connection, text);
    this._anew();
  }

  /** Show all anew. */
  _anew() {
    this._next = undefined;
    this._version = NONE - 1;
    this._update();
  }

  /** Show what is new; or all anew, which is shown once it is done. */
  _update() {
    this._offer();
    this._detail.refresh();
    const version = this._frozen ? NONE : this._history.version;
    if (this._next === undefined && version !== this._version) {
      this._version = version;
      // Its own copy: it is done at some time, however often there is a new version.
      this._next = { entries: (this._frozen ?? this._history.entries).slice(), shown: [], seen: 0 };
    }
    if (this._next !== undefined) {
      if (!this._look(this._next)) {
        this._history.changed(); // The rest with the next frame.
        return;
      }
      const { shown, seen } = this._next;
      this._next = undefined;
      this._now = { entries: this._frozen ?? this._history.entries, shown, seen };
    }
    // What has come meanwhile; unless all has to be done anew.
    if (version !== this._version || !this._look(this._now)) this._history.changed();
    this._grid.show(this._now.shown);
    this._count();
  }

  /**
   * Put those that pass the filter into `shown`, as long as a turn may take.
   *
   * @param {Pass} pass
   * @returns {boolean} whether all were looked at
   */
  _look(pass) {
    const until = performance.now() + TURN;
    let work = 0;
    while (pass.seen < pass.entries.length) {
      const entry = pass.entries[pass.seen];
      pass.seen += 1;
      if (this._filter(entry)) pass.shown.push(entry);
      work += 1 + entry.data.length / 100;
      if (work < 100) continue;
      work = 0;
      if (performance.now() > until) return false;
    }
    return true;
  }

  _count() {
    const { entries, forgotten } = this._history;
    const [shown, all] = [this._now.shown.length, entries.length].map((n) =>
      n.toLocaleString("en"),
    );
    let text = shown === all ? `${all} entries` : `${shown} of ${all} entries`;
    if (this._frozen) text += ", paused";
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
          element(
            "option",
            { value: `${value}` },
            field === this._type ? value : nameOf(Number(value)),
          ),
        );
      }
    }
  }

  /** @returns {import("./grid.js").Column<Entry>[]} */
  _columns() {
    return [
      { name: "Time", textOf: ({ time }) => clockOf(time) },
      { name: "Gap", textOf: ({ time }, index) => gapOf(time, this._now.shown[index - 1]) },
      { name: "On", textOf: ({ connection }) => nameOf(connection) },
      { name: "From", textOf: ({ from }) => MARKS[from] },
      { name: "Type", textOf: ({ type }) => type },
      {
        name: "Size",
        textOf: ({ size, from }) => (isMessage(from) || size > 0 ? size.toLocaleString("en") : ""),
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
 * @param {string} text in any case; of a binary message, bytes in hex
 * @returns {(entry: Entry) => boolean}
 */
function makeFilter(from, type, connection, text) {
  const number = Number(connection);
  const wanted = text.toLowerCase();
  const bytes = bytesOf(wanted);
  return (entry) =>
    (!from || entry.from === from) &&
    (!type || entry.type === type) &&
    (!number || entry.connection === number) &&
    (!wanted ||
      (typeof entry.data === "string"
        ? entry.data.toLowerCase().includes(wanted)
        : bytes !== undefined && isIn(entry.data, bytes)));
}

/**
 * @param {string} text
 * @returns {Uint8Array | undefined} undefined if it is no bytes in hex
 */
function bytesOf(text) {
  try {
    const bytes = parseHex(text);
    return bytes.length ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/**
 * @param {Uint8Array} data
 * @param {Uint8Array} bytes at least one
 */
function isIn(data, bytes) {
  const [first] = bytes;
  for (let i = data.indexOf(first); i !== -1; i = data.indexOf(first, i + 1)) {
    let length = 1;
    while (length < bytes.length && data[i + length] === bytes[length]) length += 1;
    if (length === bytes.length) return true;
  }
  return false;
}

/** @param {import("./history.js").From} from */
const isMessage = (from) => from === "sent" || from === "received";

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
 * As they are in the grid: a line each, with tabs between the columns.
 *
 * @param {Entry[]} entries
 */
function asLines(entries) {
  return entries
    .map(({ time, connection, from, type, size, roundTrip, data }) => {
      const some = saidBy(from, data).slice(0, COPIED);
      let text = typeof some === "string" ? JSON.stringify(some) : formatHex(some);
      if (some.length < data.length) text += ` … (${data.length.toLocaleString("en")})`;
      const trip = roundTrip === undefined ? "" : roundTrip.toFixed(1);
      return [new Date(time).toISOString(), connection, from, type, size, trip, text].join("\t");
    })
    .join("\n");
}
