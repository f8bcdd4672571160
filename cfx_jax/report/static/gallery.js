"use strict";
// The page: its controls, and the view that the controls and the address determine.

const VIEWS = { grid: "Pictures", table: "Table" };
// The same number as in gallery.css.
const NARROW = matchMedia("(max-width: 40rem)");
const NO_FILTERS = { status: [], target: "", label: "", predicted: "", find: "", differ: false };

class Gallery {
  constructor(model) {
    this.model = model;
    this.element = document.getElementById("gallery");
    this.list = new cfx.List(model, (n) => this.#address({ ...this.view, at: n }));
    this.detail = new cfx.Detail(model);
    this.summary = cfx.make("p.summary", { role: "status" });
    this.element.append(this.#finder(), this.summary, this.#nothing(), this.list.cut, this.list.scroller, this.#one());
    addEventListener("hashchange", () => this.#show());
    addEventListener("keydown", (event) => this.#key(event));
    this.#show();
  }

  /** Reads the view from the address; missing and invalid parts have their initial values. */
  #read() {
    const { model } = this;
    const parameters = new URLSearchParams(location.hash.slice(1));
    const known = (name, choices, otherwise) => (choices.includes(parameters.get(name)) ? parameters.get(name) : otherwise);
    const keys = model.results.map((result) => result.key);
    const result = known("result", keys, keys[0]);
    const others = keys.filter((key) => key !== result);
    const isAlone = parameters.get("with") === "none";
    const other = isAlone ? "" : known("with", others, model.partner(model.result(result))?.key ?? "");
    const place = model.placeOf.get(parameters.get("at"));
    return {
      result,
      with: other,
      isAlone,
      status: (parameters.get("status") ?? "").split(",").filter((name) => model.isStatus(name)),
      target: parameters.get("target") ?? "",
      label: parameters.get("label") ?? "",
      predicted: known("predicted", ["right", "wrong"], ""),
      find: parameters.get("find") ?? "",
      differ: other !== "" && parameters.get("differ") === "1",
      sort: known("sort", this.#sorts(other).map(([name]) => name), "data"),
      order: known("order", ["up", "down"], "up"),
      view: known("view", Object.keys(VIEWS), "grid"),
      at: place,
    };
  }

  #address(view) {
    const parameters = new URLSearchParams();
    const { at, differ, isAlone, status, ...texts } = view;
    for (const [name, value] of Object.entries(texts)) {
      const isAtFirst = { sort: "data", order: "up", view: "grid", result: this.model.results[0].key }[name] === value;
      if (value && !isAtFirst) parameters.set(name, value);
    }
    // Only a comparison that was chosen: the default one depends on the result.
    if (isAlone) parameters.set("with", "none");
    if (status.length) parameters.set("status", status.join(","));
    if (differ) parameters.set("differ", "1");
    if (at !== undefined) parameters.set("at", this.model.ids[at]);
    return `#${parameters}`;
  }

  /** Changes a part of the view; typing adds no entries to the history. */
  #change(part, isTyping = false) {
    // Not by the event of a new address, since a second change would start from the old view.
    history[isTyping ? "replaceState" : "pushState"](null, "", this.#address({ ...this.view, ...part }));
    this.#show();
  }

  #show() {
    const before = this.view;
    this.view = this.#read();
    const { at, ...rest } = this.view;
    const isSame = before && JSON.stringify({ ...rest }) === JSON.stringify({ ...before, at: undefined });
    if (!isSame) {
      const begin = performance.now();
      this.shown = this.model.select(this.view);
      this.#fill();
      this.summary.textContent = `${this.shown.length.toLocaleString("en")} of ${this.model.size.toLocaleString("en")} examples`;
      if (at === undefined) this.list.show(this.view, this.shown, (name) => this.#sortBy(name));
      else this.isListStale = true;
      cfx.lastShown = performance.now() - begin;
    }
    const isOne = at !== undefined;
    for (const part of [this.finder, this.summary]) part.hidden = isOne;
    this.nothing.hidden = isOne || this.shown.length > 0;
    this.list.scroller.hidden = isOne || this.shown.length === 0;
    this.one.hidden = !isOne;
    document.getElementById("about").hidden = isOne;
    if (isOne) this.#showOne(at, before?.at === undefined);
    else if (before?.at !== undefined) this.#backToList(before.at);
  }

  #showOne(n, isFirst) {
    const place = this.shown.indexOf(n);
    this.place.textContent = place < 0 ? "not in the list" : `${(place + 1).toLocaleString("en")} of ${this.shown.length.toLocaleString("en")}`;
    this.previous.disabled = place <= 0;
    this.next.disabled = place >= this.shown.length - 1;
    this.detail.show(this.view, n);
    if (isFirst) {
      scrollTo(0, 0);
      this.detail.title.focus({ preventScroll: true });
    }
  }

  #backToList(n) {
    if (this.isListStale) this.list.show(this.view, this.shown, (name) => this.#sortBy(name));
    this.isListStale = false;
    this.list.current = Math.max(0, this.shown.indexOf(n));
    requestAnimationFrame(() => this.list.focus());
  }

  #step(by) {
    const place = this.shown.indexOf(this.view.at) + by;
    if (place < 0 || place >= this.shown.length) return;
    history.replaceState(null, "", this.#address({ ...this.view, at: this.shown[place] }));
    this.#show();
  }

  #back() {
    this.#change({ at: undefined });
  }

  #key(event) {
    if (this.view.at === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.matches("input[type=range], input[type=search], select")) return;
    const does = { ArrowRight: () => this.#step(1), ArrowLeft: () => this.#step(-1), Escape: () => this.#back(), o: () => this.detail.toggle() };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!(key in does)) return;
    event.preventDefault();
    does[key]();
  }

  #one() {
    this.place = cfx.make("span", { role: "status" });
    this.previous = cfx.make("button", { type: "button", onclick: () => this.#step(-1) }, "← Previous");
    this.next = cfx.make("button", { type: "button", onclick: () => this.#step(1) }, "Next →");
    const back = cfx.make("button", { type: "button", onclick: () => this.#back() }, "Back to all (Esc)");
    this.one = cfx.make("div", { hidden: true }, cfx.make("div.bar", {}, back, this.previous, this.place, this.next), this.detail.element);
    return this.one;
  }

  #nothing() {
    const clear = () => {
      this.#change(NO_FILTERS);
      this.list.focus();
    };
    this.nothing = cfx.make("p.bar", { hidden: true }, "No example matches.",
      cfx.make("button", { type: "button", onclick: clear }, "Clear all filters"));
    return this.nothing;
  }

  #sorts(other) {
    const numbers = Object.entries(cfx.NUMBERS).map(([name, { label }]) => [name, label]);
    const differences = other ? numbers.map(([name, label]) => [`difference-${name}`, `Difference: ${label.toLowerCase()}`]) : [];
    return [["data", "Order of the data"], ["id", "Id"], ["target", "Target"], ["status", "Status"], ...numbers, ...differences];
  }

  /** Selects another result; keeps the kind of comparison: two runs, or two objectives of one run. */
  #aim(key) {
    const { model, view } = this;
    const [result, other] = [view.result, view.with].map((of) => model.result(of));
    const beside = other && model.besideAsBefore(model.result(key), result, other);
    this.#change({ result: key, with: beside?.key ?? "" });
  }

  #sortBy(name) {
    const isSame = this.view.sort === name;
    this.#change({ sort: name, order: isSame && this.view.order === "up" ? "down" : "up" });
  }

  /** Makes the controls; on small screens they are collapsed at first. */
  #finder() {
    this.finder = cfx.make("details.finder", {}, cfx.make("summary", {}, "Choose, sort and find"), this.#controls());
    const unfold = () => (this.finder.open = !NARROW.matches);
    NARROW.addEventListener("change", unfold);
    unfold();
    return this.finder;
  }

  #controls() {
    const search = (name, words, more = {}) => cfx.make("label", {}, words,
      cfx.make("input", { type: "search", name, autocomplete: "off", oninput: (e) => this.#change({ [name]: e.target.value }, true), ...more }));
    const select = (name, words, change = (value) => this.#change({ [name]: value })) =>
      cfx.make("label", {}, words, cfx.make("select", { name, onchange: (e) => change(e.target.value) }));
    this.statuses = cfx.make("fieldset");
    this.differ = cfx.make("label.choice", {}, cfx.make("input", { type: "checkbox", name: "differ",
      onchange: (e) => this.#change({ differ: e.target.checked }) }), "Status differs");
    this.order = cfx.make("button", { type: "button", onclick: () => this.#change({ order: this.view.order === "up" ? "down" : "up" }) });
    this.controls = cfx.make("form.controls", { "aria-label": "What is shown", onsubmit: (e) => e.preventDefault() },
      select("result", "Explanation", (key) => this.#aim(key)),
      select("with", "Compare with", (key) => this.#change({ with: key === "none" ? "" : key, isAlone: key === "none" })), search("target", "Target", { list: "targets" }), search("label", "Label"),
      select("predicted", "Prediction"), search("find", "Id"), select("sort", "Sort by"), this.order, select("view", "Show as"),
      this.differ, this.statuses, this.#names());
    return this.controls;
  }

  #names() {
    const names = cfx.make("datalist", { id: "targets" });
    // Only when the field is used, because there may be thousands.
    this.element.addEventListener("focusin", (event) => {
      if (event.target.name === "target" && names.of !== this.view.result) {
        names.of = this.view.result;
        names.replaceChildren(...this.model.targets(this.model.result(this.view.result)).map((name) => cfx.make("option", { value: name })));
      }
    });
    return names;
  }

  /** Sets the controls according to the view. */
  #fill() {
    const { model, view, controls } = this;
    const results = model.results.map(({ key, label }) => [key, label]);
    options(controls.elements.result, results, view.result);
    options(controls.elements.with, [["none", "nothing"], ...results.filter(([key]) => key !== view.result)], view.with || "none");
    options(controls.elements.predicted, [["", "any"], ["right", "is the label"], ["wrong", "is not the label"]], view.predicted);
    options(controls.elements.sort, this.#sorts(view.with), view.sort);
    options(controls.elements.view, Object.entries(VIEWS), view.view);
    for (const name of ["target", "label", "find"])
      if (controls.elements[name].value !== view[name]) controls.elements[name].value = view[name];
    controls.elements.with.closest("label").hidden = results.length < 2;
    this.differ.hidden = !view.with;
    controls.elements.differ.checked = view.differ;
    this.order.textContent = view.order === "up" ? "↑ smallest first" : "↓ largest first";
    this.#fillStatuses(view);
  }

  #fillStatuses(view) {
    const counts = this.model.countStatuses(this.model.result(view.result));
    // A selected filter stays visible and can be cleared, even if no example matches.
    const others = view.status.filter((status) => !counts.some(([name]) => name === status));
    const choices = [...counts, ...others.map((status) => [status, 0])].map(([status, count]) => {
      const box = cfx.make("input", { type: "checkbox", value: status, checked: view.status.includes(status) });
      box.addEventListener("change", () => {
        const others = this.view.status.filter((name) => name !== status);
        this.#change({ status: box.checked ? [...others, status] : others });
      });
      return cfx.make("label.choice", {}, box, cfx.badge(status), ` ${count.toLocaleString("en")}`);
    });
    const focused = document.activeElement?.closest?.("fieldset") === this.statuses ? document.activeElement.value : null;
    this.statuses.replaceChildren(cfx.make("legend", {}, "Status"), ...choices);
    if (focused !== null)
      (this.statuses.querySelector(`input[value="${CSS.escape(focused)}"]`) ?? this.statuses.querySelector("input")).focus();
  }
}

function options(select, choices, chosen) {
  const before = [...select.options].map((option) => option.value).join("\n");
  if (before !== choices.map(([value]) => value).join("\n"))
    select.replaceChildren(...choices.map(([value, text]) => cfx.make("option", { value }, text)));
  select.value = chosen;
}

async function main() {
  const listed = document.getElementById("listed");
  const { runs } = JSON.parse(document.getElementById("data").textContent);
  if (!runs.some((run) => run.computed)) return;
  listed.hidden = true;
  try {
    const model = await cfx.open(runs);
    document.getElementById("gallery").hidden = false;
    cfx.gallery = new Gallery(model);
  } catch (error) {
    // The static list is still displayed.
    listed.hidden = false;
    listed.prepend(cfx.make("p.bad", { role: "alert" }, error.message));
    throw error;
  }
}

main();
