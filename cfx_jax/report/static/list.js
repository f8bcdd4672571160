"use strict";
// The list of examples, as a grid of pictures or as a table; the page contains only its visible part.

const ROW = 36; // height of a row of the table, in pixels
const WIDE = { id: 18, target: 15, status: 11, number: 7.25 }; // widths of the columns of the table, in rem
const TEXT = 62; // height of the text below the picture of a card, in pixels
const LEAST_CARD = 165;
const AROUND = 3; // rows kept above and below the visible part
const MOST_PRINTED = 500;

class List {
  constructor(model, open) {
    this.model = model;
    this.open = open; // maps an example to the address of its view
    this.scroller = cfx.make("div.scroller", { onscroll: () => this.#ask(), onkeydown: (e) => this.#key(e) });
    this.cut = cfx.make("p.summary", { hidden: true });
    new ResizeObserver(() => this.#layOut()).observe(this.scroller);
    addEventListener("beforeprint", () => this.#print(true));
    addEventListener("afterprint", () => this.#print(false));
    this.shown = new Int32Array(0);
    this.current = 0;
    this.drawn = new Map();
  }

  /** Displays examples in order; scrolls to the first, or to the one that was open. */
  show(view, shown, onSort) {
    Object.assign(this, { view, shown, onSort });
    this.result = this.model.result(view.result);
    this.other = this.model.result(view.with);
    this.current = Math.max(0, view.at === undefined ? 0 : shown.indexOf(view.at));
    this.drawn.clear();
    this.body = view.view === "table" ? this.#table() : this.#grid();
    this.scroller.scrollTop = 0;
    this.#layOut();
    if (this.current) this.#scrollTo(this.current);
  }

  focus() {
    this.#scrollTo(this.current);
    this.#draw();
    this.drawn.get(this.current)?.querySelector("a")?.focus();
  }

  /** While the page is printed, it contains the whole list, up to a limit. */
  #print(isPrinting) {
    this.isPrinting = isPrinting && !this.scroller.hidden;
    this.cut.hidden = !this.isPrinting || this.shown.length <= MOST_PRINTED;
    this.cut.textContent = `Printed: the first ${MOST_PRINTED.toLocaleString("en")} of ${this.shown.length.toLocaleString("en")}`;
    this.#draw();
  }

  #grid() {
    const list = cfx.make("ul.grid", { "aria-label": "Examples" });
    this.scroller.replaceChildren(list);
    return list;
  }

  #columns() {
    const numbers = Object.entries(cfx.NUMBERS).map(([name, { label }]) => [name, label]);
    const columns = [["id", "Id"], ["target", "Target"], ["status", "Status"], ...numbers];
    if (!this.other) return columns;
    return columns.flatMap(([name, label]) =>
      name in cfx.NUMBERS ? [[name, label], [`difference-${name}`, `Δ ${label.toLowerCase()}`]] : [[name, label]],
    );
  }

  #table() {
    const { sort, order } = this.view;
    const heads = this.#columns().map(([name, label]) => {
      const arrow = name === sort ? (order === "down" ? " ↓" : " ↑") : "";
      const sorted = arrow && (order === "down" ? "descending" : "ascending");
      const button = cfx.make("button", { type: "button", onclick: () => this.onSort(name) }, label + arrow);
      const kind = name in WIDE ? "" : ".number";
      return cfx.make(`th${kind}`, { scope: "col", "aria-sort": sorted || undefined, title: label }, button);
    });
    // A value of two runs takes the place of two.
    const wide = this.#columns().map(([name]) => (WIDE[name] ?? WIDE.number) * (this.other && ["target", "status"].includes(name) ? 1.8 : 1));
    const columns = wide.map((rem) => {
      const column = cfx.make("col");
      column.style.width = `${rem}rem`;
      return column;
    });
    const body = cfx.make("tbody");
    const table = cfx.make(
      "table.rows",
      { "aria-rowcount": this.shown.length + 1, "aria-label": "Examples" },
      cfx.make("colgroup", {}, ...columns),
      cfx.make("thead", {}, cfx.make("tr", { "aria-rowindex": 1 }, ...heads)),
      body,
    );
    table.style.minWidth = `${wide.reduce((a, b) => a + b)}rem`;
    this.above = spacer(heads.length);
    this.below = spacer(heads.length);
    body.append(this.above, this.below);
    this.scroller.replaceChildren(table);
    return body;
  }

  #layOut() {
    if (!this.view || !this.scroller.clientWidth) return;
    this.isTable = this.view.view === "table";
    const width = this.scroller.clientWidth;
    const least = this.other ? 1.7 * LEAST_CARD : LEAST_CARD;
    this.columns = this.isTable ? 1 : Math.max(this.other ? 1 : 2, Math.floor(width / least));
    const pictures = this.other ? 2 : 1;
    const [height, wide] = this.model.runs[this.result.run].geometry ?? [1, 1];
    const cell = width / this.columns;
    this.rowHeight = this.isTable ? ROW : Math.round((((cell - 22) / pictures) * height) / wide + TEXT + 16);
    this.cell = cell;
    this.rows = Math.ceil(this.shown.length / this.columns);
    if (!this.isTable) {
      this.body.style.height = `${this.rows * this.rowHeight}px`;
      for (const [place, element] of this.drawn) this.#put(place, element);
    }
    this.#draw();
  }

  #ask() {
    if (this.requested) return;
    this.requested = requestAnimationFrame(() => {
      this.requested = 0;
      this.#draw();
    });
  }

  /** Updates the page: adds the visible part and a few rows around it, in order; removes the rest. */
  #draw() {
    if (!this.rowHeight) return;
    const [first, last] = this.#range();
    for (const [place, element] of this.drawn)
      if (place < first || place >= last) {
        element.remove();
        this.drawn.delete(place);
      }
    let next = this.isTable ? this.below : null;
    for (let place = last - 1; place >= first; place--) {
      let element = this.drawn.get(place);
      if (!element) {
        element = this.isTable ? this.#tableRow(place) : this.#card(place);
        this.drawn.set(place, element);
        this.body.insertBefore(element, next);
      }
      next = element;
    }
    if (this.isTable) {
      this.above.firstChild.style.height = `${first * ROW}px`;
      this.below.firstChild.style.height = `${this.isPrinting ? 0 : (this.shown.length - last) * ROW}px`;
    }
  }

  #range() {
    if (this.isPrinting) return [0, Math.min(this.shown.length, MOST_PRINTED)];
    const top = Math.floor(this.scroller.scrollTop / this.rowHeight) - AROUND;
    const count = Math.ceil(this.scroller.clientHeight / this.rowHeight) + 2 * AROUND;
    return [Math.max(0, top) * this.columns, Math.min(this.shown.length, Math.max(0, top + count) * this.columns)];
  }

  #put(place, element) {
    const row = Math.floor(place / this.columns);
    element.style.top = `${row * this.rowHeight}px`;
    element.style.left = `${(place % this.columns) * this.cell}px`;
    element.style.width = `${this.cell}px`;
    element.style.height = `${this.rowHeight}px`;
  }

  #link(place, ...children) {
    const n = this.shown[place];
    return cfx.make(
      "a",
      { href: this.open(n), tabIndex: place === this.current ? 0 : -1, onfocus: () => this.#mark(place), title: this.model.ids[n] },
      ...children,
    );
  }

  #card(place) {
    const n = this.shown[place];
    const { model, result, other } = this;
    const pictures = [result, other].filter(Boolean).map((r) => cfx.saliency(model, r, n, ""));
    const percent = (share) => (100 * share).toFixed(0);
    const odds = (name) => percent(cfx.probability(model.value(result, name, n)));
    const areas = [result, other].filter(Boolean).map((r) => model.value(r, "kept_area", n));
    const isKnown = areas.some(Number.isFinite);
    const area = `area ${areas.map((share) => (Number.isFinite(share) ? percent(share) : "n/a")).join(" | ")} %`;
    const change = `${odds("log_odds_original")} → ${odds("log_odds_infilled")} %`;
    const words = !isKnown ? "" : other ? area : `${change} · ${area}`;
    const card = cfx.make(
      "li",
      { "aria-setsize": this.shown.length, "aria-posinset": place + 1 },
      this.#link(
        place,
        cfx.make("span.pair", {}, ...pictures),
        this.#names(n),
        cfx.make("span.numbers", {}, words),
        cfx.make("span.numbers", {}, ...this.#badges(n)),
      ),
    );
    this.#put(place, card);
    return card;
  }

  /** The explained class, or two classes with a mark between them if they differ. */
  #targets(n) {
    const { model, result, other } = this;
    const name = (words) => cfx.make("bdi", {}, words);
    if (!model.asksElse(result, other, n)) return [name(model.className(model.home(result, n), "target", n))];
    return [name(model.question(result.run, n)), " ≠ ", name(model.question(other.run, n))];
  }

  /** The line of names of a card; each of two names is below its picture. */
  #names(n) {
    const [first, , second] = this.#targets(n);
    if (!second) return cfx.make("span.name", {}, first);
    const title = `explained: ${first.textContent} and ${second.textContent}`;
    return cfx.make("span.pair", { title }, cfx.make("span.name", {}, first), cfx.make("span.name.differs", {}, "≠ ", second));
  }

  #badges(n) {
    const [first, second] = [this.result, this.other].map((r) => r && cfx.badge(this.model.status(r, n)));
    return second ? [first, " | ", second] : [first];
  }

  #tableRow(place) {
    const n = this.shown[place];
    const { model, result, other } = this;
    const cells = this.#columns().map(([name]) => {
      if (name === "id") return cfx.make("td", {}, this.#link(place, model.ids[n]));
      if (name === "target") return withTitle(cfx.make("td", {}, ...this.#targets(n)));
      if (name === "status") return withTitle(cfx.make("td", {}, ...this.#badges(n)));
      if (name in cfx.NUMBERS) return cfx.make("td.number", {}, cfx.format(name, model.value(result, name, n)));
      const number = name.slice("difference-".length);
      return cfx.make("td.number", {}, model.tellDifference(result, other, number, n));
    });
    return cfx.make("tr", { "aria-rowindex": place + 2 }, ...cells);
  }

  /** Tab reaches one link of the list; the arrow keys move to the others. */
  #mark(place) {
    const link = (at) => this.drawn.get(at)?.querySelector("a");
    if (link(this.current)) link(this.current).tabIndex = -1;
    this.current = place;
    if (link(place)) link(place).tabIndex = 0;
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight) - 1) * this.columns;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: page, PageUp: -page, Home: -this.shown.length, End: this.shown.length,
    };
    if (!(event.key in steps) || event.target.tagName !== "A" || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#mark(Math.min(this.shown.length - 1, Math.max(0, this.current + steps[event.key])));
    this.focus();
  }

  #scrollTo(place) {
    const top = Math.floor(place / this.columns) * this.rowHeight;
    const head = this.isTable ? this.scroller.querySelector("thead").offsetHeight : 0;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.rowHeight + head > scrollTop + clientHeight)
      this.scroller.scrollTop = top + this.rowHeight + head - clientHeight;
  }
}

/** Adds the whole text as a tooltip, since the text may be truncated. */
function withTitle(element) {
  element.title = element.textContent;
  return element;
}

function spacer(columns) {
  return cfx.make("tr.spacer", { "aria-hidden": "true" }, cfx.make("td", { colSpan: columns }));
}

cfx.List = List;
