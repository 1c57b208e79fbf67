// @ts-check
// Messages of sizes at which something between may have a limit. A page cannot choose fragments:
// each goes as the browser sends it.
import { Ended, Late, seconds, wordsOf } from "./dialer.js";
import { eventsOf, isMessage } from "./farend.js";
import { differenceOf } from "./pathbytes.js";

/** Bytes: those of echotwist/probe/sizes.py, which says why. */
const LADDER = [
  ...[125, 126, 16_384, 32_767, 32_768, 32_769, 65_535, 65_536],
  ...[131_071, 131_072, 131_073, 1_048_575, 1_048_576, 1_048_577, 16_777_216],
];

/** Seconds for an echo: 16 MB there and back take as long at 4.5 Mbit/s. */
const PATIENCE = 60;

/** Sizes in a row that do not pass, after which larger ones are not tried. */
const GIVEN_UP = 3;

/** Bytes that getRandomValues() gives at a time. */
const AT_ONCE = 65_536;

/**
 * @typedef {import("./farend.js").FarEnd} FarEnd
 *
 * @typedef {object} Size as echotwist/paths/measured.py has it
 * @property {number} size
 * @property {"whole"} shape
 * @property {boolean} passed
 * @property {string} why
 * @property {number | null} code
 * @property {boolean | null} arrived
 * @property {boolean} refusedByServer
 */

/**
 * Append to `found`; `say` is told what is tried.
 *
 * @param {import("./dialer.js").Dialer} near
 * @param {FarEnd} far
 * @param {Size[]} found
 * @param {(what: string) => void} say
 */
export async function measureSizes(near, far, found, say) {
  const payload = makeNoise(LADDER[LADDER.length - 1]);
  /** @type {import("./dialer.js").Dialog | undefined} */
  let dialog;
  let traceId = "";
  let failed = 0;
  for (const size of LADDER) {
    if (failed === GIVEN_UP) break;
    if (dialog === undefined) {
      // Compressed, the sizes would be others.
      const [url, id] = far.script("extension=none");
      traceId = id;
      dialog = await near.open(url);
    }
    say(`${size.toLocaleString("en")} bytes`);
    const result = await echo(dialog, payload.subarray(0, size));
    if (result.passed) {
      failed = 0;
    } else {
      failed += 1;
      dialog.socket.close();
      dialog = undefined;
      await ask(far, traceId, result);
    }
    found.push(result);
  }
  await dialog?.close();
}

/** @param {number} size */
function makeNoise(size) {
  const noise = new Uint8Array(size);
  for (let start = 0; start < size; start += AT_ONCE) {
    crypto.getRandomValues(noise.subarray(start, start + AT_ONCE));
  }
  return noise;
}

/**
 * @param {import("./dialer.js").Dialog} dialog
 * @param {Uint8Array<ArrayBuffer>} payload
 * @returns {Promise<Size>}
 */
async function echo(dialog, payload) {
  /** @type {Size} */
  const result = {
    size: payload.length,
    shape: "whole",
    passed: false,
    why: "",
    code: null,
    arrived: null,
    refusedByServer: false,
  };
  try {
    dialog.send(payload);
    result.why = differenceOf(payload, (await dialog.message(seconds() + PATIENCE)).data);
    result.passed = result.why === "";
  } catch (error) {
    if (error instanceof Late) result.why = `no echo in ${PATIENCE} s`;
    else if (error instanceof Ended) {
      result.why = wordsOf(error.end);
      result.code = error.end.code;
    } else throw error;
  }
  return result;
}

/**
 * Whether the server has got it, and whether it was the one that refused it.
 *
 * @param {FarEnd} far
 * @param {string} traceId
 * @param {Size} result
 */
async function ask(far, traceId, result) {
  const trace = await far.trace(traceId);
  if (trace === undefined) return;
  let size = 0;
  result.arrived = false;
  for (const { fin, length = 0 } of eventsOf(trace, "frameReceived").filter(isMessage)) {
    size += length;
    if (!fin) continue;
    result.arrived ||= size === result.size;
    size = 0;
  }
  result.refusedByServer = eventsOf(trace, "refused").length > 0;
}
