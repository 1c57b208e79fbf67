// Bun: uWebSockets, in Bun's own build, called from JavaScript.
//
// Not tuned to lose: messages are handed out as Uint8Array, which is its cheapest kind, `ws.send`
// is told whether to compress, its pings are off (they come by the clock, also on a busy
// connection), and the limits are far above what the load has in flight. The compressor and the
// decompressor are shared between connections, which keep no window.

const options = process.argv.slice(2);
const value = (name) => (options.includes(name) ? options[options.indexOf(name) + 1] : undefined);
const deflate = options.includes("--deflate");
const cert = value("--cert");

Bun.serve({
  port: Number(options.at(-1)),
  hostname: "127.0.0.1",
  tls: cert ? { cert: Bun.file(cert), key: Bun.file(value("--key")) } : undefined,
  fetch(request, server) {
    if (!server.upgrade(request)) return new Response("a WebSocket is needed\n", { status: 426 });
  },
  websocket: {
    message(connection, message) {
      connection.send(message, deflate);
    },
    binaryType: "uint8array",
    sendPings: false,
    idleTimeout: 120,
    maxPayloadLength: 16 * 1024 * 1024,
    backpressureLimit: 64 * 1024 * 1024,
    perMessageDeflate: deflate ? { compress: "shared", decompress: "shared" } : false,
  },
});
console.log("ready");
