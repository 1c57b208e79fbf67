// @ts-check
// The page's side of the echo: open, send, show what comes.
import { explain1006, meaningOf } from "./closing.js";
import { boundDirection } from "./direction.js";
import { Log } from "./log.js";

const [form, input, output, status, counts, send, reconnect, stop] = /** @type {any[]} */ (
  ["form", "input", "output", "status", "counts", "send", "reconnect", "stop"].map((id) =>
    document.getElementById(id),
  )
);
const log = new Log(output, count);
boundDirection(input);

// Relative to the page, so that it works behind TLS and below a proxy's prefix.
const url = new URL("echo", location.href);
url.protocol = url.protocol.replace("http", "ws");
/** @type {HTMLElement} */ (document.getElementById("url")).textContent = url.href;

// Seconds until an attempt to connect may be stopped: most take less, and need no such button.
const PATIENCE = 1;

// Seconds until the first attempt to connect again, and at most.
const FIRST = 1;
const LAST = 30;

// Ends after which the server may be back soon. After others somebody has wanted the end.
const PASSING = [1001, 1006, 1011, 1012, 1013, 1014];

// Seconds without a turn after which this device has slept: the server has given up on it. A tab
// that is hidden has one each minute.
const SLEPT = 150;

const TITLE = document.title;

// Sent, and not come back yet: the last of them.
const WAITING = 1000;

/** @type {WebSocket | undefined} */
let socket;
/** @type {{text: string, time: number}[]} */
let waiting = [];
/** What came of the last message, in words. */
let last = "";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let pause = FIRST;
let sent = 0;
let received = 0;

/**
 * @param {string} word what the connection is
 * @param {string} [why]
 */
function say(word, why) {
  const text = word + (why ? `: ${why}` : "");
  if (status.textContent !== text) status.textContent = text; // Which a screen reader says.
  document.title = `${word} – ${TITLE}`;
}

function count() {
  const numbers = [sent, received].map((number) => number.toLocaleString("en"));
  counts.textContent = `${numbers[0]} sent, ${numbers[1]} received${last}`;
}

/** @param {HTMLElement[]} buttons those that are of use now */
function offer(...buttons) {
  const focused = document.activeElement;
  for (const button of [send, reconnect, stop]) button.hidden = !buttons.includes(button);
  send.disabled = socket?.readyState !== WebSocket.OPEN;
  // Who was on one that is gone goes on with the next deed. Others stay where they are.
  if (focused instanceof HTMLElement && focused.hidden) (send.hidden ? reconnect : input).focus();
}

// `isAsked`: somebody waits for it, and hears if it fails.
function connect(isAsked = true) {
  abandon();
  const mine = (socket = new WebSocket(url));
  mine.binaryType = "arraybuffer";
  // For whoever tries something in the console.
  Object.assign(window, { socket });
  send.disabled = true;
  let wasOpen = false;
  if (isAsked) {
    say("Connecting");
    offer(send);
    timer = setTimeout(offer, PATIENCE * 1000, send, stop);
  }
  mine.onopen = () => {
    wasOpen = true;
    pause = FIRST;
    clearTimeout(timer);
    log.add("Status: ", "Connected");
    say("Connected");
    offer(send);
  };
  mine.onmessage = ({ data }) => {
    received += 1;
    if (typeof data !== "string") {
      log.add("Server (binary): ", described(new Uint8Array(data)));
      return;
    }
    if (data === waiting[0]?.text) {
      const { text, time } = /** @type {{text: string, time: number}} */ (waiting.shift());
      last = `; ${shortened(text)} came back after ${(performance.now() - time).toFixed(1)} ms`;
    }
    log.add("Server: ", data);
  };
  mine.onclose = ({ code, reason }) => {
    if (wasOpen || isAsked) {
      log.add("Status: ", `Disconnected (${code}${reason && ": " + reason})`);
    }
    abandon();
    const isPassing = PASSING.includes(code);
    if (isPassing) tryAgain();
    offer(reconnect, ...(isPassing ? [stop] : []));
    const after = isPassing ? "; it tries again by itself" : "";
    if (code !== 1006) {
      say("Disconnected", meaningOf(code) + after);
      return;
    }
    if (isAsked || wasOpen) say("Disconnected");
    explain1006(wasOpen).then((why) => {
      // Unless something has happened meanwhile.
      if (mine === socket && !reconnect.hidden && !stop.hidden) say("Disconnected", why + after);
    });
  };
}

// Hear nothing more of this connection, and make no other.
function abandon() {
  clearTimeout(timer);
  for (const { text } of waiting) log.add("Not answered: ", text);
  waiting = [];
  if (socket === undefined) return;
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
}

function tryAgain() {
  // Not all pages of a service that comes back at the same moment.
  timer = setTimeout(connect, pause * (1 + Math.random() / 2) * 1000, false);
  pause = Math.min(2 * pause, LAST);
}

/** @param {string} text */
function shortened(text) {
  const some = text.slice(0, 30).replace(/\s+/g, " ");
  return `“${some}${text.length > 30 ? " …" : ""}”`;
}

/** @param {Uint8Array} bytes */
function described(bytes) {
  const some = [...bytes.subarray(0, 32)].map((byte) => byte.toString(16).padStart(2, "0"));
  const size = bytes.length === 1 ? "1 byte" : `${bytes.length.toLocaleString("en")} bytes`;
  return `${size}  ${some.join(" ")}${bytes.length > some.length ? " …" : ""}`.trimEnd();
}

/** @param {Event} event */
form.onsubmit = (event) => {
  event.preventDefault();
  if (socket?.readyState !== WebSocket.OPEN) return;
  // As a browser sends it, and as it comes back: half a character becomes U+FFFD.
  const text = input.value.replace(/\p{Cs}/gu, "\ufffd");
  socket.send(text);
  waiting.push({ text, time: performance.now() });
  last = `; ${shortened(text)} is on its way`;
  if (waiting.length > WAITING) waiting.shift();
  sent += 1;
  count();
  input.value = "";
  input.focus();
  log.scrollToEnd();
};

/** @param {KeyboardEvent} event */
input.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!event.repeat) form.requestSubmit();
};

/** @param {MouseEvent} event */
send.onclick = (event) => {
  if (event.detail > 1) event.preventDefault(); // The second half of a double click.
};

reconnect.onclick = () => {
  pause = FIRST;
  connect();
  input.focus();
};

stop.onclick = () => {
  abandon();
  say("Disconnected", "it does not try again by itself");
  offer(reconnect);
};

// In the log, all is all of the log.
/** @param {KeyboardEvent} event */
output.onkeydown = (event) => {
  if (event.key !== "a" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  getSelection()?.selectAllChildren(output);
};

// Waking up.

/** @param {string} why what is open now is of no use any more */
function connectAnew(why) {
  if (stop.hidden && send.hidden) return; // Somebody has wanted the end.
  if (!send.disabled) log.add("Status: ", `Disconnected (${why})`);
  connect(!send.hidden); // It was open, or somebody waits for it.
}

addEventListener("pageshow", ({ persisted }) => persisted && connectAnew("this page was left"));
addEventListener("online", () => connectAnew("the network was away"));
let turned = Date.now();
setInterval(() => {
  const slept = (Date.now() - turned) / 1000;
  turned = Date.now();
  if (slept > SLEPT) connectAnew("this device was asleep");
}, 10_000);

connect();
