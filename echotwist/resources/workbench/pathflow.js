// @ts-check
// How fast, and how evenly: what a buffer between does to messages, and what it all takes. As
// echotwist/probe/flow.py has it, but for pings and TCP, which a page does not see.
import { beside, Ended, Late, seconds } from "./dialer.js";
import { eventsOf, isMessage } from "./farend.js";

/** Seconds between two messages of a trickle. */
const INTERVAL = 0.2;

/** Messages of a trickle: five seconds. */
const TRICKLE = 25;

const ROUNDS = 20;

/** Messages at once. */
const BURST = 500;

/** Bytes for a rate. */
const BULK = 4 << 20;

/** Seconds for them. */
const SLOWEST = 60;

/** Round trips beside the bulk that are kept, and seconds between two. */
const MOST = 100;
const PAUSE = 0.02;

/**
 * @typedef {import("./dialer.js").Dialer} Dialer
 * @typedef {import("./dialer.js").Dialog} Dialog
 * @typedef {import("./farend.js").FarEnd} FarEnd
 */

/**
 * Fill in `facts`; `say` is told what is tried.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 * @param {Record<string, any>} facts
 * @param {(what: string) => void} say
 */
export async function measureFlow(near, far, facts, say) {
  say("a trickle of messages");
  await trickle(near, far, facts);
  const dialog = await near.open(far.script("extension=none")[0]);
  say("round trips");
  facts.messageRoundTrips = [];
  for (let i = 0; i < ROUNDS; i += 1) facts.messageRoundTrips.push(await roundTrip(dialog));
  say(`${BURST} messages at once`);
  facts.burst = await burst(dialog);
  say("rates");
  await rates(near, far, dialog, facts);
  await dialog.close();
}

/** @param {number[]} times */
const gaps = (times) => times.slice(1).map((time, i) => time - times[i]);

/**
 * Both ways at once.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 * @param {Record<string, any>} facts
 */
async function trickle(near, far, facts) {
  const push = `push=${INTERVAL * 1000}ms`;
  const [url, traceId] = far.script("extension=none", push, "ignore=1000000");
  const dialog = await near.open(url);
  /** @type {number[]} */
  const sent = [];
  /** @type {number[]} */
  const received = [];
  for (let number = 0; number < TRICKLE; number += 1) {
    sent.push(seconds());
    dialog.send(`trickle ${number}`);
    const due = dialog.opened + INTERVAL * (number + 1);
    try {
      for (;;) received.push((await dialog.message(due)).time);
    } catch (error) {
      if (!(error instanceof Late)) throw error;
    }
  }
  await dialog.close();
  const trace = await far.trace(traceId);
  const [left, came] = ["frameSent", "frameReceived"].map((type) =>
    eventsOf(trace, type)
      .filter(isMessage)
      .map(({ time }) => time / 1e6),
  );
  facts.toClient = { interval: INTERVAL, sent: gaps(left), received: gaps(received) };
  facts.toServer = { interval: INTERVAL, sent: gaps(sent), received: gaps(came) };
}

/**
 * @param {Dialog} dialog
 * @returns {Promise<number>} seconds
 */
async function roundTrip(dialog) {
  const began = seconds();
  dialog.send("a round trip of 32 bytes, there.");
  return (await dialog.message()).time - began;
}

/** @param {Dialog} dialog */
async function burst(dialog) {
  const began = seconds();
  for (let i = 0; i < BURST; i += 1) dialog.send(`burst ${i}`);
  let inOrder = true;
  let arrived = began;
  for (let i = 0; i < BURST; i += 1) {
    const { time, data } = await dialog.message(began + SLOWEST);
    inOrder &&= data === `burst ${i}`;
    arrived = time;
  }
  return { count: BURST, seconds: arrived - began, inOrder };
}

/**
 * Bytes a second each way; and what a message on another connection takes meanwhile.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 * @param {Dialog} other
 * @param {Record<string, any>} facts
 */
async function rates(near, far, other, facts) {
  /** @type {number[]} */
  const loaded = (facts.loadedRoundTrips = []);
  let isOver = false;
  const disturb = async () => {
    try {
      while (!isOver && loaded.length < MOST) {
        loaded.push(await roundTrip(other));
        await near.sleeper.sleep(PAUSE);
      }
    } catch (error) {
      if (!(error instanceof Late || error instanceof Ended)) throw error;
    }
  };
  const disturbing = beside(disturb());
  try {
    facts.down = await down(near, far);
    facts.up = await up(near, far);
  } finally {
    isOver = true;
    await disturbing;
  }
}

/**
 * From the request on: what comes right behind the 101 may be there with it.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 */
async function down(near, far) {
  const [url] = far.script("extension=none", `fill=${BULK}`, "as=binary");
  const began = seconds();
  const dialog = await near.open(url);
  const { time, data } = await dialog.message(began + SLOWEST);
  await dialog.close();
  return data.length / Math.max(time - began, 1e-6);
}

/**
 * To the server, and a word back.
 *
 * @param {Dialer} near
 * @param {FarEnd} far
 */
async function up(near, far) {
  const dialog = await near.open(far.script("extension=none", "ignore=1", "send=all")[0]);
  const began = seconds();
  dialog.send(new Uint8Array(BULK));
  const { time } = await dialog.message(began + SLOWEST);
  await dialog.close();
  return BULK / Math.max(time - began, 1e-6);
}
