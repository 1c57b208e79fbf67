// ws. It offers compression.

import WebSocket from "ws";
import { LIMIT, run } from "./harness.mjs";

const ask = (url) =>
  new Promise((resolve, reject) => {
    const connection = new WebSocket(url);
    connection.on("message", (data) => resolve(data.toString()));
    connection.on("error", reject);
  });

const echo = (url) =>
  new Promise((resolve) => {
    const connection = new WebSocket(url, "echo");
    const timer = setTimeout(() => connection.terminate(), LIMIT);
    let error = "";
    connection.on("message", (data, isBinary) => connection.send(data, { binary: isBinary }));
    connection.on("error", (e) => (error = `${e}; `));
    connection.on("close", (code) => {
      clearTimeout(timer);
      resolve(`${error}closed with ${code}`);
    });
  });

await run(ask, echo);
