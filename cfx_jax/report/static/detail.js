"use strict";
// The detail view of an example: pictures, numbers and traces of one result, or of several side by side.

const COLORS = ["#2f81f7", "#d9730d", "#1a9e57", "#b454d0", "#c9a200", "#d1344b"];
const PLOT = { width: 540, height: 200, left: 48, right: 8, top: 8, bottom: 26 };

class Detail {
  constructor(model) {
    this.model = model;
    this.element = cfx.make("article", { "aria-labelledby": "detail-title" });
    this.showsOriginal = false;
    this.opacity = 0.55;
    this.hasOutline = true;
  }

  /** Displays an example as a view selects it. */
  show(view, n) {
    const { model } = this;
    const selected = [view.result, view.with].map((key) => model.result(key)).filter(Boolean);
    const results = (selected.length > 1 ? selected : model.results).filter((r) => model.rows[r.run][n] >= 0);
    const run = model.home(model.result(view.result), n);
    // A run that could not read the image has no explanation of it.
    const first = results.find((r) => model.at(r.run, "target", n) >= 0) ?? { run };
    // If runs differ in the data of the example, each card has the data of its run.
    const areAlike = results.every((r) => !model.asksElse(first, r, n) && !model.differs("prediction", first.run, r.run, n));
    Object.assign(this, { n, results, run, areAlike });
    this.title = this.#title(first);
    const facts = cfx.make("p.soft", {}, ...(areAlike ? ["Predicted: ", this.#name(run, "prediction"), " · "] : []),
      "label: ", this.#name(run, "label"), ` · example ${model.at(run, "index", n)}: `, cfx.make("bdi", {}, model.ids[n]));
    this.cards = cfx.make("div.results", {}, ...this.#original(), ...results.map((result) => this.#card(result)));
    this.traces = cfx.make("div.traces");
    this.element.replaceChildren(
      this.title, facts, this.#tools(), this.cards,
      cfx.make("div.lines", {}, this.#numbers(selected.length > 1), this.traces),
    );
    this.#apply();
    this.#addDetails(n);
  }

  #name(run, kind) {
    const { model, n } = this;
    return cfx.make("bdi", {}, kind === "target" ? model.question(run, n) : model.className(run, kind, n));
  }

  /** The explained classes, each listed once; a mark between two classes means that they differ. */
  #title(first) {
    const { model, n, results } = this;
    const others = results.filter((result) => model.asksElse(first, result, n));
    const runs = new Map([first, ...others].map(({ run }) => [model.question(run, n), run]));
    const words = [...runs.values()].flatMap((run, place) => [place ? " ≠ " : "", this.#name(run, "target")]);
    const title = others.length ? "The runs explain different classes" : undefined;
    return cfx.make("h1", { id: "detail-title", tabIndex: -1, title }, ...words);
  }

  /** Switches between the in-filled image and the original. */
  toggle() {
    this.showsOriginal = !this.showsOriginal;
    this.#apply();
  }

  #tools() {
    this.slider = cfx.make("input", {
      type: "range", min: 0, max: 1, step: 0.05, value: this.opacity, id: "opacity",
      oninput: () => {
        this.opacity = Number(this.slider.value);
        this.#apply();
      },
    });
    this.swap = cfx.make("button", { type: "button", onclick: () => this.toggle() }, "Show original (O)");
    this.outline = cfx.make("input", {
      type: "checkbox", checked: this.hasOutline,
      onchange: () => {
        this.hasOutline = this.outline.checked;
        this.#apply();
      },
    });
    const opacity = cfx.make("label.choice", { htmlFor: "opacity" }, "Saliency ", this.slider);
    const outline = cfx.make("label.choice", {}, this.outline, "Outline half of the importance");
    // Only controls for what exists: a map, a photograph below it, a photograph beside it.
    const drawn = this.results.filter((result) => this.model.hasMask(result, this.n));
    outline.hidden = !drawn.length;
    opacity.hidden = this.swap.hidden = !drawn.some((result) => this.model.runs[result.run].has_photos);
    return cfx.make("div.bar", {}, opacity, outline, this.swap);
  }

  #apply() {
    this.element.style.setProperty("--opacity", this.opacity);
    for (const outline of this.element.querySelectorAll(".layers svg")) outline.style.display = this.hasOutline ? "" : "none";
    for (const stage of this.element.querySelectorAll(".swap")) this.#swapTo(stage, this.showsOriginal);
    this.swap.setAttribute("aria-pressed", this.showsOriginal);
  }

  #swapTo(stage, isOriginal) {
    stage.querySelector(".over").style.visibility = isOriginal ? "" : "hidden";
    stage.nextElementSibling.textContent = isOriginal ? "Original" : "In-filled; hover for the original";
  }

  #original() {
    const { run } = this;
    if (!this.model.runs[run].has_photos || !this.model.hasPicture(run, this.n)) return [];
    const alt = `Original image, example ${this.model.at(run, "index", this.n)}`;
    return [cfx.make("section.result", { "aria-label": "Original" }, cfx.make("h2", {}, "Original"),
      cfx.make("div.pair", {}, cfx.make("figure", {}, cfx.tile(this.model, run, this.n, "original", alt))))];
  }

  #card(result) {
    const { model, n } = this;
    const number = (name) => model.value(result, name, n);
    return cfx.make("section.result", { "aria-label": result.label, "data-result": result.key },
      cfx.make("h2", {}, `${result.label} `, cfx.badge(model.status(result, n))),
      this.areAlike ? undefined : cfx.make("p.soft", {}, "Target: ", this.#name(result.run, "target"), " · predicted: ", this.#name(result.run, "prediction")),
      this.#pictures(result),
      cfx.make("div.odds", {}, ...this.#bar("before", number("log_odds_original")), ...this.#bar("after", number("log_odds_infilled"))),
    );
  }

  #pictures(result) {
    const { model, n } = this;
    const name = `example ${model.at(result.run, "index", n)}`;
    const figure = (picture, caption) => cfx.make("figure", {}, picture, cfx.make("figcaption", {}, caption));
    const map = cfx.saliency(model, result, n, `${result.label} saliency map, ${name}`);
    const figures = [figure(map, "Saliency")];
    if (model.runs[result.run].has_photos && model.hasMask(result, n)) {
      const stage = cfx.make("span.layers.swap", {},
        cfx.tile(model, result.run, n, `${result.objective}-infilled`, `Image in-filled outside the ${result.label} mask, ${name}`),
        cfx.tile(model, result.run, n, "original", `Original image, ${name}`, ".over"));
      for (const [event, hovers] of [["mouseenter", true], ["mouseleave", false]])
        stage.addEventListener(event, () => this.#swapTo(stage, hovers !== this.showsOriginal));
      figures.push(figure(stage, ""));
    }
    return cfx.make("div.pair", {}, ...figures);
  }

  #bar(words, logOdds) {
    const share = 100 * cfx.probability(logOdds);
    const text = Number.isFinite(logOdds) ? `${cfx.round(share, 1)} % (${cfx.format("log_odds_original", logOdds)})` : "n/a";
    const fill = cfx.make(`div.fill.${words}`);
    fill.style.width = `${Number.isFinite(share) ? share : 0}%`;
    return [cfx.make("span", {}, words), cfx.make("div.track", { "aria-hidden": "true" }, fill), cfx.make("span.number", {}, text)];
  }

  #numbers(isPair) {
    const { model, n, results } = this;
    const hasDifference = isPair && results.length === 2;
    const [first, second] = results;
    const rows = Object.entries(cfx.NUMBERS).map(([name, { label }]) => {
      const values = results.map((result) => model.value(result, name, n));
      const cells = values.map((value) => cfx.make("td.number", {}, cfx.format(name, value)));
      if (hasDifference) cells.push(this.#difference(name));
      return cfx.make("tr", {}, cfx.make("th", { scope: "row" }, label), ...cells);
    });
    const heads = results.map((result) => result.label);
    if (hasDifference) heads.push(`${second.label} less ${first.label}`);
    return cfx.make("div.wide", {}, cfx.make("table", {},
      cfx.make("thead", {}, cfx.make("tr", {}, cfx.make("td"), ...heads.map((head) => cfx.make("th.number", { scope: "col" }, head)))),
      cfx.make("tbody", {}, ...rows)));
  }

  #difference(name) {
    const text = this.model.tellDifference(...this.results, name, this.n);
    const title = text.startsWith("≠") ? "not compared: the runs explain different classes" : undefined;
    return cfx.make("td.number.difference", { title }, text);
  }

  /** Outlines and plots are separate files, loaded when an example is opened. */
  async #addDetails(n) {
    const traces = [], cells = [], missing = new Set();
    for (const result of this.results) {
      if (!this.model.hasMask(result, n)) continue;
      const run = this.model.runs[result.run];
      const index = this.model.at(result.run, "index", n);
      const name = `data/${result.run}/details-${Math.floor(index / run.details_in_part)}`;
      const part = await cfx.load(name).catch((error) => missing.add(error.message) && null);
      if (this.n !== n) return; // Another example is displayed by now.
      if (!part) continue;
      const row = part.index.indexOf(index);
      traces.push([result.label, part[`${result.objective}_trace`][row], part[`${result.objective}_steps`][row]]);
      cells.push([result.label, part[`${result.objective}_cells`][row]]);
      this.#addOutline(result, part[`${result.objective}_outline`][row]);
      this.#addTop(result, part[`${result.objective}_top`][row]);
    }
    const warnings = [...missing].map((message) => cfx.make("p.bad", { role: "alert" }, message));
    this.traces.replaceChildren(...warnings, ...plotTraces(traces), ...plotCells(cells), ...keys(traces));
    this.#apply();
  }

  /** Bars of the most probable classes, before and after. */
  #addTop(result, top) {
    if (!top.length) return;
    const bar = (kind, share) => {
      const fill = cfx.make(`div.fill.${kind}`);
      fill.style.width = `${100 * (share ?? 0)}%`;
      return cfx.make("div.track", { "aria-hidden": "true" }, fill);
    };
    const rows = top.map(([number, before, after]) =>
      cfx.make("li", {}, cfx.make("bdi", {}, this.model.nameOf(result.run, number)),
        cfx.make("span.number", {}, `${percent(before)} → ${percent(after)}`),
        cfx.make("div", {}, bar("before", before), bar("after", after))),
    );
    const card = this.element.querySelector(`[data-result="${result.key}"]`);
    // The bar above may have another number for the same class, so both are labelled.
    card.append(cfx.make("p.soft.note", {}, "Most likely classes: mean probabilities. Above: the probability of the mean log-odds."),
      cfx.make("ol.top", { "aria-label": "Most likely classes, before and after" }, ...rows));
  }

  #addOutline(result, path) {
    const layers = this.element.querySelector(`[data-result="${result.key}"] .layers`);
    const [height, width] = this.model.runs[result.run].map_size;
    layers.append(cfx.svg("svg", { viewBox: `0 0 ${2 * width} ${2 * height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      cfx.svg("path", { d: path, class: "halo" }), cfx.svg("path", { d: path, class: "edge" })));
  }
}

/** Formats a probability. */
function percent(share) {
  return share === null ? "n/a" : `${cfx.round(100 * share, 1)} %`;
}

/** Plots the objective at each step. */
function plotTraces(traces) {
  const finite = traces.flatMap(([, trace]) => trace).filter((value) => value !== null);
  if (!finite.length) return [];
  const low = Math.min(...finite), high = Math.max(...finite);
  const { width, height, left, right, top, bottom } = PLOT;
  // Images that stopped early have shorter lines.
  const longest = Math.max(...traces.map(([, , steps]) => steps));
  const x = (at, count, steps) => left + ((width - left - right) * (at / Math.max(1, count - 1)) * steps) / longest;
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low || 1);
  const lines = traces.map(([, trace, steps], line) => {
    let path = "", pen = "M";
    trace.forEach((value, step) => {
      if (value !== null) path += `${pen}${x(step, trace.length, steps).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = value === null ? "M" : "L";
    });
    return cfx.svg("path", { d: path, class: "curve", stroke: color(line) });
  });
  const words = traces.map(([name, trace, steps]) => `${name} from ${trace[0]} to ${trace.at(-1)} in ${steps} steps`).join(", ");
  const taken = traces.map(([name, , steps]) => `${name} ${steps}`).join(", ");
  const ends = { high: cfx.round(high, 2), low: cfx.round(low, 2), below: `steps: ${taken}` };
  const note = "Here with the relaxed masks of each step; in the table, with the final hard masks.";
  return [...drawPlot("Objective at each step", words, ends, lines), cfx.make("p.soft.note", {}, note)];
}

/** Plots a histogram of the keep probabilities of the cells: the learnt distribution. */
function plotCells(cells) {
  if (!cells.length) return [];
  const shares = cells.map(([name, counts]) => [name, counts.map((count) => count / counts.reduce((a, b) => a + b))]);
  const high = Math.max(...shares.flatMap(([, of]) => of));
  const { width, height, left, right, top, bottom } = PLOT;
  const step = (width - left - right) / shares[0][1].length;
  const thick = (0.8 * step) / shares.length;
  const bars = shares.flatMap(([, of], line) =>
    of.map((share, bin) => {
      const long = ((height - top - bottom) * share) / high;
      const x = left + step * (bin + 0.1) + thick * line;
      return cfx.svg("rect", { x, y: height - bottom - long, width: thick, height: long, fill: color(line) });
    }),
  );
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  const words = shares.map(([name, of]) => `${name} ${of.map(percent).join(", ")}`).join("; ");
  const ends = { high: percent(high), low: "0 %", below: "probability of keeping a cell, 0 to 1" };
  return drawPlot("Cells of the mask", `from never kept to always kept: ${words}`, ends, bars);
}

function drawPlot(title, words, { high, low, below }, marks) {
  const { width, height, left, right, top, bottom } = PLOT;
  const text = (words, at, anchor) => cfx.svg("text", { x: at[0], y: at[1], "text-anchor": anchor }, words);
  const drawing = cfx.svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": `${title}: ${words}` },
    cfx.svg("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
    text(high, [left - 6, top + 10], "end"), text(low, [left - 6, height - bottom], "end"),
    text(below, [(width + left) / 2, height - 8], "middle"), ...marks);
  return [cfx.make("h2", {}, title), drawing];
}

/** The legend: the colour of each result in the plots. */
function keys(named) {
  const marks = named.map(([name], line) => {
    const mark = cfx.make("i");
    mark.style.background = color(line);
    return cfx.make("span.key", {}, mark, name);
  });
  return marks.length ? [cfx.make("p", {}, ...marks)] : [];
}

function color(line) {
  return COLORS[line % COLORS.length];
}

cfx.Detail = Detail;
