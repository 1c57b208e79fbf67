// @ts-check
// The tools: one is shown, and the others are one key away (WAI-ARIA, the pattern Tabs).
import { byId } from "./element.js";

const list = byId("tabs");
/** @type {HTMLButtonElement[]} */
const tabs = [...list.children];

/**
 * @param {string} name of the panel: `lab`, `server`, `latency`, `snippets` or `path`; others are ignored
 */
export function showTab(name) {
  const shown = tabs.find((tab) => tab.getAttribute("aria-controls") === name);
  if (shown === undefined) return;
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === shown));
    tab.tabIndex = tab === shown ? 0 : -1;
    byId(/** @type {string} */ (tab.getAttribute("aria-controls"))).hidden = tab !== shown;
  }
}

/** The name of the panel that is shown. */
export const shownTab = () =>
  tabs.find((tab) => tab.tabIndex === 0)?.getAttribute("aria-controls") ?? "";

list.onclick = (/** @type {MouseEvent} */ { target }) =>
  showTab(/** @type {HTMLElement} */ (target).getAttribute("aria-controls") ?? "");

list.onkeydown = (/** @type {KeyboardEvent} */ event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -tabs.length, End: tabs.length }[event.key];
  if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const here = tabs.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
  const there =
    Math.abs(step) === 1
      ? tabs[(here + step + tabs.length) % tabs.length]
      : tabs[step < 0 ? 0 : tabs.length - 1];
  there.focus();
  there.click();
};

showTab("lab");
