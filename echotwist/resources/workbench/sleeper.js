// @ts-check
// Waits for times. A browser slows the timers of a page that is hidden to one a second, and after
// some minutes to one a minute; those of a worker go on.

/** @typedef {() => void} Cancel */

export class Sleeper {
  /** @param {AbortSignal} signal after which nothing waits any more, and nothing can */
  constructor(signal) {
    this._signal = signal;
    /** @type {Map<number, () => void>} */
    this._due = new Map();
    this._newest = 0;
    const url = new URL("./sleeperworker.js", import.meta.url);
    this._worker = new Worker(url, { type: "module" });
    this._worker.onmessage = ({ data }) => {
      const what = this._due.get(data);
      this._due.delete(data);
      what?.();
    };
    signal.addEventListener("abort", () => this._worker.terminate());
  }

  /**
   * @param {number} seconds
   * @param {() => void} what is done then, unless it is cancelled
   * @returns {Cancel}
   */
  after(seconds, what) {
    const number = (this._newest += 1);
    this._due.set(number, what);
    this._worker.postMessage([number, Math.max(seconds, 0) * 1000]);
    return () => this._due.delete(number) && this._worker.postMessage([number]);
  }

  /**
   * @param {number} seconds
   * @returns {Promise<void>} rejected once the signal is aborted
   */
  sleep(seconds) {
    return new Promise((resolve, reject) => {
      if (this._signal.aborted) {
        reject(this._signal.reason);
        return;
      }
      const onAbort = () => reject(this._signal.reason);
      this._signal.addEventListener("abort", onAbort);
      this.after(seconds, () => {
        this._signal.removeEventListener("abort", onAbort);
        resolve();
      });
    });
  }
}
