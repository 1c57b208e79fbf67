// @ts-check
// What is kept for this tab alone, until it is closed.

/** Characters of a timeline that are kept: a browser gives five million to an origin. */
export const ROOM = 1 << 20;

/** Other pages of this host keep things, too, and so may another version of this one. */
const PREFIX = `echotwist ${location.pathname} 2 `;

/**
 * @param {string} name
 * @param {any} what
 * @returns {boolean} false if nothing is kept: there is no room, or it is forbidden
 */
export function keep(name, what) {
  try {
    sessionStorage.setItem(PREFIX + name, JSON.stringify(what));
    return true;
  } catch {
    forget(name);
    return false;
  }
}

/**
 * @param {string} name
 * @returns {any} undefined if nothing is kept
 */
export function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name) ?? "null") ?? undefined;
  } catch {
    return undefined;
  }
}

/** @param {string} name */
function forget(name) {
  try {
    sessionStorage.removeItem(PREFIX + name);
  } catch {
    // It was never there.
  }
}
