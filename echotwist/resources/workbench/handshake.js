// @ts-check
// What has happened to a handshake on its way: the request as it arrived, beside the one that this
// browser has sent. A page cannot see its own request, but knows what a browser always sends.

/** @typedef {import("./trace.js").Header} Header */

/** Headers that only proxies add. */
const OF_PROXIES = new RegExp(
  "^(via|forwarded|x-forwarded-.+|x-real-ip|true-client-ip|client-ip|x-client-ip" +
    "|x-cluster-client-ip|cf-.+|cdn-loop|x-amzn-.+|x-amz-cf-id|x-cloud-trace-context|x-azure-.+" +
    "|x-varnish|x-envoy-.+|x-original-.+|fastly-.+|fly-.+)$",
  "i",
);

/** Headers that browsers send with a WebSocket's handshake, some of them only at times. */
const OF_BROWSERS = new RegExp(
  "^(host|connection|upgrade|pragma|cache-control|user-agent|origin|accept|accept-encoding" +
    "|accept-language|cookie|authorization|dnt|priority" +
    "|sec-websocket-(version|key|extensions|protocol)|sec-(fetch|ch|gpc|purpose).*)$",
  "i",
);

/** Those that every browser sends with each. */
const ALWAYS = [
  ...["Host", "Connection", "Upgrade", "Origin", "User-Agent", "Accept-Encoding"],
  ...["Sec-WebSocket-Version", "Sec-WebSocket-Key", "Sec-WebSocket-Extensions"],
];

const ADDED = "added on the way";

/**
 * @typedef {object} Line of the request
 * @property {string} name
 * @property {string} value
 * @property {string} note what is to be said of it; empty if nothing
 */

/**
 * The request, line by line, with notes.
 *
 * @param {string} first its first line
 * @param {Header[]} headers
 * @param {import("./connection.js").Connection | undefined} connection whose request it is;
 *   undefined for another client's, of which no one knows what it has sent
 * @returns {Line[]}
 */
export function readRequest(first, headers, connection) {
  const lines = headers.map((header) => ({
    name: header.name,
    value: header.value ?? `(not shown: ${(header.redacted ?? 0).toLocaleString("en")} bytes)`,
    note: OF_PROXIES.test(header.name) ? `${ADDED}: only proxies send it` : "",
  }));
  if (connection === undefined) return [{ name: "", value: first, note: "" }, ...lines];
  const sent = sentBy(connection);
  /** @type {Set<string>} */
  const names = new Set();
  for (const [i, { name, value }] of headers.entries()) {
    const key = name.toLowerCase();
    if (names.has(key)) lines[i].note ||= "there twice: browsers send it once";
    else if (value !== null) lines[i].note ||= sent.get(key)?.(value) ?? "";
    if (!OF_BROWSERS.test(name)) {
      lines[i].note ||= `this browser does not send it: ${ADDED}, or by an extension`;
    }
    names.add(key);
  }
  const wanted = connection.subprotocols.length > 0 ? ["Sec-WebSocket-Protocol"] : [];
  const missing = [...ALWAYS, ...wanted].filter((name) => !names.has(name.toLowerCase()));
  return [
    { name: "", value: first, note: noteOfFirst(first, connection) },
    ...lines,
    ...missing.map((name) => ({
      name,
      value: "(missing)",
      note: "taken on the way: this browser sends it",
    })),
  ];
}

/**
 * For a header by its name in lower case, what is to be said of its value, if this browser has sent
 * another.
 *
 * @param {import("./connection.js").Connection} connection
 * @returns {Map<string, (value: string) => string>}
 */
function sentBy({ url, subprotocols }) {
  /** @param {string} mine */
  const exactly = (mine) => (/** @type {string} */ value) =>
    value === mine ? "" : `rewritten on the way: this browser has sent ${mine}`;
  return new Map([
    ["host", exactly(new URL(url).host)],
    ["origin", exactly(location.origin)],
    ["user-agent", exactly(navigator.userAgent)],
    ["upgrade", exactly("websocket")],
    ["sec-websocket-version", exactly("13")],
    ["sec-websocket-protocol", exactly(subprotocols.join(", "))],
    // Firefox sends both.
    [
      "connection",
      (value) =>
        /^(keep-alive, )?Upgrade$/.test(value)
          ? ""
          : "rewritten on the way: this browser has sent Upgrade",
    ],
    [
      "sec-websocket-extensions",
      (value) =>
        /^permessage-deflate\b/.test(value)
          ? ""
          : "rewritten on the way: this browser has offered permessage-deflate",
    ],
  ]);
}

/**
 * @param {string} first
 * @param {import("./connection.js").Connection} connection
 */
function noteOfFirst(first, connection) {
  const { pathname, search } = new URL(connection.url);
  const [, target, version] = first.split(" ");
  const notes = [];
  if (target !== pathname + search) {
    notes.push(
      `the target was rewritten on the way: this browser has asked for ${pathname + search}`,
    );
  }
  if (version !== "HTTP/1.1") notes.push("browsers send HTTP/1.1");
  return notes.join("; ");
}

/**
 * What was agreed to, in words.
 *
 * @param {string} extensions Sec-WebSocket-Extensions of the response
 * @returns {string[]}
 */
export function explainExtensions(extensions) {
  return extensions.split(",").flatMap((extension) => {
    const [name, ...parameters] = extension.split(";").map((part) => part.trim());
    if (name !== "permessage-deflate") return [];
    return ["messages may be compressed", ...parameters.map(explainParameter)].filter(Boolean);
  });
}

/** @param {string} parameter of permessage-deflate (RFC 7692, 7.1) */
function explainParameter(parameter) {
  const [name, value = ""] = parameter.split("=");
  const [, who, what] = /^(server|client)_(no_context_takeover|max_window_bits)$/.exec(name) ?? [];
  if (what === "no_context_takeover") return `the ${who} compresses each message by itself`;
  if (what !== "max_window_bits") return "";
  const bits = Number(value.replaceAll('"', ""));
  if (!(bits >= 8 && bits <= 15)) return "";
  return `the ${who} looks back ${bits < 10 ? `${2 ** bits} bytes` : `${2 ** (bits - 10)} KiB`}`;
}

/**
 * What was changed on the way back, as far as this browser tells of the response that it has had.
 *
 * @param {import("./trace.js").Facts} facts
 * @param {import("./connection.js").Connection} connection
 * @returns {string[]}
 */
export function changesBack({ extensions, subprotocol }, { opened, socket }) {
  if (opened === undefined) return [];
  // By their names alone: Firefox leaves out the parameters.
  const namesOf = (/** @type {string | null} */ text) =>
    (text ?? "").split(",").map((one) => one.split(";", 1)[0].trim());
  /** @type {[string, string | null, string][]} */
  const pairs = [
    ["Sec-WebSocket-Extensions", extensions, socket.extensions],
    ["Sec-WebSocket-Protocol", subprotocol, socket.protocol],
  ];
  return pairs
    .filter(([, sent, had]) => String(namesOf(sent)) !== String(namesOf(had)))
    .map(
      ([name, sent, had]) =>
        `The response was changed on the way: ${name} was ${sent || "not there"}, and this browser ` +
        `has had ${had || "none"}`,
    );
}
