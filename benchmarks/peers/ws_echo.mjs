// ws on Node, with bufferutil, the addon in C that its manual recommends for unmasking.
//
// perMessageDeflate is off, as it is by default; where it is asked for, `threshold: 0` compresses
// each message, as the other servers do (its default leaves those under 1024 bytes alone).

import { readFileSync } from "node:fs";
import { createServer as createPlainServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { deflate: { type: "boolean" }, cert: { type: "string" }, key: { type: "string" } },
});
const server = values.cert
  ? createTlsServer({ cert: readFileSync(values.cert), key: readFileSync(values.key) })
  : createPlainServer();
const echo = new WebSocketServer({
  server,
  maxPayload: 16 * 1024 * 1024,
  perMessageDeflate: values.deflate ? { threshold: 0 } : false,
});
echo.on("connection", (connection) => {
  connection.on("error", () => {});
  connection.on("message", (message, isBinary) => connection.send(message, { binary: isBinary }));
});
server.listen({ port: Number(positionals[0]), host: "127.0.0.1", backlog: 1024 }, () =>
  console.log("ready"),
);
