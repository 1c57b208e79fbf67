// @ts-check
// A field whose text has the direction of what is written in it, as long as that is no burden.

// Characters. Chromium takes ten times as long to lay out a text of which it looks for the direction:
// 0.9 s for 700,000 characters.
const LONG = 20_000;

/** @param {HTMLTextAreaElement} field has dir="auto" */
export function boundDirection(field) {
  field.addEventListener("beforeinput", ({ data }) => {
    if (field.value.length + (data?.length ?? 0) > LONG) field.dir = "ltr";
  });
  field.addEventListener("input", () => {
    field.dir = field.value.length > LONG ? "ltr" : "auto";
  });
}
