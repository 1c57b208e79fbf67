// @ts-check
// The steps of a script, read from the query of /lab and written into it.

/**
 * A row of the server's table: what GET /lab tells of a step.
 *
 * @typedef {object} Kind
 * @property {string} name
 * @property {string} when such as `before the 101`
 * @property {string} syntax such as `close[=CODE[,REASON]]`
 * @property {string | null} atMost
 * @property {string} meaning
 * @property {string} example a script
 *
 * @typedef {object} Mistake what the server says is wrong with a script
 * @property {string} step its name; empty if it is about the script as a whole
 * @property {string} problem
 * @property {string | null} takes
 * @property {string | null} example
 * @property {string | null} meant the name of another step
 */

export class Step {
  /** @param {string} raw as it is in the script, such as `send=hello%20world` */
  constructor(raw) {
    this.raw = raw;
    const [rawName] = raw.split("=", 1);
    this.name = decoded(rawName) ?? rawName;
    this._rawName = rawName;
    const value = decoded(this._rawValue ?? "");
    /**
     * Whether its value is shown percent-encoded: it is no UTF-8, or has what an input would lose,
     * such as a line break.
     */
    this.isEncoded = value === undefined || /\p{Cc}/u.test(value);
  }

  /** As it is shown; undefined without a `=`. */
  get value() {
    const raw = this._rawValue;
    return raw === undefined || this.isEncoded ? raw : decoded(raw);
  }

  set value(value) {
    if (value === undefined) this.raw = this._rawName;
    else this.raw = `${this._rawName}=${this.isEncoded ? guarded(value) : encoded(value)}`;
  }

  get _rawValue() {
    const { length } = this._rawName;
    return this.raw.length > length ? this.raw.slice(length + 1) : undefined;
  }
}

/**
 * The step that its example shows, with the value that it has there.
 *
 * @param {Kind} kind
 */
export function exampleOf({ name, example }) {
  return parseSteps(example).find((step) => step.name === name) ?? new Step(name);
}

/**
 * Whether it takes a value, and whether that may be left out, as in `ping[=TEXT]`.
 *
 * @param {Kind} kind
 * @returns {"none" | "may" | "must"}
 */
export function takesValue({ syntax }) {
  if (!syntax.includes("=")) return "none";
  return syntax.includes("[=") ? "may" : "must";
}

/**
 * The words that may be its value: `no` of `pong=no|TIME`.
 *
 * @param {Kind} kind
 */
export function wordsOf({ syntax }) {
  const [, value = ""] = syntax.split("=", 2);
  return value.split("|").filter((word) => /^[a-z]+$/.test(word));
}

/**
 * Ask the server, which is the one that parses scripts.
 *
 * @param {string} script
 * @returns {Promise<{status: number, mistake: Mistake | undefined, problem: string}>} the status of
 *   the answer, 0 for none; and of a script that is refused, what is wrong, also in words
 */
export async function check(script) {
  const url = `lab?${script.replaceAll("#", "%23")}`;
  const answer = await fetch(url, { cache: "no-store" }).catch(() => undefined);
  const status = answer?.status ?? 0;
  const told = status === 400 ? await answer?.json().catch(() => undefined) : undefined;
  /** @type {Mistake | undefined} */
  const mistake = told?.error;
  const problem = mistake ? `${mistake.step || "it:"} ${mistake.problem}` : "";
  return { status, mistake, problem };
}

/** @param {string} script */
export function parseSteps(script) {
  return script
    .split("&")
    .filter(Boolean)
    .map((raw) => new Step(raw));
}

/** @param {Step[]} steps */
export function formatSteps(steps) {
  return steps.map(({ raw }) => raw).join("&");
}

/**
 * As UTF-8, if it is that. A plus is a plus here, and not a space as in forms.
 *
 * @param {string} text
 * @returns {string | undefined}
 */
function decoded(text) {
  try {
    // The server takes a percent sign that begins no byte as it is, and so do we.
    return decodeURIComponent(text.replace(/%(?![0-9a-f]{2})/gi, "%25"));
  } catch {
    return undefined;
  }
}

/**
 * Percent-encoded but for what a query may have, and what makes values readable. A lone surrogate
 * is what a WebSocket would send for it.
 *
 * @param {string} text
 */
function encoded(text) {
  return encodeURIComponent(text.replace(/\p{Cs}/gu, "\ufffd")).replace(
    /%(?:2C|3A|3B|3D|2F|3F|40)/g,
    decodeURIComponent,
  );
}

/**
 * What is percent-encoded by hand, made safe for a query: but for percent signs that stand.
 *
 * @param {string} text
 */
function guarded(text) {
  return encoded(text).replace(/%25/g, "%");
}
