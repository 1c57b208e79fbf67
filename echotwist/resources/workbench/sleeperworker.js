// @ts-check
// The timers of `sleeper.js`: a number and milliseconds come, and the number goes back then; a
// number alone cancels it.

/** @type {Map<number, ReturnType<typeof setTimeout>>} */
const timers = new Map();

addEventListener("message", ({ data: [number, milliseconds] }) => {
  clearTimeout(timers.get(number));
  timers.delete(number);
  if (milliseconds === undefined) return;
  const fire = () => {
    timers.delete(number);
    postMessage(number);
  };
  timers.set(number, setTimeout(fire, milliseconds));
});

export {};
