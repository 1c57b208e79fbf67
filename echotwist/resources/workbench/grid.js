// @ts-check
// A grid of any number of rows, of which only those that are seen are in the document.
import { element } from "./element.js";

/** The height of a row, in rem: all have the same, so that their places are known. */
const HEIGHT = 1.75;

/** Rows above and below those that are seen, for who scrolls fast. */
const BEYOND = 10;

/** Pixels from the end within which a reader follows it. */
const NEAR = 40;

/**
 * @template Row
 * @typedef {object} Column
 * @property {string} name of its heading, and of its class
 * @property {(row: Row, index: number) => string} textOf
 */

/** @template Row */
export class Grid {
  /**
   * @param {HTMLElement} grid empty, and scrolls
   * @param {Column<Row>[]} columns
   * @param {(row: Row) => string} classOf
   * @param {(row: Row | undefined) => void} onSelect
   */
  constructor(grid, columns, classOf, onSelect) {
    this._grid = grid;
    this._columns = columns;
    this._classOf = classOf;
    this._onSelect = onSelect;
    /** @type {Row[]} */
    this._rows = [];
    /** @type {Row | undefined} */
    this._selected = undefined;
    /** @type {HTMLElement[]} those in the document, to be used again */
    this._pool = [];
    this._follows = true;
    this._body = element("div", { role: "rowgroup", className: "rows" });
    grid.setAttribute("role", "grid");
    const head = element(
      "div",
      { role: "row", className: "head", "aria-rowindex": "1" },
      ...columns.map(({ name }) =>
        element("span", { role: "columnheader", className: classFor(name) }, name),
      ),
    );
    grid.append(element("div", { role: "rowgroup" }, head), this._body);
    grid.onscroll = () => {
      this._follows = this._isAtEnd();
      this.draw();
    };
    grid.onkeydown = (event) => this._onKey(event);
    this._body.onclick = (/** @type {MouseEvent} */ { target }) => {
      const row = /** @type {HTMLElement} */ (target).closest("[role=row]");
      if (row instanceof HTMLElement) this.select(this._rows[Number(row.dataset.index)]);
    };
    new ResizeObserver(() => this.draw()).observe(grid);
  }

  /**
   * Show these rows. A reader at the end stays at the end; any other stays where they are.
   *
   * @param {Row[]} rows may be the same array as before, with more in it
   */
  show(rows) {
    const first = this._rows[Math.floor(this._grid.scrollTop / this._height())];
    const isOther = rows !== this._rows;
    this._rows = rows;
    if (isOther && !this._follows && first !== undefined) {
      const place = rows.indexOf(first);
      if (place !== -1) this._grid.scrollTop = place * this._height();
    }
    this.draw();
    if (this._follows) this.scrollToEnd();
  }

  scrollToEnd() {
    this._follows = true;
    this._grid.scrollTop = this._grid.scrollHeight;
  }

  /** @param {Row | undefined} row */
  select(row) {
    this._selected = row;
    this._onSelect(row);
    this.draw();
  }

  draw() {
    const { _grid: grid, _rows: rows, _body: body } = this;
    const height = this._height();
    const first = Math.max(0, Math.floor(grid.scrollTop / height) - BEYOND);
    const seen = Math.ceil(grid.clientHeight / height) + 2 * BEYOND;
    const last = Math.min(rows.length, first + seen);
    body.style.height = `${rows.length * height}px`;
    grid.setAttribute("aria-rowcount", String(rows.length + 1));
    while (this._pool.length < last - first) this._pool.push(this._makeRow());
    for (const gone of this._pool.splice(last - first)) gone.remove();
    let active = "";
    for (let index = first; index < last; index += 1) {
      const row = rows[index];
      const line = this._pool[index - first];
      if (line.parentNode !== body) body.append(line);
      line.style.transform = `translateY(${index * height}px)`;
      line.dataset.index = String(index);
      line.setAttribute("aria-rowindex", String(index + 2));
      const isSelected = row === this._selected;
      line.setAttribute("aria-selected", String(isSelected));
      if (isSelected) active = line.id;
      line.className = this._classOf(row);
      this._columns.forEach(({ textOf }, column) => {
        const cell = line.children[column];
        const text = textOf(row, index);
        if (cell.textContent !== text) cell.textContent = text;
      });
    }
    if (active) grid.setAttribute("aria-activedescendant", active);
    else grid.removeAttribute("aria-activedescendant");
  }

  /** @returns {HTMLElement} */
  _makeRow() {
    this._made = (this._made ?? 0) + 1;
    const row = element(
      "div",
      { role: "row", id: `${this._grid.id}-row-${this._made}` },
      ...this._columns.map(({ name }) =>
        element("span", { role: "gridcell", className: classFor(name) }),
      ),
    );
    row.style.height = `${HEIGHT}rem`;
    return row;
  }

  /** In pixels: a reader may have chosen another size of text. */
  _height() {
    return HEIGHT * parseFloat(getComputedStyle(document.documentElement).fontSize);
  }

  _isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this._grid;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    const rows = this._rows;
    const page = Math.max(1, Math.floor(this._grid.clientHeight / this._height()) - 2);
    const here = this._selected === undefined ? -1 : rows.lastIndexOf(this._selected);
    /** @type {Record<string, number>} */
    const places = {
      ArrowDown: here + 1,
      ArrowUp: here === -1 ? rows.length - 1 : here - 1,
      PageDown: here + page,
      PageUp: here - page,
      Home: 0,
      End: rows.length - 1,
    };
    if (!(event.key in places) || rows.length === 0) return;
    event.preventDefault();
    const place = Math.max(0, Math.min(rows.length - 1, places[event.key]));
    this._reveal(place);
    this.select(rows[place]);
  }

  /**
   * Scroll until this row is seen. Not by `scrollIntoView`: it may not be in the document.
   *
   * @param {number} index
   */
  _reveal(index) {
    const height = this._height();
    const top = index * height;
    const room = this._grid.clientHeight - height; // Its head stays in place.
    if (top < this._grid.scrollTop) this._grid.scrollTop = top;
    else if (top + height > this._grid.scrollTop + room) this._grid.scrollTop = top + height - room;
  }
}

/** @param {string} name */
const classFor = (name) => name.toLowerCase().replace(" ", "-");
