// @ts-check
// The same connection in other languages, to copy.
import { copy, element } from "./element.js";
import { keep, recall } from "./session.js";

/**
 * @typedef {object} Sample what the snippets do: connect, send one text message, print the answer
 * @property {string} url `ws:` or `wss:`
 * @property {string[]} subprotocols
 * @property {string} message
 *
 * @typedef {object} Language
 * @property {string} name
 * @property {string} hint what it needs
 * @property {(sample: Sample) => string} write
 */

/** Under which the language is kept. */
const KEPT = "snippets";

/** Characters of a message in a snippet. Of more, it sends the first: nobody copies megabytes. */
const CHARACTERS = 10_000;

/** @type {Language[]} */
const LANGUAGES = [
  { name: "JavaScript", hint: "For a browser, or Node.js from version 22 on.", write: writeJs },
  { name: "Python", hint: "With websockets: pip install websockets", write: writePython },
  { name: "Go", hint: "With gorilla: go get github.com/gorilla/websocket", write: writeGo },
  {
    name: "curl",
    hint: "The handshake alone, without the message; then curl waits until its time is over.",
    write: writeCurl,
  },
  { name: "websocat", hint: "With websocat 1, in a POSIX shell.", write: writeWebsocat },
];

export class Snippets {
  /** @param {HTMLElement} panel empty; becomes the tool */
  constructor(panel) {
    /** @type {Sample | undefined} */
    this._sample = undefined;
    const options = LANGUAGES.map(({ name }) => element("option", {}, name));
    this._choice = element("select", { onchange: () => this._onChoice() }, ...options);
    const kept = recall(KEPT);
    if (LANGUAGES.some(({ name }) => name === kept)) this._choice.value = kept;
    this._code = element("code");
    this._hint = element("p", { className: "hint" });
    panel.append(
      element(
        "div",
        { className: "row" },
        element("label", {}, "Language ", this._choice),
        element(
          "button",
          {
            type: "button",
            onclick: (/** @type {MouseEvent} */ { currentTarget }) =>
              copy(this._code.textContent, /** @type {HTMLButtonElement} */ (currentTarget)),
          },
          "Copy",
        ),
      ),
      element("pre", { className: "snippet" }, this._code),
      this._hint,
    );
  }

  /**
   * Show the snippets for this.
   *
   * @param {Sample} sample
   */
  show(sample) {
    this._sample = sample;
    const { write, hint } = LANGUAGES[this._choice.selectedIndex];
    const message = shortened(sample.message);
    const isWhole = message.length === sample.message.length;
    const first = `It sends the first ${message.length.toLocaleString("en")} characters.`;
    this._code.textContent = write({ ...sample, message });
    this._hint.textContent = isWhole ? hint : `${hint} ${first}`;
  }

  _onChoice() {
    keep(KEPT, this._choice.value);
    if (this._sample) this.show(this._sample);
  }
}

/** @param {string} message */
function shortened(message) {
  if (message.length <= CHARACTERS) return message;
  // Not half of a surrogate pair.
  return message.slice(0, CHARACTERS).replace(/[\ud800-\udbff]$/, "");
}

/** @param {Sample} sample */
function writeJs({ url, subprotocols, message }) {
  const offered = subprotocols.length ? `, [${subprotocols.map(quoteJs).join(", ")}]` : "";
  return `\
const socket = new WebSocket(${quoteJs(url)}${offered});
socket.onopen = () => socket.send(${quoteJs(message)});
socket.onmessage = (event) => {
  console.log(event.data);
  socket.close();
};
socket.onclose = (event) => console.log("closed", event.code, event.reason);
`;
}

/** @param {Sample} sample */
function writePython({ url, subprotocols, message }) {
  const names = subprotocols.map(quotePython).join(", ");
  const offered = subprotocols.length ? `, subprotocols=[${names}]` : "";
  const tls = isTls(url)
    ? '    # For a CA of your own: ssl=ssl.create_default_context(cafile="ca.pem")\n'
    : "";
  return `\
import asyncio

import websockets


async def main():
${tls}    async with websockets.connect(${quotePython(url)}${offered}) as client:
        await client.send(${quotePython(message)})
        print(await client.recv())


asyncio.run(main())
`;
}

/** @param {Sample} sample */
function writeGo({ url, subprotocols, message }) {
  const names = subprotocols.map(quoteGo).join(", ");
  const offered = subprotocols.length ? `Subprotocols: []string{${names}}` : "";
  const tls = isTls(url)
    ? "\t// For a CA of your own: TLSClientConfig: &tls.Config{RootCAs: pool}\n"
    : "";
  return `\
package main

import (
	"fmt"
	"log"

	"github.com/gorilla/websocket"
)

func main() {
${tls}	dialer := websocket.Dialer{${offered}}
	connection, _, err := dialer.Dial(${quoteGo(url)}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	err = connection.WriteMessage(websocket.TextMessage, []byte(${quoteGo(message)}))
	if err != nil {
		log.Fatal(err)
	}
	_, answer, err := connection.ReadMessage()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(answer))
	done := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	connection.WriteMessage(websocket.CloseMessage, done)
}
`;
}

/** @param {Sample} sample */
function writeCurl({ url, subprotocols }) {
  const offered = `Sec-WebSocket-Protocol: ${subprotocols.join(", ")}`;
  return `\
${isTls(url) ? "# For a CA of your own: --cacert ca.pem\n" : ""}\
curl --include --no-buffer --http1.1 --globoff --max-time 5 \\
  --header 'Connection: Upgrade' \\
  --header 'Upgrade: websocket' \\
  --header 'Sec-WebSocket-Version: 13' \\
  --header "Sec-WebSocket-Key: $(head -c 16 /dev/urandom | base64)" \\
${subprotocols.length ? `  --header ${quoteShell(offered)} \\\n` : ""}\
  ${quoteShell(url.replace(/^ws/, "http"))}
`;
}

/** @param {Sample} sample */
function writeWebsocat({ url, subprotocols, message }) {
  const offered = `--protocol=${quoteShell(subprotocols.join(", "))}`;
  return `\
${isTls(url) ? "# For a CA of your own: export SSL_CERT_FILE=ca.pem\n" : ""}\
printf ${quoteFormat(message)} |
  websocat --one-message --no-close --no-line --text \\
${subprotocols.length ? `  ${offered} \\\n` : ""}\
  ${quoteShell(url)}
`;
}

/** @param {string} url */
const isTls = (url) => url.startsWith("wss:");

/** What looks like itself. Not so: what turns the direction of a line, or has no width. */
const PRINTABLE = /^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$/u;

/**
 * The text with each character escaped that is one of `special`, or would not be seen. Half of a
 * surrogate pair is sent as U+FFFD by a browser, and other languages have no such thing.
 *
 * @param {string} text
 * @param {Record<string, string>} special
 * @param {(character: string) => string} escape
 */
function escaped(text, special, escape) {
  return [...text]
    .map((one) => (/^[\ud800-\udfff]$/.test(one) ? "\ufffd" : one))
    .map((one) => special[one] ?? (PRINTABLE.test(one) ? one : escape(one)))
    .join("");
}

const SPECIAL = { "\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** @param {string} character */
const hex = (character) => /** @type {number} */ (character.codePointAt(0)).toString(16);

/**
 * As a string literal of JavaScript.
 *
 * @param {string} text
 */
export const quoteJs = (text) => `"${escaped(text, SPECIAL, (one) => `\\u{${hex(one)}}`)}"`;

/**
 * As a string literal of Python.
 *
 * @param {string} text
 */
export const quotePython = (text) =>
  `"${escaped(text, SPECIAL, (one) => `\\U${hex(one).padStart(8, "0")}`)}"`;

/**
 * As a string literal of Go, which has the escapes of Python.
 *
 * @param {string} text
 */
export const quoteGo = quotePython;

/**
 * As an argument in a POSIX shell, as it is: there are no escapes.
 *
 * @param {string} text without a NUL, which no argument can have
 */
export const quoteShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/**
 * As the format of `printf` in a POSIX shell: what it prints may have a NUL.
 *
 * @param {string} text
 */
export function quoteFormat(text) {
  /** @param {string} one */
  const octal = (one) => {
    const bytes = [...new TextEncoder().encode(one)];
    return bytes.map((byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
  };
  const format = escaped(text, { ...SPECIAL, '"': '"', "%": "%%" }, octal);
  // At its beginning it would be an option.
  return quoteShell(format.replace(/^-/, "\\055"));
}
