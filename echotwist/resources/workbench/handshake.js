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
    else if (value !== null) lines[i].note ||= noteOf(value, sent.get(key));
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
 * @typedef {object} Sent what this browser has sent as the value of a header
 * @property {string} value
 * @property {(arrived: string) => boolean} isSame whether this may be what it has sent
 */

/**
 * @param {string} arrived
 * @param {Sent | undefined} sent undefined if that is not known
 */
function noteOf(arrived, sent) {
  if (sent === undefined || sent.isSame(arrived)) return "";
  return `rewritten on the way: this browser has sent ${sent.value}`;
}

/**
 * What became of a request on its way, as far as a page knows what its browser has sent; in the
 * shape of `Changes` of echotwist/paths/measured.py. Of the order nothing is known.
 *
 * @param {string} first its first line
 * @param {Header[]} headers
 * @param {{url: string, subprotocols: string[]}} connection
 */
export function changesThere(first, headers, connection) {
  const sent = sentBy(connection);
  const names = new Set(headers.map(({ name }) => name.toLowerCase()));
  const wanted = connection.subprotocols.length > 0 ? ["Sec-WebSocket-Protocol"] : [];
  const line = lineOf(connection);
  return {
    line: first === line ? null : { name: "", sent: line, arrived: first },
    added: headers
      .filter(({ name }) => !OF_BROWSERS.test(name))
      .map(({ name, value }) => [name, value ?? "(not shown)"]),
    removed: [...ALWAYS, ...wanted]
      .filter((name) => !names.has(name.toLowerCase()))
      .map((name) => [name, sent.get(name.toLowerCase())?.value ?? "(a value)"]),
    rewritten: headers.flatMap(({ name, value }) => {
      const mine = sent.get(name.toLowerCase());
      return value === null || mine === undefined || mine.isSame(value)
        ? []
        : [{ name, sent: mine.value, arrived: value }];
    }),
    isReordered: false,
  };
}

/** @param {{url: string}} connection */
function lineOf({ url }) {
  const { pathname, search } = new URL(url);
  return `GET ${pathname + search} HTTP/1.1`;
}

/**
 * What this browser has sent, by the name of the header in lower case.
 *
 * @param {{url: string, subprotocols: string[]}} connection
 * @returns {Map<string, Sent>}
 */
function sentBy({ url, subprotocols }) {
  /** @param {string} value */
  const exactly = (value) => ({
    value,
    isSame: (/** @type {string} */ arrived) => arrived === value,
  });
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
      { value: "Upgrade", isSame: (arrived) => /^(keep-alive, )?Upgrade$/.test(arrived) },
    ],
    [
      "sec-websocket-extensions",
      { value: "permessage-deflate", isSame: (arrived) => /^permessage-deflate\b/.test(arrived) },
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
