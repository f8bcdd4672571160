"use strict";
// What there is to show: parts of data, the columns of all examples, filters and orders of them.
// Nothing here touches the page.
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

// A part of data is a script that calls this: a page that is a file may read no other files.
const waiting = new Map();
window.cfx_part = (name, value) => {
  waiting.get(name).resolve(value);
  waiting.delete(name);
};
const parts = new Map();

/** Loads a part once; the promise is rejected where its file is missing or cut short. */
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

/** Reads the rows of all runs and brings examples of one id together. */
cfx.open = async (runs) => {
  const tables = await Promise.all(
    runs.map(async (run, r) => {
      const loaded = await Promise.all(run.parts.map((part) => cfx.load(`data/${r}/rows-${part}`)));
      const table = {};
      for (const part of loaded)
        for (const name of Object.keys(part)) (table[name] ??= []).push(part[name]);
      for (const name of Object.keys(table)) {
        const values = table[name].flat();
        // Where there is no number is NaN: it fails every comparison, and is sorted last.
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
    // Examples in the order of the first run, then what only later ones have; by run their rows.
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
    // Made on first use.
    this.lowerIds = null;
    this.counts = new Map();
  }

  result(key) {
    return this.results.find((result) => result.key === key);
  }

  /** What lies beside a result unless somebody says: the same objective of another run. */
  partner(result) {
    return this.results.find((r) => r.run !== result.run && r.objective === result.objective);
  }

  /** What lies beside another goal as `other` lies beside `result`; undefined where there is none. */
  besideAsBefore(goal, result, other) {
    const isOfTwo = other.run !== result.run;
    const run = !isOfTwo ? goal.run : other.run !== goal.run ? other.run : result.run;
    const isSame = (objective) => objective === goal.objective;
    const isPair = result.objective === other.objective;
    return this.results.find((r) => r.run === run && r.key !== goal.key && isSame(r.objective) === isPair);
  }

  /** A column of a run at an example; NaN where the run has no such example. */
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

  /** Whether a mask was learnt, of which there is a picture. */
  hasMask(result, n) {
    return this.hasPicture(result.run, n) && !Number.isNaN(this.value(result, "entropy", n));
  }

  /** The run that says what an example is: that of the goal, or the first that knows the example. */
  home(result, n) {
    return this.rows[result.run][n] >= 0 ? result.run : this.rows.findIndex((rows) => rows[n] >= 0);
  }

  /** The name of the class that a run has as an example's `target`, `label` or `prediction`. */
  className(run, name, n) {
    return this.nameOf(run, this.at(run, name, n));
  }

  /** The name of a class; a page that was cut short may have rows of classes that it cannot name. */
  nameOf(run, number) {
    return this.runs[run].classes[number] ?? (number >= 0 ? `class ${number}` : "not known");
  }

  /** What the log-odds of an example are of. */
  question(run, n) {
    return this.className(run, "target", n) + this.runs[run].rather;
  }

  /** Whether two runs name different classes of an example; what one does not know differs not. */
  differs(name, one, two, n) {
    const [first, second] = [one, two].map((run) => this.at(run, name, n));
    if (!(first >= 0 && second >= 0)) return false;
    const names = [one, two].map((run) => this.className(run, name, n));
    // Of a classifier that has no names there are numbers alone.
    return first !== second || (names[0] !== names[1] && !names.includes(`class ${first}`));
  }

  /** Whether two results explain different classes of an example. */
  asksElse({ run }, other, n) {
    if (!other || run === other.run) return false;
    const isAskedOfBoth = this.at(run, "target", n) >= 0 && this.at(other.run, "target", n) >= 0;
    return isAskedOfBoth && (this.differs("target", run, other.run, n) || this.runs[run].rather !== this.runs[other.run].rather);
  }

  /** What another result has more of than a result; of the log-odds of different classes, nothing. */
  difference(result, other, name, n) {
    if (cfx.NUMBERS[name].isOfTarget && this.asksElse(result, other, n)) return NaN;
    return this.value(other, name, n) - this.value(result, name, n);
  }

  tellDifference(result, other, name, n) {
    if (cfx.NUMBERS[name].isOfTarget && this.asksElse(result, other, n)) return "≠ classes";
    return cfx.format(name, this.difference(result, other, name, n), true);
  }

  /** Whether there is such a status: of any run, since a view of one may be taken to another. */
  isStatus(name) {
    return name === "absent" || /^unknown status -?\d+$/.test(name) || this.runs.some((run) => run.statuses.includes(name));
  }

  /** How many examples have each status of a result, in the order of the statuses. */
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

  /** The examples that a view shows, in its order. */
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
      // Of a few thousand names rather than of all examples.
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
        // Of an image that cannot be read nothing is predicted, so nothing is mistaken.
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

  /** What examples are sorted by: a number, or a text. */
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
    // Without a number last, whatever the direction; ties in the order of the data.
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

/** A number with some decimals; what lies in the middle of two rounds to even, as in Python. */
cfx.round = (value, digits) => {
  if (Math.abs(value) > 1e15) return String(value);
  const [, whole, shown, rest] = Math.abs(value).toFixed(20).match(`^(\\d+)\\.(\\d{${digits}})(\\d*)$`);
  const isMiddle = /^50*$/.test(rest) && Number(`${whole}${shown}`.at(-1)) % 2 === 0;
  return (value < 0 ? "−" : "") + (isMiddle ? `${whole}.${shown}` : Math.abs(value).toFixed(digits));
};

/** A number as a text: shares in percent, the sign of log-odds and of differences shown. */
cfx.format = (name, value, isDifference = false) => {
  const { share, signed } = cfx.NUMBERS[name];
  if (!Number.isFinite(value)) return "n/a";
  const sign = (signed || isDifference) && value >= 0 ? "+" : "";
  // Differences of shares are points, and no share of a share.
  return sign + (share ? `${cfx.round(100 * value, 1)} ${isDifference ? "pp" : "%"}` : cfx.round(value, 2));
};

cfx.probability = (logOdds) => 1 / (1 + Math.exp(-logOdds));
