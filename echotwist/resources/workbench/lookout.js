// @ts-check
// A trace that this page has no connection of: of a client that is still to come, or one whose ID
// somebody knows.
import { copy, element } from "./element.js";
import { makeTraceId, scriptOf, urlOf } from "./link.js";
import { check } from "./steps.js";
import { hasTrace, whyNone } from "./trace.js";

/** Milliseconds until it is asked again whether a client has come: the first, and the longest. */
const FIRST = 250;
const LONGEST = 2000;

/** Milliseconds that a client has to come. */
const PATIENCE = 600_000;

const SCRIPT = "ping=are%20you%20there";

export class Lookout {
  /** @param {(id: string) => void} onFound called with each ID that the service has a trace of */
  constructor(onFound) {
    this._onFound = onFound;
    this._id = "";
    this._pause = FIRST;
    this._until = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
    this._status = element("p", { role: "status", className: "hint" });
    this._watch = element(
      "button",
      { type: "button", onclick: () => this._begin() },
      "Watch another client",
    );
    this._url = element("code");
    this._script = element("input", {
      value: SCRIPT,
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: false,
      oninput: () => this._showUrl(),
      onchange: () => void this._check(),
    });
    this._waiting = this._makeWaiting();
    this.element = element(
      "div",
      {},
      element("div", { className: "row" }, this._watch, this._makeForm()),
      this._waiting,
      this._status,
    );
  }

  _makeWaiting() {
    const copyUrl = element("button", { type: "button" }, "Copy");
    copyUrl.onclick = () => copy(this._url.textContent, copyUrl);
    return element(
      "div",
      { className: "waiting", hidden: true, role: "group", "aria-label": "Another client" },
      element("p", {}, this._url),
      element(
        "p",
        { className: "hint" },
        "Connect your client to it; what the server sees appears here and in the timeline.",
      ),
      element(
        "div",
        { className: "row" },
        element("label", { className: "wide" }, "Its script ", this._script),
        copyUrl,
        element("button", { type: "button", onclick: () => this._cancel() }, "Cancel"),
      ),
    );
  }

  _makeForm() {
    const input = element("input", {
      required: true,
      placeholder: "or its URL",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: false,
    });
    return element(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          void this._find(input.value);
        },
      },
      element("label", { className: "wide" }, "Open the trace with this ID ", input),
      element("button", {}, "Open"),
    );
  }

  /** @param {string} given an ID, or a URL that has one */
  async _find(given) {
    const [, id] = /(?:^|trace[=/])([\w-]{22,64})(?:$|[^\w-])/.exec(given.trim()) ?? [];
    if (id === undefined) {
      this._say("An ID has 22 to 64 characters of base64url");
    } else if (await hasTrace(id)) {
      this._say("");
      this._onFound(id);
    } else {
      this._say((await whyNone()) || "There is no trace with this ID, or no more");
    }
  }

  async _begin() {
    const why = await whyNone();
    if (why) this._say(why);
    if (why || this._id) return; // Somebody has clicked twice.
    this._id = makeTraceId();
    this._pause = FIRST;
    this._until = performance.now() + PATIENCE;
    this._showUrl();
    this._waiting.hidden = false;
    if (document.activeElement === this._watch) this._script.focus();
    this._watch.disabled = true;
    this._say("No client has come yet");
    this._look();
  }

  /** Look again in a moment, and at longer and longer pauses. */
  _look() {
    const id = this._id;
    this._timer = setTimeout(async () => {
      const isThere = await hasTrace(id);
      if (id !== this._id) return; // It was cancelled meanwhile.
      if (isThere) {
        this._end("A client has come");
        this._onFound(id);
      } else if (performance.now() > this._until) {
        this._end("No client has come in 10 minutes");
      } else {
        this._pause = Math.min(this._pause * 2, LONGEST);
        this._look();
      }
    }, this._pause);
  }

  _cancel() {
    this._end("");
  }

  /** @param {string} said */
  _end(said) {
    clearTimeout(this._timer);
    const hasFocus = this._waiting.contains(document.activeElement);
    this._id = "";
    this._waiting.hidden = true;
    this._watch.disabled = false;
    if (hasFocus) this._watch.focus();
    this._say(said);
  }

  get _steps() {
    return scriptOf(this._script.value);
  }

  /** Whether a client would be let in with the script. */
  async _check() {
    const script = this._steps;
    const { problem } = await check(script);
    if (!this._id || script !== this._steps) return;
    this._say(problem ? `The server refuses this script: ${problem}` : "No client has come yet");
  }

  _showUrl() {
    this._url.textContent = urlOf(this._steps, this._id);
  }

  /** @param {string} text */
  _say(text) {
    this._status.textContent = text;
  }
}
