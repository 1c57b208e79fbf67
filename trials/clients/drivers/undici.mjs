// undici from npm, which is newer than that in Node.

import { WebSocket } from "undici";
import "./whatwg.js";
import { LIMIT, run } from "./harness.mjs";

const { ask, echo } = globalThis;
await run((url) => ask(WebSocket, url), (url) => echo(WebSocket, url, LIMIT));
