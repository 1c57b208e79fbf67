// @ts-check
// Elements of the page, made and found in a line.

/**
 * The element with this ID, which must be there.
 *
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`no element #${id}`);
  return found;
}

/**
 * A new element. Texts become text nodes: nothing that came over the wire is ever markup.
 *
 * @param {string} tag
 * @param {Record<string, any>} [properties] those of the object, `className` and `onclick`; what
 *   has a dash in its name, and `role`, is an attribute
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else Object.assign(made, { [name]: value });
  }
  made.append(...children);
  return made;
}

/**
 * Have the browser save this as a file.
 *
 * @param {string} name
 * @param {BlobPart[]} parts
 * @param {string} type
 */
export function save(name, parts, type) {
  const href = URL.createObjectURL(new Blob(parts, { type }));
  element("a", { href, download: name }).click();
  URL.revokeObjectURL(href);
}

/**
 * Copy a text to the clipboard, and say so on the button for a moment. Without a secure context
 * there is no clipboard to ask, and the browser's old command does it.
 *
 * @param {string} text
 * @param {HTMLButtonElement} button whose deed it is
 */
export async function copy(text, button) {
  const isCopied =
    (await navigator.clipboard?.writeText(text).then(
      () => true,
      () => false,
    )) || copyOld(text);
  const label = (button.dataset.label ??= button.textContent ?? "");
  button.textContent = isCopied ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = label), 4000);
}

/**
 * @param {string} text
 * @returns {boolean} whether it was
 */
function copyOld(text) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  const field = element("textarea", { value: text, className: "offscreen" });
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return isCopied;
}
