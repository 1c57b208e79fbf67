// @ts-check
// The report of a probe: in words, and as Markdown, to be pasted into an issue.

/** @typedef {import("./pathprobe.js").Report} Report */

/** What a finding has, by the words for it. */
const PARTS = /** @type {const} */ ([
  ["Seen", "evidence"],
  ["Consistent with", "consistentWith"],
  ["Cure", "cures"],
]);

/**
 * @param {import("./pathprobe.js").Finding} finding
 * @returns {[string, string[]][]} with a label each, those that it has
 */
export const partsOf = (finding) =>
  PARTS.flatMap(([label, name]) => (finding[name].length > 0 ? [[label, finding[name]]] : []));

/**
 * What came of it, in a sentence.
 *
 * @param {Report} report
 */
export function summaryOf({ findings, incomplete, whyNoVerdict }) {
  if (whyNoVerdict) return `${whyNoVerdict}; what was measured can be copied.`;
  const count = findings.filter(({ level }) => level !== "note").length;
  if (count > 0) return `${count} finding${count > 1 ? "s" : ""}.`;
  if (Object.keys(incomplete).length > 0) return "Nothing was found, and not all could be run.";
  return "Nothing was found that breaks a WebSocket on this path, as far as a page sees.";
}

/**
 * When, how long, and by whom.
 *
 * @param {Report} report
 */
export function circumstancesOf({ began, duration, hidden, userAgent }) {
  const away = hidden >= 0.5 ? `, the page hidden for ${hidden.toFixed(0)} s of it` : "";
  return `${began.slice(0, 19)}Z, ${duration.toFixed(0)} s${away}, by ${userAgent}`;
}

/** @param {Report} report */
export function asMarkdown(report) {
  const lines = [`# ${escaped(report.url)}`, "", `${escaped(circumstancesOf(report))}.`, ""];
  for (const finding of report.findings) {
    lines.push(`## ${finding.level}: ${escaped(finding.title)}`, "");
    for (const [label, values] of partsOf(finding)) {
      lines.push(`${label}:`, "", ...values.map((value) => `- ${escaped(value)}`), "");
    }
  }
  lines.push(escaped(summaryOf(report)), "", "| area | what | result |", "|---|---|---|");
  for (const line of report.lines) lines.push(`| ${line.map(cellOf).join(" | ")} |`);
  return `${lines.join("\n")}\n`;
}

/** @param {string} text which others may have written */
const escaped = (text) =>
  text.replace(/([\\`*_[\]<>#])/g, "\\$1").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd");

/** @param {string} text */
const cellOf = (text) => escaped(text).replaceAll("|", "\\|");
