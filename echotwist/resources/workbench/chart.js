// @ts-check
// Charts in SVG: a line, and a histogram with marks. A unit of theirs is a pixel of the page, so
// that their text has one size however wide they are.

const SVG = "http://www.w3.org/2000/svg";

const HEIGHT = 160;
const TOP = 10;
const BOTTOM = 20;

/** Of a line of text, which is of 12 pixels (workbench.css). */
const LINE = 15;

/** At most, of a character of text. */
const CHARACTER = 7;

/** Of an axis: twice one of them is the end of it. */
const STEPS = [1, 1.5, 2, 3, 4, 5, 6, 8, 10];

/** Points that are also drawn as such: with more they are a line themselves. */
const POINTS = 60;

/**
 * @typedef {object} Bin
 * @property {number} from
 * @property {number} to not in it any more
 * @property {number} count
 *
 * @typedef {object} Mark
 * @property {number} value in one of the bins
 * @property {string} label
 */

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 */
function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** An empty chart. */
export const makeChart = () => svg("svg", { class: "chart", role: "img" });

/**
 * @param {Element} chart
 * @param {string} label all that it shows, as a sentence
 * @param {Element[]} children
 */
function put(chart, label, children) {
  chart.setAttribute("viewBox", `0 0 ${widthOf(chart)} ${HEIGHT}`);
  chart.setAttribute("aria-label", label);
  chart.replaceChildren(...children);
}

/** @param {Element} chart */
const widthOf = (chart) => Math.max(120, Math.round(chart.getBoundingClientRect().width));

/** @param {number} value */
const format = (value) => value.toLocaleString("en", { maximumFractionDigits: 6 });

/**
 * The half of an axis that this fits on, so that its three ticks are round.
 *
 * @param {number} most
 */
function halfOf(most) {
  // Whatever it is: the browser's clock has steps, and all that is measured may be 0.
  if (most <= 0) return 1;
  const exponent = Math.floor(Math.log10(most / 2));
  // From its digits: 3 * 0.1 is no 0.3.
  const steps = STEPS.map((step) => Number(`${step}e${exponent}`));
  return steps.find((step) => 2 * step >= most) ?? steps[steps.length - 1];
}

/**
 * The vertical axis.
 *
 * @param {number} half of it
 * @param {number} width of the chart
 * @param {number} top of the axis
 */
function axis(half, width, top) {
  const labels = [0, half, 2 * half].map(format);
  const left = Math.max(...labels.map((label) => label.length)) * CHARACTER + 6;
  const bottom = HEIGHT - BOTTOM;
  /** @param {number} value */
  const y = (value) => bottom - ((bottom - top) * value) / (2 * half);
  const drawn = labels.flatMap((label, i) => {
    const at = y(i * half);
    return [
      svg("line", { class: "rule", x1: left, x2: width, y1: at, y2: at }),
      svg("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, label),
    ];
  });
  return { left, bottom, y, drawn };
}

/**
 * Draw values in their order, from left to right.
 *
 * @param {Element} chart
 * @param {string} label
 * @param {number[]} values one at least
 */
export function drawLine(chart, label, values) {
  const width = widthOf(chart);
  const { left, bottom, y, drawn } = axis(halfOf(Math.max(...values)), width, TOP);
  const step = (width - left - 6) / Math.max(1, values.length - 1);
  const points = values.map((value, i) => {
    const x = width - 3 - (values.length - 1 - i) * step;
    return [x, y(value)].map((number) => number.toFixed(1));
  });
  const dots = points.length > POINTS ? [] : points;
  put(chart, label, [
    ...drawn,
    svg("polyline", { class: "curve", points: points.map((point) => point.join()).join(" ") }),
    ...dots.map(([cx, cy]) => svg("circle", { class: "dot", cx, cy, r: 2.5 })),
    ...(values.length > 1
      ? [svg("text", { x: left, y: bottom + LINE }, `${format(values.length - 1)} before`)]
      : []),
    svg("text", { x: width - 1, y: bottom + LINE, "text-anchor": "end" }, "the last"),
  ]);
}

/**
 * Draw bars of the same width, side by side, and lines for the marks.
 *
 * @param {Element} chart
 * @param {string} label
 * @param {Bin[]} bins one at least, each beginning where the one before it ends
 * @param {Mark[]} marks
 */
export function drawHistogram(chart, label, bins, marks) {
  const width = widthOf(chart);
  const top = TOP + marks.length * LINE;
  const half = Math.ceil(halfOf(Math.max(...bins.map(({ count }) => count))));
  const { left, bottom, y, drawn } = axis(half, width, top);
  const size = (width - left - 18) / bins.length;
  /** @param {number} value */
  const x = (value) => {
    const i = bins.findIndex(({ to }) => value < to);
    const { from, to } = bins[i];
    const part = from > 0 ? Math.log(value / from) / Math.log(to / from) : value / to;
    return left + (i + part) * size;
  };
  const edges = [...bins.map(({ from }) => from), bins[bins.length - 1].to].map(format);
  const most = Math.max(...edges.map((edge) => edge.length));
  const every = Math.ceil((most * CHARACTER + 8) / size);
  put(chart, label, [
    ...drawn,
    ...bins.map(({ count }, i) => {
      const place = { x: left + i * size + 0.5, y: y(count), width: size - 1 };
      return svg("rect", { class: "bar", ...place, height: bottom - y(count) });
    }),
    ...edges.flatMap((edge, i) => {
      const place = { x: left + i * size, y: bottom + LINE, "text-anchor": "middle" };
      return i % every ? [] : [svg("text", place, edge)];
    }),
    // Each label has a line of its own, since two of them may be at the same place.
    ...marks.map(({ value }, i) => {
      const at = x(value);
      return svg("line", { class: "mark", x1: at, x2: at, y1: LINE * i + 4, y2: bottom });
    }),
    ...marks.map(({ value, label }, i) => {
      const at = x(value);
      const isLeft = at + label.length * CHARACTER > width;
      const place = { x: isLeft ? at - 4 : at + 4, y: TOP + LINE * i + 4 };
      return svg("text", { ...place, "text-anchor": isLeft ? "end" : "start" }, label);
    }),
  ]);
}
