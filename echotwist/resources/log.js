// @ts-check
// The log: a line for each thing that was said, and as many as a tab can bear.

// A page left open for a week must not fill its tab.
const LINES = 1000;
const CHARACTERS = 1 << 20;

// Of one line. A browser takes half a minute to lay out sixteen million characters.
const SHOWN = 100_000;

// Lines of one frame, of which a person reads none.
const FLOOD = 100;

/**
 * What is said by whom: `Server: ` and a text. They are columns, so that no text, whatever lines
 * it has, looks like a line of its own.
 *
 * @typedef {{label: string, text: string}} Entry
 */

/** @param {Entry} entry */
const sizeOf = ({ text }) => Math.min(text.length, SHOWN);

/**
 * The last of many things, for which there is room.
 *
 * @template T
 */
class Last {
  constructor() {
    /** @type {{thing: T, size: number}[]} */
    this.all = [];
    this.size = 0;
  }

  /**
   * @param {T} thing
   * @param {number} size in characters
   * @returns {T[]} those for which there is no room any more
   */
  add(thing, size) {
    this.all.push({ thing, size });
    this.size += size;
    const gone = [];
    while (this.all.length > LINES || (this.size > CHARACTERS && this.all.length > 1)) {
      const [first] = this.all.splice(0, 1);
      this.size -= first.size;
      gone.push(first.thing);
    }
    return gone;
  }
}

export class Log {
  /**
   * @param {HTMLElement} output
   * @param {() => void} onShow called with each frame that has new lines
   */
  constructor(output, onShow) {
    this.output = output;
    this.onShow = onShow;
    /** @type {Last<HTMLElement>} */
    this.shown = new Last();
    /** @type {Last<Entry> | undefined} What is shown with the next frame. */
    this.coming = undefined;
    /** Whether so many lines came with the last frame that others should wait: keys come first. */
    this.isFlood = false;
    // A tab that is hidden draws no frames, not even those that it has promised.
    document.addEventListener("visibilitychange", () => this.show());
  }

  /**
   * Add a line. It is shown with the next frame, as a browser lays out the log anew for each: a
   * thousand messages may come between two.
   *
   * @param {string} label
   * @param {string} text
   */
  add(label, text) {
    if (this.coming === undefined) {
      this.coming = new Last();
      if (document.hidden || this.isFlood) setTimeout(() => this.show(), 100);
      else requestAnimationFrame(() => this.show());
    }
    const entry = { label, text };
    this.coming.add(entry, sizeOf(entry));
  }

  show() {
    if (this.coming === undefined) return;
    const lines = new DocumentFragment();
    this.isFlood = this.coming.all.length > FLOOD;
    for (const { thing, size } of this.coming.all) {
      const line = lineOf(thing);
      lines.append(line);
      for (const gone of this.shown.add(line, size)) gone.remove();
    }
    this.coming = undefined;
    const { output } = this;
    const isAtEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
    output.append(lines);
    if (isAtEnd) {
      this.scrollToEnd();
      // How high a line is, is known once it has been seen.
      requestAnimationFrame(() => this.scrollToEnd());
    }
    this.onShow();
  }

  scrollToEnd() {
    this.output.scrollTop = this.output.scrollHeight;
  }
}

/** @param {Entry} entry */
function lineOf({ label, text }) {
  const line = document.createElement("div");
  const said = document.createElement("span");
  // As text: a message is never markup.
  line.append(Object.assign(document.createElement("b"), { textContent: label }), said);
  if (text.length <= SHOWN) {
    said.textContent = text + "\n";
  } else {
    said.append(text.slice(0, SHOWN), " … ", saveButton(text), "\n");
  }
  return line;
}

/** @param {string} text */
function saveButton(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Save all ${text.length.toLocaleString("en")} characters`;
  button.onclick = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
    link.download = "message.txt";
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return button;
}
