// @ts-check
// One entry, whole: as text, as JSON, as bytes.
import { decodeUtf8, hexDump } from "./bytes.js";
import { copy, element, save } from "./element.js";
import { prettyJson } from "./json.js";
import { clockOf } from "./time.js";

/** Characters of a view that are laid out. A browser takes half a minute for sixteen million. */
const SHOWN = 100_000;

/** Characters of JSON that are indented: it takes some 10 ms for each million. */
const INDENTED = 2_000_000;

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
  { name: "JSON", textOf: (data) => jsonOf(decodeUtf8(data).text) },
];

export class Detail {
  /** @param {HTMLElement} panel */
  constructor(panel) {
    this._panel = panel;
    /** Of each kind of data, the view that was chosen last. */
    this._chosen = { string: "Text", object: "Hex" };
    this.show(undefined);
  }

  /** @param {Entry | undefined} entry */
  show(entry) {
    if (entry === undefined) {
      const hint = "Choose an entry to see it whole, with a click or the arrow keys.";
      this._panel.replaceChildren(element("p", { className: "hint" }, hint));
      return;
    }
    const { data, from } = entry;
    if (typeof data === "string" && (from === "status" || from === "server")) {
      this._panel.replaceChildren(factsOf(entry), element("pre", {}, data));
      return;
    }
    const views = typeof data === "string" ? OF_TEXT : OF_BYTES;
    const kind = typeof data === "string" ? "string" : "object";
    const shown = element("pre", { dir: "auto" });
    const buttons = views.map(({ name }) => element("button", { type: "button" }, name));
    const choose = (/** @type {string} */ name) => {
      this._chosen[kind] = name;
      const view = /** @type {View} */ (views.find((each) => each.name === name) ?? views[0]);
      const text = view.textOf(data);
      shown.textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)} …` : text;
      for (const button of buttons) {
        button.setAttribute("aria-pressed", String(button.textContent === view.name));
      }
    };
    for (const button of buttons) button.onclick = () => choose(button.textContent);
    const copyButton = element("button", { type: "button" }, "Copy");
    copyButton.onclick = () => copy(shown.textContent, copyButton);
    const saveButton = element("button", { type: "button" }, "Save");
    saveButton.onclick = () => {
      if (kind === "string") save("message.txt", [/** @type {string} */ (data)], "text/plain");
      else save("message.bin", [/** @type {BlobPart} */ (data)], "application/octet-stream");
    };
    this._panel.replaceChildren(
      factsOf(entry),
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
}

/** @param {Entry} entry */
function factsOf({ time, connection, from, type, size, roundTrip, serverTime }) {
  const facts = [`${clockOf(time)} on #${connection}`, `${from} ${type}`];
  if (from !== "status") facts.push(size === 1 ? "1 byte" : `${size.toLocaleString("en")} bytes`);
  if (roundTrip !== undefined) facts.push(`round trip ${roundTrip.toFixed(2)} ms`);
  if (serverTime !== undefined)
    facts.push(`${(serverTime / 1000).toFixed(3)} ms after accept, by the server`);
  return element("p", { className: "hint" }, facts.join(" · "));
}

/** @param {string} text */
function jsonOf(text) {
  if (text.length > INDENTED)
    return `Too long to be indented here: ${text.length.toLocaleString("en")} characters.`;
  try {
    return prettyJson(text);
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
