// The WebSocket that Node, Bun or Deno has by itself.

import "./whatwg.js";
import { LIMIT, run } from "./harness.mjs";

const { ask, echo, WebSocket } = globalThis;
await run((url) => ask(WebSocket, url), (url) => echo(WebSocket, url, LIMIT));
