// @ts-check
// The workbench, put together:
//
//     a connection  ->  the history  ->  the timeline  ->  an entry in detail
//
// and beside them the tools, each in its panel and its module.
import { Composer } from "./composer.js";
import { Connections } from "./connections.js";
import { byId, copy } from "./element.js";
import { History } from "./history.js";
import { Lab } from "./lab.js";
import { Latency } from "./latency.js";
import { linkTo, parseLink, scriptOf, urlOf } from "./link.js";
import { Server } from "./server.js";
import { Path } from "./path.js";
import { keep, recall } from "./session.js";
import { Snippets } from "./snippets.js";
import { showTab, shownTab } from "./tabs.js";
import { Timeline } from "./timeline.js";

const FORM = "form";
const TIMELINE = "timeline";

const [script, subprotocols, traced, url] = ["script", "subprotocols", "traced", "url"].map(byId);

const history = new History();
const timeline = new Timeline(history);
const latency = new Latency(byId("latency"));
const server = new Server(byId("server"), history);
const snippets = new Snippets(byId("snippets"));
new Path(byId("path"));
const lab = new Lab(byId("lab"), onScript, connect);
const connections = new Connections(history, (connection) => {
  connection.onRoundTrip = (roundTrip, time) => latency.add(roundTrip, time, connection.number);
  if (connection.traceId !== undefined) server.watch(connection);
});
const composer = new Composer(connections, showWanted);
connections.onChange = () => composer.showTargets();

/** @returns {import("./link.js").Wanted} what the form asks for */
function wanted() {
  return {
    script: scriptOf(script.value),
    subprotocols: subprotocols.value.split(/[\s,]+/).filter(Boolean),
    isTraced: traced.checked,
  };
}

/** @param {import("./link.js").Wanted} wanted */
function want({ script: steps, subprotocols: names, isTraced }) {
  script.value = steps;
  subprotocols.value = names.join(", ");
  traced.checked = isTraced;
  lab.show(steps);
  showWanted();
}

/** Show what the form stands for: its URL, and the snippets for it. */
function showWanted() {
  const { script: steps, subprotocols: names, isTraced } = wanted();
  url.textContent = urlOf(steps, isTraced ? "ID" : undefined);
  const { text, format } = composer.draft;
  const message = (format === "text" && text) || "hello";
  snippets.show({ url: urlOf(steps), subprotocols: names, message });
}

function connect() {
  connections.connect(wanted());
}

/** @param {string} steps made in the lab's form */
function onScript(steps) {
  script.value = steps;
  showWanted();
}

byId("open-form").onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  connect();
};
script.oninput = () => {
  lab.show(wanted().script);
  showWanted();
};
subprotocols.oninput = traced.onchange = showWanted;
byId("copy-link").onclick = (/** @type {MouseEvent} */ { currentTarget }) =>
  copy(linkTo(wanted(), composer.draft), /** @type {HTMLButtonElement} */ (currentTarget));

// Kept for this tab alone, whose reload loses nothing.

addEventListener("pagehide", () => {
  keep(FORM, {
    hash: location.hash,
    tab: shownTab(),
    wanted: wanted(),
    composer: composer.kept,
    newest: connections.newest,
  });
  // By itself: if there is no room for it, the form is kept all the same.
  const { urls, opened } = history;
  keep(TIMELINE, { urls: [...urls], opened: [...opened], entries: timeline.kept });
});

function follow() {
  const link = parseLink(location.hash);
  want(link.wanted);
  if (link.draft.text) composer.draft = link.draft;
  showTab(link.tab);
  connect();
}

const form = recall(FORM);
const past = recall(TIMELINE);
if (past !== undefined) {
  for (const [number, url] of past.urls) history.urls.set(number, url);
  for (const number of past.opened) history.opened.add(number);
  timeline.kept = past.entries;
}
if (form !== undefined) {
  composer.kept = form.composer;
  connections.newest = form.newest;
}
addEventListener("hashchange", follow);
byId("connect").disabled = byId("copy-link").disabled = false;
if (form?.hash === location.hash) {
  want(form.wanted);
  showTab(form.tab);
  connect();
} else {
  follow();
}
