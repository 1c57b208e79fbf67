// @ts-check
// JSON, checked and indented, and otherwise left as it is. `JSON.parse` and `JSON.stringify` would
// make 1 of 1.0, round 12345678901234567890, and drop a name that is there twice; and each browser
// says in its own way what is wrong, some without where.
import { character } from "./bytes.js";

const INDENT = "  ";

/** Levels that are indented. With more, the result would grow with the square of the text. */
const LEVELS = 40;

const BREAKS = Array.from({ length: LEVELS + 1 }, (_, level) => `\n${INDENT.repeat(level)}`);

const WORDS = ["true", "false", "null"];

/** What may follow each character of an escape but `u`. */
const ESCAPED = '"\\/bfnrt';

/**
 * @typedef {object} Problem
 * @property {number} index
 * @property {string} what
 */

/**
 * @param {string} text
 * @returns {{isValid: boolean, problem: string}} the first error, with its line and column
 */
export function checkJson(text) {
  const problem = scan(text, () => {});
  return { isValid: problem === undefined, problem: problem ? described(text, problem) : "" };
}

/**
 * The same tokens, each value on a line of its own.
 *
 * @param {string} text
 * @param {number} [most] characters of the result; of a longer one, these and an ellipsis
 * @throws {Error} if it is not JSON
 */
export function prettyJson(text, most = Infinity) {
  /** @type {string[]} */
  const parts = [];
  let previous = "";
  let length = 0;
  const problem = scan(text, (token, depth) => {
    if (length > most) return; // What follows is only checked.
    const [isOpened, isClosed] = ["[{".includes(previous), "]}".includes(token)];
    const isNew = previous === "," || isOpened !== isClosed;
    const before = isNew && previous ? BREAKS[Math.min(depth, LEVELS)] : "";
    const part = before + (token === ":" ? ": " : token);
    parts.push(part);
    length += part.length;
    previous = token;
  });
  if (problem) throw new Error(described(text, problem));
  const pretty = parts.join("");
  if (length <= most) return pretty;
  const isHalf = (pretty.charCodeAt(most - 1) & 0xfc00) === 0xd800;
  return `${pretty.slice(0, isHalf ? most - 1 : most)}…`;
}

/**
 * @param {string} text
 * @param {Problem} problem
 */
function described(text, { index, what }) {
  let [line, start] = [1, 0];
  for (let i = 0; i < index; i += 1) {
    if (text[i] !== "\n" && (text[i] !== "\r" || text[i + 1] === "\n")) continue;
    line += 1;
    start = i + 1;
  }
  let column = 1;
  // By characters, of which some are two units.
  for (let i = start; i < index; i += 1) {
    const isHalf = (text.charCodeAt(i) & 0xfc00) === 0xdc00 && i > start;
    if (!isHalf || (text.charCodeAt(i - 1) & 0xfc00) !== 0xd800) column += 1;
  }
  return `line ${line}, column ${column}: ${what}`;
}

/**
 * Read JSON (RFC 8259), token by token. It is a loop, since a recursion would overflow the stack
 * with some thousand brackets.
 *
 * @param {string} text
 * @param {(token: string, depth: number) => void} onToken `depth` of the line that it begins
 * @returns {Problem | undefined} the first
 */
function scan(text, onToken) {
  /** @type {string[]} what closes those that are open now: `]` and `}` */
  const open = [];
  let index = 0;
  /** @type {keyof typeof WANTED} what may come */
  let wanted = "value";
  for (;;) {
    while (isSpace(text.charCodeAt(index))) index += 1;
    const first = text[index];
    const end = open[open.length - 1];
    if (first === undefined && wanted === "nothing") return undefined;
    if (first === end && end !== undefined && CLOSABLE.includes(wanted)) {
      open.pop();
      onToken(first, open.length);
      index += 1;
      wanted = next(open);
    } else if (wanted === "comma" && first === ",") {
      onToken(first, open.length);
      index += 1;
      wanted = end === "]" ? "another value" : "another name";
    } else if (wanted === "colon" && first === ":") {
      onToken(first, open.length);
      index += 1;
      wanted = "member";
    } else if (NAMES.includes(wanted) && first === '"') {
      const read = readString(text, index);
      if (typeof read !== "number") return read;
      onToken(text.slice(index, read), open.length);
      index = read;
      wanted = "colon";
    } else if (!VALUES.includes(wanted) || first === undefined) {
      return unexpected(text, index, WANTED[wanted](end));
    } else if (first === "[" || first === "{") {
      onToken(first, open.length);
      open.push(first === "[" ? "]" : "}");
      index += 1;
      wanted = first === "[" ? "first value" : "first name";
    } else {
      const read = readScalar(text, index, WANTED[wanted](end));
      if (typeof read !== "number") return read;
      onToken(text.slice(index, read), open.length);
      index = read;
      wanted = next(open);
    }
  }
}

/** @satisfies {Record<string, (end: string) => string>} */
const WANTED = {
  value: () => "a value",
  "first value": () => "a value or ]",
  "another value": () => "a value after the comma",
  member: () => "a value after the colon",
  "first name": () => "a name in double quotes, or }",
  "another name": () => "a name in double quotes after the comma",
  colon: () => "a colon after the name",
  comma: (/** @type {string} */ end) => `a comma or ${end}`,
  nothing: () => "nothing more",
};

const VALUES = ["value", "first value", "another value", "member"];
const NAMES = ["first name", "another name"];
const CLOSABLE = ["first value", "first name", "comma"];

/**
 * What may come after a value.
 *
 * @param {string[]} open
 */
const next = (open) => (open.length ? "comma" : "nothing");

/** @param {number} code */
const isSpace = (code) => code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;

/** @param {number} code */
const isDigit = (code) => code >= 0x30 && code <= 0x39;

/**
 * @param {string} text
 * @param {number} index
 * @param {string} what
 * @returns {Problem}
 */
function unexpected(text, index, what) {
  if (index >= text.length) return { index, what: `expected ${what}, but the text ends` };
  if (text[index] === "\ufeff") return { index, what: "a byte order mark, which JSON has not" };
  const word = /^[\w$]{2,20}/.exec(text.slice(index, index + 20))?.[0];
  return { index, what: `expected ${what}, but found ${word ?? character(text, index)}` };
}

/**
 * A string, a number, `true`, `false` or `null`.
 *
 * @param {string} text
 * @param {number} index
 * @param {string} wanted
 * @returns {number | Problem} where it ends
 */
function readScalar(text, index, wanted) {
  if (text[index] === '"') return readString(text, index);
  if (text[index] === "-" || isDigit(text.charCodeAt(index))) return readNumber(text, index);
  const word = WORDS.find((word) => text.startsWith(word, index));
  const end = index + (word?.length ?? 0);
  // Not `trueish`, which is better told as one word.
  return word && !/[\w$]/.test(text[end] ?? "") ? end : unexpected(text, index, wanted);
}

/**
 * @param {string} text
 * @param {number} start
 * @returns {number | Problem}
 */
function readNumber(text, start) {
  let index = start;
  let problem;
  /** @param {string} where */
  const digits = (where) => {
    if (!isDigit(text.charCodeAt(index))) problem = unexpected(text, index, `a digit ${where}`);
    while (isDigit(text.charCodeAt(index))) index += 1;
  };
  if (text[index] === "-") index += 1;
  if (text[index] === "0" && isDigit(text.charCodeAt(index + 1))) {
    return { index, what: "a number does not begin with 0" };
  }
  digits("after the minus");
  if (!problem && text[index] === ".") {
    index += 1;
    digits("after the point");
  }
  if (!problem && (text[index] === "e" || text[index] === "E")) {
    index += 1;
    if (text[index] === "+" || text[index] === "-") index += 1;
    digits("in the exponent");
  }
  return problem ?? index;
}

/**
 * @param {string} text
 * @param {number} start
 * @returns {number | Problem}
 */
function readString(text, start) {
  let index = start + 1;
  while (index < text.length) {
    const code = text.charCodeAt(index);
    if (code === 0x22) return index + 1;
    if (code < 0x20) {
      return { index, what: `${character(text, index)} in a string, where it must be escaped` };
    }
    if (code !== 0x5c) {
      index += 1;
    } else if (text[index + 1] === "u") {
      if (!/^[\da-f]{4}$/i.test(text.slice(index + 2, index + 6))) {
        return { index, what: "\\u without four hexadecimal digits" };
      }
      index += 6;
    } else if (index + 1 < text.length && !ESCAPED.includes(text[index + 1])) {
      return { index, what: `\\ before ${character(text, index + 1)}, which is no escape of JSON` };
    } else index += 2;
  }
  return { index: start, what: "the string that begins here does not end" };
}
