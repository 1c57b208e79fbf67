// @ts-check
// The composer: a message, what it is made of, and how often it is sent.
import { boundDirection } from "../direction.js";
import { parseBase64, parseHex } from "./bytes.js";
import { utf8Length } from "./connection.js";
import { byId, element } from "./element.js";
import { checkJson } from "./json.js";

/** Messages that can be brought back, and the characters of one that can be. */
const RECENT = 50;
const CHARACTERS = 20_000;

/** Characters up to which a text is looked at with each key. */
const CHECKED = 100_000;

/** Milliseconds of a burst in one turn, after which others have theirs. */
const TURN = 8;

/** Bytes that may wait in the browser. It buffers without bound, and drops all that if it closes. */
const BUFFERED = 4 << 20;

/**
 * @typedef {import("./link.js").Draft} Draft
 * @typedef {import("./connection.js").Connection} Connection
 */

export class Composer {
  /**
   * @param {import("./connections.js").Connections} connections
   * @param {() => void} onInput
   */
  constructor(connections, onInput) {
    this._connections = connections;
    this._onInput = onInput;
    this._input = byId("input");
    this._format = byId("format");
    this._target = byId("target");
    this._recent = byId("recent");
    this._send = byId("send");
    this._stop = byId("stop");
    this._times = byId("times");
    this._every = byId("every");
    this._check = byId("check");
    /** @type {Draft[]} the oldest first */
    this._sent = [];
    /** Of those, the one that was brought back; behind them, none was. */
    this._place = 0;
    /** @type {Draft} what was not sent yet when another was brought back */
    this._unsent = { text: "", format: "text" };
    /** @type {(() => void) | undefined} ends what is being repeated */
    this._end = undefined;
    boundDirection(this._input);
    this._listen();
  }

  /** @returns {Draft} */
  get draft() {
    return { text: this._input.value, format: this._format.value };
  }

  set draft({ text, format }) {
    this._input.value = text;
    this._format.value = format;
    this._look();
  }

  /** What a reload must not lose. */
  get kept() {
    return {
      draft: this._input.value.length > CHECKED ? { ...this.draft, text: "" } : this.draft,
      sent: this._sent,
      times: this._times.value,
      every: this._every.value,
    };
  }

  set kept({ draft, sent, times, every }) {
    this._sent = sent;
    this._place = sent.length;
    this._times.value = times;
    this._every.value = every;
    this.draft = draft;
    this._showRecent();
  }

  /** Show to whom can be sent. */
  showTargets() {
    const numbers = this._connections.open.map(({ number }) => String(number));
    const chosen = this._target.value;
    const options = numbers.map((value) => element("option", { value }, `#${value}`));
    if (numbers.length > 1 || chosen === "all") {
      options.unshift(element("option", { value: "all" }, "all that are open"));
    }
    options.unshift(element("option", { value: "" }, "the newest that is open"));
    // One that is gone stays chosen: nobody else gets what is meant for it.
    if (/\d/.test(chosen) && !numbers.includes(chosen)) {
      options.push(element("option", { value: chosen }, `#${chosen}, closed`));
    }
    this._target.replaceChildren(...options);
    this._target.value = chosen;
    if (this._target.selectedIndex === -1) this._target.value = "";
    this._showSend();
  }

  _showSend() {
    this._send.disabled = this._targets().length === 0 || this._end !== undefined;
  }

  _listen() {
    byId("compose-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this._submit();
    };
    // What is wrong may be folded away, where the browser cannot say it.
    const unfold = (/** @type {Event} */ { target }) => {
      const details = /** @type {HTMLElement} */ (target).closest("details");
      if (details) details.open = true;
    };
    this._send.form.addEventListener("invalid", unfold, true);
    this._target.onchange = () => this._showSend();
    this._input.oninput = this._format.onchange = () => this._look();
    this._input.onkeydown = (/** @type {KeyboardEvent} */ event) => this._onKey(event);
    this._send.onclick = (/** @type {MouseEvent} */ event) => {
      if (event.detail > 1) event.preventDefault(); // The second half of a double click.
    };
    this._stop.onclick = () => {
      this._end?.();
      this._input.focus();
    };
    this._recent.onchange = () => {
      if (this._recent.value !== "") this._bring(Number(this._recent.value));
      this._recent.value = "";
      this._input.focus();
    };
    const files = byId("files");
    files.onchange = () => {
      this._sendFiles([...files.files]);
      files.value = ""; // Or the same file could not be chosen again.
    };
    const section = byId("composer");
    section.ondragover = (/** @type {DragEvent} */ event) => {
      if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
    };
    section.ondrop = (/** @type {DragEvent} */ event) => {
      const dropped = [...(event.dataTransfer?.files ?? [])];
      if (dropped.length === 0) return;
      event.preventDefault();
      this._sendFiles(dropped);
    };
    this._input.onpaste = (/** @type {ClipboardEvent} */ event) => {
      const pasted = [...(event.clipboardData?.files ?? [])];
      if (pasted.length === 0) return;
      // An office has a picture of the text beside it; others have the names of the files.
      const text = event.clipboardData?.getData("text/plain");
      if (text && !pasted.every(({ name }) => text.includes(name))) return;
      event.preventDefault();
      this._sendFiles(pasted);
    };
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!event.repeat) this._send.form.requestSubmit();
    } else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      this._bring(this._place + (event.key === "ArrowUp" ? -1 : 1));
    }
  }

  /** @param {number} place of a message that was sent; the one after them is the unsent draft's */
  _bring(place) {
    if (place < 0 || place > this._sent.length) return;
    if (this._place === this._sent.length) this._unsent = this.draft;
    this._place = place;
    this.draft = this._sent[place] ?? this._unsent;
  }

  /**
   * The message, made of the draft.
   *
   * @returns {string | Uint8Array}
   * @throws {Error} in words
   */
  _message() {
    const { text, format } = this.draft;
    if (format === "hex") return parseHex(text);
    if (format === "base64") return parseBase64(text);
    return text;
  }

  /** Say what the draft is: its size, whether it is JSON, or why it is no message. */
  _look() {
    this._onInput();
    const { text, format } = this.draft;
    this._check.classList.remove("bad");
    let said = "";
    if (text.length > CHECKED) {
      said = `${text.length.toLocaleString("en")} characters`;
    } else if (format === "text") {
      const bytes = utf8Length(text);
      if (text) said = bytes === 1 ? "1 byte" : `${bytes.toLocaleString("en")} bytes`;
      if (/^\s*[[{]/.test(text)) {
        const { isValid, problem } = checkJson(text);
        said += isValid ? ", JSON" : `; no JSON: ${problem}`;
      }
    } else {
      try {
        const { length } = this._message();
        if (text) said = length === 1 ? "1 byte" : `${length.toLocaleString("en")} bytes`;
      } catch (error) {
        this._complain(/** @type {Error} */ (error).message);
        return;
      }
    }
    this._check.textContent = said;
  }

  /** @param {string} problem */
  _complain(problem) {
    this._check.classList.add("bad");
    this._check.textContent = problem;
  }

  /** @returns {Connection[]} */
  _targets() {
    const { open } = this._connections;
    if (this._target.value === "all") return open;
    if (this._target.value === "") return open.slice(-1);
    return open.filter(({ number }) => String(number) === this._target.value);
  }

  _submit() {
    if (this._send.disabled) return;
    let message;
    try {
      message = this._message();
    } catch (error) {
      this._complain(/** @type {Error} */ (error).message);
      return;
    }
    this._remember();
    this._repeat(message, this._targets(), Number(this._times.value), Number(this._every.value));
    // Sent again by Enter, and gone with the next key.
    this._input.focus();
    this._input.select();
  }

  _remember() {
    const { draft } = this;
    const last = this._sent[this._sent.length - 1];
    const isNew = last?.text !== draft.text || last.format !== draft.format;
    if (isNew && draft.text && draft.text.length <= CHARACTERS) this._sent.push(draft);
    if (this._sent.length > RECENT) this._sent.shift();
    this._place = this._sent.length;
    this._showRecent();
  }

  _showRecent() {
    const options = this._sent.map(({ text, format }, index) => {
      const some = text.length > 60 ? `${text.slice(0, 60)} …` : text;
      return element(
        "option",
        { value: `${index}` },
        format === "text" ? some : `${format}: ${some}`,
      );
    });
    this._recent.replaceChildren(
      element("option", { value: "" }, options.length ? "choose" : "nothing"),
      ...options.reverse(),
    );
  }

  /**
   * Send a message again and again, in turns that leave time for others.
   *
   * @param {string | Uint8Array} message
   * @param {Connection[]} targets
   * @param {number} times
   * @param {number} every milliseconds from one to the next
   */
  _repeat(message, targets, times, every) {
    const began = performance.now();
    let done = 0;
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    const count = () => `${done.toLocaleString("en")} of ${times.toLocaleString("en")} sent`;
    /** @param {string} why */
    const end = (why) => {
      clearTimeout(timer);
      this._end = undefined;
      if (document.activeElement === this._stop) this._input.focus();
      this._stop.hidden = true;
      if (done < times) this._complain(`${count()}: ${why}`);
      else if (times > 1) this._check.textContent = `${done.toLocaleString("en")} sent`;
      else this._look();
      this.showTargets();
    };
    this._check.classList.remove("bad");
    const turn = () => {
      const until = performance.now() + TURN;
      while (done < times && performance.now() < until) {
        const open = targets.filter(({ state }) => state === "Open");
        if (open.length === 0) return end("the connection is closed");
        const isDue = began + done * every <= performance.now();
        const isFull = open.some(({ socket }) => socket.bufferedAmount > BUFFERED);
        if (!isDue || isFull) break;
        for (const target of open) target.send(message);
        done += 1;
      }
      if (done === times) return end("");
      this._end = () => end("stopped");
      this._stop.hidden = false;
      this._send.disabled = true;
      this._check.textContent = count();
      timer = setTimeout(turn, Math.max(0, began + done * every - performance.now()));
    };
    turn();
  }

  /**
   * Send each as one binary message.
   *
   * @param {File[]} files
   */
  async _sendFiles(files) {
    for (const file of files) {
      let bytes;
      try {
        bytes = new Uint8Array(await file.arrayBuffer());
      } catch {
        this._complain(`${file.name} cannot be read: is it a folder, or too large?`);
        return;
      }
      const targets = this._targets();
      for (const target of targets) target.send(bytes);
      this._check.classList.toggle("bad", targets.length === 0);
      this._check.textContent = targets.length
        ? `${file.name} sent, ${bytes.length.toLocaleString("en")} bytes`
        : `${file.name} not sent: nothing is open`;
    }
  }
}
