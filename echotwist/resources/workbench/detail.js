// @ts-check
// One entry, whole: as text, as JSON, as bytes.
import { decodeUtf8, hexDump } from "./bytes.js";
import { copy, element, save } from "./element.js";
import { nameOf } from "./history.js";
import { prettyJson } from "./json.js";
import { clockOf } from "./time.js";

/** Characters of a view that are laid out. A browser takes half a minute for sixteen million. */
const SHOWN = 100_000;

/** Characters of JSON that are indented: it takes some 10 ms for each million. */
const INDENTED = 2_000_000;

/** Characters of indented JSON that are made, of which Copy takes all. */
const MADE = 4_000_000;

/** Bytes of a dump: four characters each. */
const DUMPED = 16 << 10;

/**
 * @typedef {import("./history.js").Entry} Entry
 *
 * @typedef {object} View
 * @property {string} name
 * @property {(data: any) => string} textOf
 */

/** @type {View[]} */
const OF_TEXT = [
  { name: "Text", textOf: (data) => data },
  { name: "JSON", textOf: jsonOf },
  {
    name: "Hex",
    textOf: (data) => dumpOf(new TextEncoder().encode(data.slice(0, DUMPED)), data.length > DUMPED),
  },
];

/** @type {View[]} */
const OF_BYTES = [
  { name: "Hex", textOf: (data) => dumpOf(data.subarray(0, DUMPED), data.length > DUMPED) },
  { name: "UTF-8", textOf: utf8Of },
  { name: "JSON", textOf: (data) => (decodeUtf8(data).isValid ? jsonOf : utf8Of)(data) },
];

export class Detail {
  /** @param {HTMLElement} panel */
  constructor(panel) {
    this._panel = panel;
    /** Of each kind of data, the view that was chosen last. */
    this._chosen = { string: "Text", object: "Hex" };
    /** @type {Entry | undefined} */
    this._entry = undefined;
    this._facts = element("p", { className: "hint" });
    this.show(undefined);
  }

  /** @param {Entry | undefined} entry */
  show(entry) {
    this._entry = entry;
    this.refresh();
    if (entry === undefined) {
      const hint = "Choose an entry to see it whole, with a click or the arrow keys.";
      this._panel.replaceChildren(element("p", { className: "hint" }, hint));
      return;
    }
    const { data, from } = entry;
    if (typeof data === "string" && (from === "status" || from === "server")) {
      this._panel.replaceChildren(this._facts, element("pre", {}, data));
      return;
    }
    const views = typeof data === "string" ? OF_TEXT : OF_BYTES;
    const kind = typeof data === "string" ? "string" : "object";
    const shown = element("pre", { dir: "auto" });
    const buttons = views.map(({ name }) => element("button", { type: "button" }, name));
    let text = "";
    const choose = (/** @type {string} */ name) => {
      this._chosen[kind] = name;
      const view = /** @type {View} */ (views.find((each) => each.name === name) ?? views[0]);
      text = view.textOf(data);
      shown.textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)} …` : text;
      for (const button of buttons) {
        button.setAttribute("aria-pressed", String(button.textContent === view.name));
      }
    };
    for (const button of buttons) button.onclick = () => choose(button.textContent);
    const copyButton = element("button", { type: "button" }, "Copy");
    copyButton.onclick = () => copy(text, copyButton);
    const saveButton = element("button", { type: "button" }, "Save");
    saveButton.onclick = () => {
      if (kind === "string") save("message.txt", [/** @type {string} */ (data)], "text/plain");
      else save("message.bin", [/** @type {BlobPart} */ (data)], "application/octet-stream");
    };
    this._panel.replaceChildren(
      this._facts,
      element(
        "div",
        { className: "row", role: "group", "aria-label": "View" },
        ...buttons,
        copyButton,
        saveButton,
      ),
      shown,
    );
    choose(this._chosen[kind]);
  }

  /** Show what has come to be known of the entry meanwhile. */
  refresh() {
    const text = this._entry === undefined ? "" : factsOf(this._entry);
    if (this._facts.textContent !== text) this._facts.textContent = text;
  }
}

/** @param {Entry} entry */
function factsOf({ time, connection, from, type, size, roundTrip, serverTime }) {
  const facts = [`${clockOf(time)} on ${nameOf(connection)}`, `${from} ${type}`];
  if (from !== "status") facts.push(size === 1 ? "1 byte" : `${size.toLocaleString("en")} bytes`);
  if (roundTrip !== undefined) facts.push(`round trip ${roundTrip.toFixed(2)} ms`);
  if (serverTime !== undefined)
    facts.push(`${(serverTime / 1000).toFixed(3)} ms after accept, by the server`);
  return facts.join(" · ");
}

/** @param {string | Uint8Array} data a text, or one in UTF-8 */
function jsonOf(data) {
  const text = typeof data === "string" ? data : decodeUtf8(data).text;
  if (text.length > INDENTED) {
    const length = text.length.toLocaleString("en");
    return `Too long to be indented here: ${length} characters.`;
  }
  try {
    return prettyJson(text, MADE);
  } catch (error) {
    return `No JSON: ${/** @type {Error} */ (error).message}`;
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {boolean} hasMore
 */
function dumpOf(bytes, hasMore) {
  return hexDump(bytes) + (hasMore ? "\n… (Save has the rest)" : "");
}

/** @param {Uint8Array} data */
function utf8Of(data) {
  const { text, isValid, at } = decodeUtf8(data);
  return isValid ? text : `No UTF-8, from byte ${at} on:\n\n${text}`;
}
