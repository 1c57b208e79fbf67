// @ts-check
// Bytes as people write them: hexadecimal, base64, UTF-8, and a dump of all three columns.

/** Of a dump. */
const ROW = 16;

/** Of `fromCharCode`, which takes its characters as arguments; and groups of three. */
const CHUNK = 3 << 12;

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** The value of each character of both alphabets of base64 (RFC 4648, 4 and 5), by its code. */
const BASE64 = new Int8Array(128).fill(-1);
for (const alphabet of ["+/", "-_"]) {
  const all = `ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789${alphabet}`;
  for (let i = 0; i < all.length; i += 1) BASE64[all.charCodeAt(i)] = i;
}

/**
 * A dump as that of `hexdump -C`: the offset, 16 bytes in two groups, and what of them is printable
 * ASCII. Without a line break at the end.
 *
 * @param {Uint8Array} bytes
 */
export function hexDump(bytes) {
  const rows = [];
  for (let start = 0; start < bytes.length; start += ROW) {
    const row = [...bytes.subarray(start, start + ROW)];
    const [left, right] = [row.slice(0, 8), row.slice(8)].map(formatList);
    const offset = start.toString(16).padStart(8, "0");
    const ascii = row.map((byte) => (byte < 0x20 || byte > 0x7e ? "." : String.fromCharCode(byte)));
    rows.push(`${offset}  ${left.padEnd(23)}  ${right.padEnd(23)}  |${ascii.join("")}|`);
  }
  return rows.join("\n");
}

/** @param {number[]} bytes */
const formatList = (bytes) => bytes.map((byte) => HEX[byte]).join(" ");

/**
 * Pairs of digits, with spaces between them.
 *
 * @param {Uint8Array} bytes
 */
export function formatHex(bytes) {
  const rows = [];
  for (let start = 0; start < bytes.length; start += ROW) {
    rows.push(formatList([...bytes.subarray(start, start + ROW)]));
  }
  return rows.join(" ");
}

/**
 * The bytes of pairs of digits, with or without white space, commas, colons, `0x` or `\x` between
 * them.
 *
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer>}
 * @throws {Error} which says what is wrong, and where
 */
export function parseHex(text) {
  const bytes = new Uint8Array(text.length >> 1);
  let length = 0;
  let i = 0;
  while (i < text.length) {
    const [high, low] = [digit(text, i), digit(text, i + 1)];
    if (high !== -1 && low !== -1) {
      bytes[length] = (high << 4) | low;
      length += 1;
      i += 2;
    } else i += betweenPairs(text, i);
  }
  return bytes.slice(0, length);
}

/**
 * Not by a regular expression, since there may be millions.
 *
 * @param {string} text
 * @param {number} index
 * @returns {number} -1 if there is no hexadecimal digit
 */
function digit(text, index) {
  const code = text.charCodeAt(index);
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  const letter = code | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1;
}

/**
 * How many characters here are not of a pair, and may be there.
 *
 * @param {string} text
 * @param {number} index
 */
function betweenPairs(text, index) {
  const isBetween = (/** @type {string | undefined} */ one) => one && /[\s,:]/.test(one);
  if (isBetween(text[index])) return 1;
  const prefix = text.slice(index, index + 2).toLowerCase();
  if (prefix === "0x" || prefix === "\\x") {
    if (digit(text, index + 2) !== -1) return 2;
    throw new Error(`no digit follows the ${prefix} of ${at(index)}`);
  }
  if (digit(text, index) === -1) {
    throw new Error(`${at(index)}, ${character(text, index)}, is no hexadecimal digit`);
  }
  if (index + 1 === text.length || isBetween(text[index + 1])) {
    throw new Error(`an odd number of digits: ${at(index)}, ${character(text, index)}, is alone`);
  }
  throw new Error(`${at(index + 1)}, ${character(text, index + 1)}, is no hexadecimal digit`);
}

/** @param {number} index */
const at = (index) => `character ${(index + 1).toLocaleString("en")}`;

/**
 * The character at this index, so that it can be seen.
 *
 * @param {string} text
 * @param {number} index
 */
export function character(text, index) {
  const code = /** @type {number} */ (text.codePointAt(index));
  const shown = String.fromCodePoint(code);
  // Neither what has no shape of its own, nor half of a surrogate pair.
  if (/[^\p{C}\p{Z}\p{M}]/u.test(shown)) return shown === "'" ? `"'"` : `'${shown}'`;
  return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** @param {Uint8Array} bytes */
export function formatBase64(bytes) {
  const parts = [];
  for (let start = 0; start < bytes.length; start += CHUNK) {
    parts.push(btoa(String.fromCharCode(...bytes.subarray(start, start + CHUNK))));
  }
  return parts.join("");
}

/**
 * The bytes of base64, in the standard or the URL-safe alphabet, with or without padding. White
 * space is ignored. `atob` knows one alphabet, and does not say what it does not like.
 *
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer>}
 * @throws {Error} which says what is wrong, and where
 */
export function parseBase64(text) {
  const bytes = new Uint8Array(Math.ceil((text.length * 3) / 4));
  let [length, bits, count, padding] = [0, 0, 0, 0];
  for (let i = 0; i < text.length; i += 1) {
    const value = BASE64[text.charCodeAt(i)] ?? -1;
    if (value === -1) {
      if (text[i] === "=") padding += 1;
      else if (!/\s/.test(text[i])) {
        throw new Error(`${at(i)}, ${character(text, i)}, is not of base64`);
      }
      continue;
    }
    if (padding) throw new Error(`${at(i)}, ${character(text, i)}, follows the padding`);
    bits = (bits << 6) | value;
    count += 1;
    if (count % 4 === 0) {
      bytes[length] = bits >> 16;
      bytes[length + 1] = bits >> 8;
      bytes[length + 2] = bits;
      length += 3;
      bits = 0;
    }
  }
  const rest = count % 4;
  if (rest === 1) throw new Error("the last character is alone: a byte takes two at least");
  const wanted = rest && 4 - rest;
  if (padding && padding !== wanted) {
    throw new Error(`the padding is of ${padding}, where ${wanted || "none"} is wanted`);
  }
  if (rest) bytes[length++] = rest === 2 ? bits >> 4 : bits >> 10;
  if (rest === 3) bytes[length++] = bits >> 2;
  return bytes.slice(0, length);
}

/**
 * @typedef {object} Decoded
 * @property {string} text what is not UTF-8 is U+FFFD in it
 * @property {boolean} isValid
 * @property {number} at where the first sequence begins that is not UTF-8; -1 if all is
 */

/**
 * @param {Uint8Array} bytes
 * @returns {Decoded}
 */
export function decodeUtf8(bytes) {
  try {
    // A decoder takes a byte order mark away, unless it is told to ignore it.
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return { text, isValid: true, at: -1 };
  } catch {
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    return { text, isValid: false, at: findInvalid(bytes) };
  }
}

/**
 * A decoder only says that there is such a place.
 *
 * @param {Uint8Array} bytes
 */
function findInvalid(bytes) {
  let i = 0;
  while (i < bytes.length) {
    const length = lengthAt(bytes, i);
    if (length === 0) return i;
    i += length;
  }
  return -1;
}

/**
 * The bytes of the character that begins here; 0 if none does (RFC 3629, 4).
 *
 * @param {Uint8Array} bytes
 * @param {number} index
 */
function lengthAt(bytes, index) {
  const first = bytes[index];
  if (first < 0x80) return 1;
  const length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (first < 0xc2 || first > 0xf4 || index + length > bytes.length) return 0;
  for (let i = 1; i < length; i += 1) if ((bytes[index + i] & 0xc0) !== 0x80) return 0;
  const second = bytes[index + 1];
  // Longer than need be, a surrogate, or above U+10FFFF.
  const isWrong =
    (first === 0xe0 && second < 0xa0) ||
    (first === 0xed && second > 0x9f) ||
    (first === 0xf0 && second < 0x90) ||
    (first === 0xf4 && second > 0x8f);
  return isWrong ? 0 : length;
}
