// @ts-check
// The lab: a form for each step of a script, and the cases.
import { Cases } from "./cases.js";
import { copy, element } from "./element.js";
import { urlOf } from "./link.js";
import { Step, check, exampleOf, formatSteps, parseSteps, takesValue, wordsOf } from "./steps.js";

/** Steps of which the server wants that they come first: as its table says. */
const OPENING = "before the 101";

/** Those have a control of their own: the list of cases, and the page's checkbox. */
const ELSEWHERE = ["case", "trace"];

/** Of a step `trace` that somebody has typed. */
const UNWANTED = "The page chooses the ID itself; tick “Trace what the server sees”.";

/** Rows that are shown; the server takes no more steps. */
const MOST = 200;

/** Milliseconds without a change after which the server is asked. */
const PAUSE = 300;

/**
 * @typedef {import("./steps.js").Kind} Kind
 *
 * @typedef {import("./steps.js").Mistake} Mistake
 *
 * @typedef {object} Row
 * @property {Step} step
 * @property {HTMLElement} item
 * @property {HTMLInputElement | undefined} input
 * @property {HTMLElement} problem
 */

export class Lab {
  /**
   * @param {HTMLElement} panel empty; becomes the tool
   * @param {(script: string) => void} onScript the form has made another script: the query of /lab,
   *   percent-encoded, without the step `trace`
   * @param {() => void} onConnect connect with the script as it is, please
   */
  constructor(panel, onScript, onConnect) {
    this.panel = panel;
    this.onScript = onScript;
    this.onConnect = onConnect;
    /** @type {Map<string, Kind>} by their names; empty until the server has told */
    this._kinds = new Map();
    /** @type {Step[]} */
    this._steps = [];
    /** @type {Row[]} as they are drawn */
    this._rows = [];
    this._isDrawn = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
    // A panel that is hidden draws when it is shown.
    new MutationObserver(() => this._isDrawn || this._draw()).observe(panel, {
      attributeFilter: ["hidden"],
    });
    this._load();
  }

  /**
   * Show this script in the form: somebody has typed it.
   *
   * @param {string} script
   */
  show(script) {
    this._steps = parseSteps(script);
    this._isDrawn = false;
    this._draw();
  }

  async _load() {
    const status = element("p", { role: "status", tabIndex: -1 }, "Reading what the lab can do");
    this._replace(status, status);
    try {
      const { steps } = await read("lab");
      const cases = await read("lab/cases");
      this._kinds = new Map(steps.map((/** @type {Kind} */ kind) => [kind.name, kind]));
      this._build(cases);
    } catch (error) {
      this._fail(/** @type {Error} */ (error).message);
    }
  }

  /** @param {string} why */
  _fail(why) {
    const again = element("button", { type: "button", onclick: () => this._load() }, "Try again");
    this._replace(again, element("p", { role: "status", className: "warn" }, why), again);
  }

  /**
   * What the panel has from now on. If what it had has the focus, that is not lost.
   *
   * @param {HTMLElement} heir gets it
   * @param {...HTMLElement} children
   */
  _replace(heir, ...children) {
    const hasFocus = this.panel.querySelector(":focus") !== null;
    this.panel.replaceChildren(...children);
    if (hasFocus) heir.focus();
  }

  /** @param {import("./cases.js").Case[]} cases */
  _build(cases) {
    this._list = element("ol", { className: "steps", role: "list" });
    this._status = element("p", { role: "status", id: "lab-status" });
    this._url = element("code");
    const connect = element("button", { type: "submit" }, "Connect");
    const onCopy = (/** @type {MouseEvent} */ { currentTarget }) =>
      copy(this._url.textContent, /** @type {HTMLButtonElement} */ (currentTarget));
    const form = element(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          this.onConnect();
        },
      },
      this._list,
      this._status,
      element("p", { className: "url" }, "URL: ", this._url),
      connect,
      element("button", { type: "button", onclick: onCopy }, "Copy URL"),
    );
    const section = element("div");
    const adder = this._makeAdder();
    this._replace(this._select, element("h3", {}, "Script"), adder, form, section);
    new Cases(section, cases, (script) => {
      this.show(script);
      this.onScript(script);
      connect.focus(); // And into sight, with the script.
    });
    this._draw();
  }

  _makeAdder() {
    const kinds = [...this._kinds.values()].filter(({ name }) => !ELSEWHERE.includes(name));
    const groups = [...new Set(kinds.map(({ when }) => when))].map((when) => {
      const options = kinds
        .filter((kind) => kind.when === when)
        .map(({ name, syntax }) => element("option", { value: name }, syntax));
      return element("optgroup", { label: sentence(when) }, ...options);
    });
    const hint = element("p", { className: "hint", id: "lab-meaning" });
    const showMeaning = () => {
      const kind = /** @type {Kind} */ (this._kinds.get(this._select.value));
      hint.replaceChildren(describe(kind), " Such as ", element("code", {}, kind.example));
    };
    this._select = element(
      "select",
      { onchange: showMeaning, "aria-describedby": hint.id },
      ...groups,
    );
    this._select.value = "send";
    showMeaning();
    return element(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          this._add(/** @type {Kind} */ (this._kinds.get(this._select.value)));
        },
      },
      element("label", {}, "Step", this._select),
      element("button", { type: "submit" }, "Add"),
      hint,
    );
  }

  /** @param {Kind} kind */
  _add(kind) {
    const step = new Step(kind.name);
    // Its example, so that the script is a right one at once.
    if (takesValue(kind) !== "none") step.value = exampleOf(kind).value ?? "";
    let index = this._steps.length;
    if (kind.when === OPENING) index = this._steps.findIndex((each) => !this._isOpening(each));
    if (index === -1) index = this._steps.length;
    this._steps.splice(index, 0, step);
    this._redraw();
    const { input } = this._rows[index] ?? {};
    input?.focus();
    input?.select();
  }

  /**
   * @param {number} index
   * @param {-1 | 1} by
   */
  _move(index, by) {
    const [step] = this._steps.splice(index, 1);
    this._steps.splice(index + by, 0, step);
    this._redraw();
    // Where it went; at the end of the way, the other button.
    const buttons = this._rows[index + by].item.querySelectorAll("button");
    const [first, other] = by === -1 ? buttons : [buttons[1], buttons[0]];
    (first.disabled ? other : first).focus();
  }

  /** @param {number} index */
  _remove(index) {
    this._steps.splice(index, 1);
    this._redraw();
    const next = this._rows[Math.min(index, this._rows.length - 1)];
    const removal = next && [...next.item.querySelectorAll("button")].at(-1);
    (removal ?? this._select).focus();
  }

  _redraw() {
    this._isDrawn = false;
    this._draw();
    this.onScript(this._script);
  }

  get _script() {
    return formatSteps(this._steps);
  }

  /** @param {Step | undefined} step */
  _isOpening(step) {
    return step !== undefined && this._kinds.get(step.name)?.when === OPENING;
  }

  _draw() {
    if (this.panel.hidden || !this._kinds.size) return;
    this._isDrawn = true;
    this._rows = this._steps.slice(0, MOST).map((step, index) => this._makeRow(step, index));
    const rest = this._steps.length - this._rows.length;
    const items = this._rows.map(({ item }) => item);
    if (rest) items.push(element("li", {}, `… and ${rest} more, which are not shown`));
    this._list.replaceChildren(...items);
    this._changed();
  }

  /**
   * @param {Step} step
   * @param {number} index
   * @returns {Row}
   */
  _makeRow(step, index) {
    const kind = this._kinds.get(step.name);
    const place = `step ${index + 1}, ${step.name}`;
    const hint = element("p", { className: "hint", id: `lab-hint-${index}` });
    hint.append(
      kind
        ? describe(kind)
        : element("span", { className: "warn" }, "Unknown: the server has no such step."),
    );
    if (step.isEncoded) hint.append(" Shown percent-encoded.");
    if (step.name === "trace") hint.append(" ", element("span", { className: "warn" }, UNWANTED));
    const problem = element("p", { className: "bad", id: `lab-problem-${index}` });
    const button = (
      /** @type {string} */ label,
      /** @type {string} */ text,
      /** @type {() => void} */ onclick,
      disabled = false,
    ) => element("button", { type: "button", "aria-label": label, onclick, disabled }, text);
    const input = this._makeInput(step, kind, index);
    const name = element("code", {}, step.name);
    const item = element(
      "li",
      {},
      input ? element("label", {}, name, input) : element("span", { className: "name" }, name),
      element(
        "span",
        { className: "buttons" },
        button(`Move up: ${place}`, "↑", () => this._move(index, -1), !this._maySwap(index - 1)),
        button(`Move down: ${place}`, "↓", () => this._move(index, 1), !this._maySwap(index)),
        button(`Remove ${place}`, "×", () => this._remove(index)),
      ),
      problem,
      hint,
    );
    if (input && kind) item.append(...makeWords(kind, input, index));
    return { step, item, input, problem };
  }

  /**
   * @param {Step} step
   * @param {Kind | undefined} kind undefined for a step that the server does not have
   * @param {number} index
   * @returns {HTMLInputElement | undefined} for its value; undefined if it has none
   */
  _makeInput(step, kind, index) {
    const takes = kind && takesValue(kind);
    if (step.value === undefined && (!takes || takes === "none")) return undefined;
    const mayBeNone = takes === "none" || takes === "may";
    const input = element("input", {
      value: step.value ?? "",
      placeholder: (kind && exampleOf(kind).value) ?? "",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: false,
      "aria-describedby": `lab-problem-${index} lab-hint-${index}`,
      oninput: () => {
        step.value = mayBeNone && !input.value ? undefined : input.value;
        this._changed();
        this.onScript(this._script);
      },
    });
    return input;
  }

  /**
   * Whether this step and the next may change places: those before the 101 stay first.
   *
   * @param {number} index
   */
  _maySwap(index) {
    const [step, next] = [this._steps[index], this._steps[index + 1]];
    if (step === undefined || next === undefined || index + 1 >= MOST) return false;
    return !this._isOpening(step) || this._isOpening(next);
  }

  /** The script is another. */
  _changed() {
    const script = this._script;
    this._url.textContent = urlOf(script);
    clearTimeout(this._timer);
    if (script) this._timer = setTimeout(() => this._check(script), PAUSE);
    else this._tell("No step: the server echoes.");
  }

  /** @param {string} script */
  async _check(script) {
    const { status, mistake } = await check(script);
    if (script !== this._script) return; // It is another by now.
    if (status === 200) this._tell("The server takes this script.");
    else if (mistake) this._tell("", mistake);
    else this._tell(`Not checked: ${status ? `the answer was ${status}` : "no answer"}.`);
  }

  /**
   * @param {string} text
   * @param {Mistake} [mistake]
   */
  _tell(text, mistake) {
    const wrong = mistake ? this._rows.filter(({ step }) => step.name === mistake.step) : [];
    for (const { step, input, problem } of this._rows) {
      const isWrong = wrong.some((row) => row.step === step);
      input?.setAttribute("aria-invalid", String(isWrong));
      problem.replaceChildren();
      if (!mistake || !isWrong) continue;
      const { takes, example, meant } = mistake;
      // The server names the step, and not its place.
      if (wrong.length > 1) problem.append("One of these: ");
      problem.append(`${step.name} ${mistake.problem}.`);
      if (takes && example && mistake.problem.startsWith("takes")) {
        const codes = [takes, example].map((text) => element("code", {}, text));
        problem.append(" It is ", codes[0], ", such as ", codes[1], ".");
      }
      if (meant) problem.append(" ", this._makeSuggestion(step, meant));
    }
    this._status.className = mistake ? "bad" : "hint";
    const said = mistake
      ? `The server refuses this script: ${mistake.step || "it:"} ${mistake.problem}.`
      : text;
    if (this._status.textContent !== said) this._status.textContent = said; // Which is read out.
  }

  /**
   * @param {Step} step
   * @param {string} meant
   */
  _makeSuggestion(step, meant) {
    const onclick = () => {
      const index = this._steps.indexOf(step);
      const [, ...value] = step.raw.split("=");
      this._steps[index] = new Step([meant, ...value].join("="));
      this._redraw();
      this._rows[index].input?.focus();
    };
    return element("button", { type: "button", onclick }, `Use ${meant}`);
  }
}

/**
 * @param {string} path
 * @throws {Error} which says what to tell
 */
async function read(path) {
  const answer = await fetch(path, { cache: "no-store" }).catch(() => undefined);
  if (answer === undefined) throw new Error("The server cannot be reached.");
  if (answer.status === 404) throw new Error("This service has no lab (--no-lab).");
  if (!answer.ok) throw new Error(`The lab cannot be read: the answer was ${answer.status}.`);
  return answer.json();
}

/** @param {string} text */
function sentence(text) {
  return text[0].toUpperCase() + text.slice(1);
}

/** @param {Kind} kind */
function describe({ meaning, atMost, when }) {
  const said = meaning.replaceAll("`", ""); // As its document has it.
  const what = when === "a step" ? sentence(said) : `${sentence(when)}: ${said}`;
  return `${what}.${atMost ? ` Limit: ${atMost}.` : ""}`;
}

/**
 * The words that this step may have as its value, to choose from.
 *
 * @param {Kind} kind
 * @param {HTMLInputElement} input
 * @param {number} index
 */
function makeWords(kind, input, index) {
  const words = wordsOf(kind);
  if (!words.length) return [];
  const id = `lab-words-${index}`;
  input.setAttribute("list", id);
  return [element("datalist", { id }, ...words.map((value) => element("option", { value })))];
}
