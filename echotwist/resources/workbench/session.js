// @ts-check
// What is kept for this tab alone, until it is closed.

/** Characters that are kept: a browser gives five million to an origin. */
export const ROOM = 2 << 20;

/**
 * @param {string} name
 * @param {any} what
 */
export function keep(name, what) {
  try {
    sessionStorage.setItem(name, JSON.stringify(what));
  } catch {
    // It is full, or forbidden: nothing is kept, and nothing else is lost.
    forget(name);
  }
}

/**
 * @param {string} name
 * @returns {any} undefined if nothing is kept
 */
export function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name) ?? "null") ?? undefined;
  } catch {
    return undefined;
  }
}

/** @param {string} name */
function forget(name) {
  try {
    sessionStorage.removeItem(name);
  } catch {
    // It was never there.
  }
}
