// What every program with the WebSocket of browsers (WHATWG) does: the page in Chromium, and Node.

/** Resolves to the one message that this URL sends. */
globalThis.ask = (WebSocket, url) =>
  new Promise((resolve, reject) => {
    const connection = new WebSocket(url);
    let text;
    connection.onmessage = (event) => (text = event.data);
    connection.onclose = (event) =>
      text === undefined ? reject(new Error(`${url}: ${event.code}`)) : resolve(text);
  });

/** Echoes for at most `limit` ms, and resolves to what it saw of the end. */
globalThis.echo = (WebSocket, url, limit) =>
  new Promise((resolve) => {
    const connection = new WebSocket(url, "echo");
    connection.binaryType = "arraybuffer";
    let error = "";
    const giveUp = (what) => setTimeout(() => resolve(`${error}${what}`), 1000);
    // There is no way to drop a connection.
    const timer = setTimeout(() => {
      connection.close();
      giveUp("nothing, until the limit of the driver");
    }, limit);
    connection.onmessage = (event) => connection.send(event.data);
    connection.onerror = (event) => {
      error = event.message ? `error: ${event.message}; ` : "error; ";
      // Each is followed by a close event, as WHATWG has it, but not everywhere.
      giveUp("no close event");
    };
    connection.onclose = (event) => {
      clearTimeout(timer);
      const how = event.wasClean ? "cleanly" : "not cleanly";
      resolve(`${error}closed with ${event.code}, ${how}`);
    };
  });
