// The page's side of the echo: open, send, show what comes.
"use strict";

const form = document.getElementById("form");
const input = document.getElementById("input");
const output = document.getElementById("output");
const send = document.getElementById("send");
const reconnect = document.getElementById("reconnect");

// Relative to the page, so that it works behind TLS and below a proxy's prefix.
const url = new URL("echo", location.href);
url.protocol = url.protocol.replace("http", "ws");
document.getElementById("url").textContent = url.href;

// The log keeps this many lines; a page left open for a week must not fill its tab.
const LINES = 1000;

let socket;

function show(line) {
  // As text: a message is never markup.
  const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  output.append(line + "\n");
  while (output.childNodes.length > LINES) output.firstChild.remove();
  if (atEnd) output.scrollTop = output.scrollHeight;
}

// Whether the focus is on `button`, or nowhere. Who is anywhere else must stay there.
const isFree = (button) => [button, document.body].includes(document.activeElement);

function connect() {
  send.hidden = false;
  reconnect.hidden = true;
  socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    show("Status: Connected");
    send.disabled = false;
    if (isFree(reconnect)) input.focus();
  };
  socket.onmessage = ({ data }) => {
    show(typeof data === "string" ? "Server: " + data : "Server: " + data.byteLength + " bytes");
  };
  socket.onclose = ({ code, reason }) => {
    show("Status: Disconnected (" + code + (reason && ": " + reason) + ")");
    const takeFocus = isFree(send);
    send.disabled = send.hidden = true;
    reconnect.hidden = false;
    if (takeFocus) reconnect.focus();
  };
}

form.onsubmit = (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(input.value);
  input.value = "";
  input.focus();
  output.scrollTop = output.scrollHeight;
};
reconnect.onclick = connect;

send.disabled = true;
connect();
