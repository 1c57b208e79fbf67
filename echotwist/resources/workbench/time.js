// @ts-check
// A time, as a line of a log has it.

/**
 * The local time of day, to a tenth of a millisecond.
 *
 * @param {number} time milliseconds since 1970
 */
export function clockOf(time) {
  const date = new Date(time);
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const tenths = Math.floor((((time % 60_000) + 60_000) % 60_000) * 10);
  const seconds = `${two(Math.floor(tenths / 10_000))}.${String(tenths % 10_000).padStart(4, "0")}`;
  return `${two(date.getHours())}:${two(date.getMinutes())}:${seconds}`;
}
