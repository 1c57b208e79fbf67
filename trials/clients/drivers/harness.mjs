// What the drivers in JavaScript share; see harness.py.

import process from "node:process";

/** Milliseconds that a case may take. */
export const LIMIT = 75_000;

const SHOWN = 120;

/** Runs the cases. `ask` and `echo` take a URL, and return a promise of text. */
export async function run(ask, echo) {
  const [url, agent, atOnce, ...asked] = process.argv.slice(2);
  const count = Number(await ask(`${url}/getCaseCount`));
  const cases = asked.length ? asked : Array.from({ length: count }, (_, i) => i + 1);
  const work = async () => {
    while (cases.length) {
      const number = cases.shift();
      let saw;
      try {
        saw = await echo(`${url}/runCase?case=${number}&agent=${agent}`);
      } catch (error) {
        saw = `${error}`;
      }
      // Errors quote what the server has sent.
      console.log(`${number}\t${saw.replace(/[^ -~]+/g, " ").slice(0, SHOWN)}`);
    }
  };
  await Promise.all(Array.from({ length: Number(atOnce) }, work));
  await echo(`${url}/updateReports?agent=${agent}`);
  process.exit(0);
}
