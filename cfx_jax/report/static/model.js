"use strict";
// The data: loading its parts, the columns of all examples, filtering and sorting. This file does not
// change the page.
const cfx = (window.cfx = {});

cfx.NUMBERS = {
  kept_area: { label: "Area kept", short: "area", share: true },
  log_odds_original: { label: "Log-odds before", short: "before", signed: true, isOfTarget: true },
  log_odds_infilled: { label: "Log-odds after", short: "after", signed: true, isOfTarget: true },
  success_rate: { label: "Success rate", short: "success", share: true },
  stability: { label: "Stability", short: "stability" },
  objective: { label: "Objective", short: "objective", isOfTarget: true },
  entropy: { label: "Entropy", short: "entropy" },
};

// Each part of the data is a script that calls this function, because a page opened as a file cannot read other files.
const waiting = new Map();
window.cfx_part = (name, value) => {
  waiting.get(name).resolve(value);
  waiting.delete(name);
};
const parts = new Map();

/** Loads a part once; the promise is rejected if its file is missing or truncated. */
cfx.load = (name) => {
  if (!parts.has(name)) {
    parts.set(
      name,
      new Promise((resolve, reject) => {
        const fail = () => {
          parts.delete(name);
          reject(new Error(`${name}.js cannot be loaded: copy the folder as a whole`));
        };
        waiting.set(name, { resolve });
        const script = document.createElement("script");
        script.src = `${name}.js`;
        script.onerror = fail;
        script.onload = () => (waiting.has(name) ? fail() : script.remove());
        document.head.append(script);
      }),
    );
  }
  return parts.get(name);
};

/** Reads the rows of all runs and joins them by id. */
cfx.open = async (runs) => {
  const tables = await Promise.all(
    runs.map(async (run, r) => {
      const loaded = await Promise.all(run.parts.map((part) => cfx.load(`data/${r}/rows-${part}`)));
      const table = {};
      for (const part of loaded)
        for (const name of Object.keys(part)) (table[name] ??= []).push(part[name]);
      for (const name of Object.keys(table)) {
        const values = table[name].flat();
        // A missing number is NaN: it fails every comparison and is sorted last.
        const isNumber = name !== "id";
        table[name] = isNumber ? Float64Array.from(values, (v) => v ?? NaN) : values;
      }
      return table.id ? table : { id: [] };
    }),
  );
  return new Model(runs, tables);
};

class Model {
  constructor(runs, tables) {
    this.runs = runs;
    this.tables = tables;
    // Examples in the order of the first run, then those that only later runs have; their rows by run.
    if (runs.length === 1) {
      this.ids = tables[0].id;
      this.rows = [Int32Array.from(this.ids, (_, row) => row)];
    } else {
      const place = new Map();
      for (const table of tables)
        for (const id of table.id) if (!place.has(id)) place.set(id, place.size);
      this.ids = [...place.keys()];
      this.rows = tables.map((table) => {
        const rows = new Int32Array(this.ids.length).fill(-1);
        for (let row = table.id.length - 1; row >= 0; row--) rows[place.get(table.id[row])] = row;
        return rows;
      });
    }
    this.size = this.ids.length;
    this.results = runs.flatMap((run, r) =>
      run.objectives.map((objective) => ({
        key: `${r}-${objective}`,
        run: r,
        objective,
        label: (runs.length > 1 ? `${cfx.letter(r)} · ` : "") + objective.toUpperCase().replace("_", " "),
      })),
    );
    this.placeOf = new Map();
    for (let n = this.size - 1; n >= 0; n--) this.placeOf.set(this.ids[n], n);
    // Computed on first use.
    this.lowerIds = null;
    this.counts = new Map();
  }

  result(key) {
    return this.results.find((result) => result.key === key);
  }

  /** The default comparison of a result: the same objective of another run. */
  partner(result) {
    return this.results.find((r) => r.run !== result.run && r.objective === result.objective);
  }

  /** The result that compares with `goal` as `other` compares with `result`; undefined if there is none. */
  besideAsBefore(goal, result, other) {
    const isOfTwo = other.run !== result.run;
    const run = !isOfTwo ? goal.run : other.run !== goal.run ? other.run : result.run;
    const isSame = (objective) => objective === goal.objective;
    const isPair = result.objective === other.objective;
    return this.results.find((r) => r.run === run && r.key !== goal.key && isSame(r.objective) === isPair);
  }

  /** The value of a column of a run for an example; NaN if the run lacks the example. */
  at(run, name, n) {
    const row = this.rows[run][n];
    return row < 0 ? NaN : this.tables[run][name][row];
  }

  value(result, name, n) {
    return this.at(result.run, `${result.objective}_${name}`, n);
  }

  status(result, n) {
    const code = this.value(result, "status", n);
    if (Number.isNaN(code)) return "absent";
    return this.runs[result.run].statuses[code] ?? `unknown status ${code}`;
  }

  hasPicture(run, n) {
    return this.at(run, "pictured", n) === 1;
  }

  /** Whether a mask was learnt, and a picture of it exists. */
  hasMask(result, n) {
    return this.hasPicture(result.run, n) && !Number.isNaN(this.value(result, "entropy", n));
  }

  /** The run that describes an example: that of the result, or the first run with the example. */
  home(result, n) {
    return this.rows[result.run][n] >= 0 ? result.run : this.rows.findIndex((rows) => rows[n] >= 0);
  }

  /** The name of the `target`, `label` or `prediction` of an example in a run. */
  className(run, name, n) {
    return this.nameOf(run, this.at(run, name, n));
  }

  /** The name of a class; a truncated page may have classes without names. */
  nameOf(run, number) {
    return this.runs[run].classes[number] ?? (number >= 0 ? `class ${number}` : "not known");
  }

  /** The meaning of the log-odds of an example. */
  question(run, n) {
    return this.className(run, "target", n) + this.runs[run].rather;
  }

  /** Whether two runs differ in a class of an example; a class that one run lacks is no difference. */
  differs(name, one, two, n) {
    const [first, second] = [one, two].map((run) => this.at(run, name, n));
    if (!(first >= 0 && second >= 0)) return false;
    const names = [one, two].map((run) => this.className(run, name, n));
    // A classifier without class names has numbers only.
    return first !== second || (names[0] !== names[1] && !names.includes(`class ${first}`));
  }

  /** Whether two results explain different classes of an example. */
  asksElse({ run }, other, n) {
    if (!other || run === other.run) return false;
    const isAskedOfBoth = this.at(run, "target", n) >= 0 && this.at(other.run, "target", n) >= 0;
    return isAskedOfBoth && (this.differs("target", run, other.run, n) || this.runs[run].rather !== this.runs[other.run].rather);
  }

  /** The difference of two results; none for log-odds of different classes. */
  difference(result, other, name, n) {
    if (cfx.NUMBERS[name].isOfTarget && this.asksElse(result, other, n)) return NaN;
    return this.value(other, name, n) - this.value(result, name, n);
  }

  tellDifference(result, other, name, n) {
    if (cfx.NUMBERS[name].isOfTarget && this.asksElse(result, other, n)) return "≠ classes";
    return cfx.format(name, this.difference(result, other, name, n), true);
  }

  /** Whether any run has this status, since a view of one run may be applied to another. */
  isStatus(name) {
    return name === "absent" || /^unknown status -?\d+$/.test(name) || this.runs.some((run) => run.statuses.includes(name));
  }

  /** The number of examples per status of a result, in the order of the statuses. */
  countStatuses(result) {
    if (!this.counts.has(result.key)) {
      const counts = new Map();
      for (let n = 0; n < this.size; n++) {
        const status = this.status(result, n);
        counts.set(status, (counts.get(status) ?? 0) + 1);
      }
      const order = this.runs[result.run].statuses;
      const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
      this.counts.set(result.key, [...counts].sort((a, b) => rank(a[0]) - rank(b[0]) || (a[0] < b[0] ? -1 : 1)));
    }
    return this.counts.get(result.key);
  }

  /** Classes that occur as targets, by name. */
  targets(result) {
    const names = new Set();
    for (let n = 0; n < this.size; n++) names.add(this.className(this.home(result, n), "target", n));
    return [...names].sort();
  }

  /** The examples of a view, in its order. */
  select(view) {
    const result = this.result(view.result);
    const keep = this.#filters(view, result);
    const found = [];
    for (let n = 0; n < this.size; n++) if (keep.every((test) => test(n))) found.push(n);
    return this.#sort(found, view, result);
  }

  #filters(view, result) {
    const tests = [];
    if (view.status.length) {
      const wanted = new Set(view.status);
      tests.push((n) => wanted.has(this.status(result, n)));
    }
    for (const name of ["target", "label"]) {
      if (!view[name]) continue;
      // Compares a few thousand names instead of all examples.
      const matching = this.runs.map(
        (run) =>
          new Set(
            Object.keys(run.classes)
              .filter((number) => matches(run.classes[number], view[name]))
              .map(Number),
          ),
      );
      tests.push((n) => {
        const run = this.home(result, n);
        return matching[run].has(this.at(run, name, n));
      });
    }
    if (view.predicted) {
      tests.push((n) => {
        const [label, prediction] = ["label", "prediction"].map((name) => this.at(result.run, name, n));
        // An unreadable image has no prediction, so it cannot be misclassified.
        return label >= 0 && prediction >= 0 && (label === prediction) === (view.predicted === "right");
      });
    }
    if (view.find) {
      this.lowerIds ??= this.ids.map((id) => id.toLowerCase());
      const text = view.find.toLowerCase();
      tests.push((n) => this.lowerIds[n].includes(text));
    }
    if (view.differ) {
      const other = this.result(view.with);
      tests.push((n) => this.status(result, n) !== this.status(other, n));
    }
    return tests;
  }

  /** The sort key of an example: a number or a text. */
  sortKey(view, result = this.result(view.result)) {
    const other = this.result(view.with);
    if (view.sort === "id") return (n) => this.ids[n];
    if (view.sort === "target") return (n) => this.className(this.home(result, n), "target", n);
    if (view.sort === "status") return (n) => this.value(result, "status", n);
    if (view.sort.startsWith("difference-") && other) {
      const name = view.sort.slice("difference-".length);
      return (n) => this.difference(result, other, name, n);
    }
    if (view.sort in cfx.NUMBERS) return (n) => this.value(result, view.sort, n);
    return (n) => n;
  }

  #sort(found, view, result) {
    const key = this.sortKey(view, result);
    const keys = found.map(key);
    const sign = view.order === "down" ? -1 : 1;
    const order = found.map((_, place) => place);
    // Examples without a number come last in both directions; ties keep the order of the data.
    const compare = (i, j) => {
      const a = keys[i], b = keys[j];
      if (a < b) return -sign;
      if (a > b) return sign;
      return Number.isNaN(a) - Number.isNaN(b) || i - j;
    };
    return Int32Array.from(order.sort(compare), (place) => found[place]);
  }
}

function matches(name, text) {
  return name.toLowerCase().includes(text.toLowerCase());
}

cfx.letter = (run) => String.fromCharCode(65 + (run % 26));

/** Rounds a number to some decimals, half to even, as Python does. */
cfx.round = (value, digits) => {
  if (Math.abs(value) > 1e15) return String(value);
  const [, whole, shown, rest] = Math.abs(value).toFixed(20).match(`^(\\d+)\\.(\\d{${digits}})(\\d*)$`);
  const isMiddle = /^50*$/.test(rest) && Number(`${whole}${shown}`.at(-1)) % 2 === 0;
  return (value < 0 ? "−" : "") + (isMiddle ? `${whole}.${shown}` : Math.abs(value).toFixed(digits));
};

/** Formats a number: shares in percent, log-odds and differences with their sign. */
cfx.format = (name, value, isDifference = false) => {
  const { share, signed } = cfx.NUMBERS[name];
  if (!Number.isFinite(value)) return "n/a";
  const sign = (signed || isDifference) && value >= 0 ? "+" : "";
  // Differences of shares are in percentage points.
  return sign + (share ? `${cfx.round(100 * value, 1)} ${isDifference ? "pp" : "%"}` : cfx.round(value, 2));
};

cfx.probability = (logOdds) => 1 / (1 + Math.exp(-logOdds));
