// RunCompare: learning curves of several runs, seeds as bands. Plain ES module; shared.js is prepended to it.

const AXES = [
  { id: "iterations", name: "iterations" },
  { id: "rollouts", name: "rollouts" },
  { id: "tokens", name: "sampled tokens" },
  { id: "time", name: "training time" },
];
// varies: omitted if constant. floor and ceiling: limits of the axis; zero: it includes 0.
const PANELS = [
  { id: "accuracy", name: "Held-out accuracy", unit: "", floor: 0, ceiling: 1 },
  { id: "success_rate", name: "Success rate of the rollouts", unit: "", floor: 0, ceiling: 1 },
  { id: "margin", name: "Margin", unit: "implicit reward r̃", zero: true },
  { id: "kl", name: "KL student‖teacher", unit: "nats per token", zero: true, floor: 0 },
  { id: "kl_teacher", name: "KL teacher‖student", unit: "nats per token", zero: true, floor: 0 },
  { id: "entropy", name: "Entropy", unit: "nats per token", floor: 0 },
  { id: "length", name: "Length", unit: "tokens", floor: 0 },
  { id: "signal_share", name: "Share with a signal", unit: "", floor: 0, ceiling: 1, varies: true },
];
const GRID = 160; // points of a mean over seeds
const MARKS = 12; // markers on a line at most
const NAME_LINE = 15; // distance between the names at the ends of the lines, in pixels
const PHASES = ["seconds_rollout", "seconds_feedback", "seconds_e", "seconds_m"];

// ---- pure functions, tested in node ----

/** The position of each step of a run on an axis: a map from step to x, with 0 before the first; null if unknown. */
export function placesOf(run, axis) {
  const rows = [...run.rows].filter((row) => numberOf(row, "step") !== null).sort((a, b) => a.step - b.step);
  const places = new Map([[0, 0]]);
  let total = 0;
  for (const row of rows) {
    if (axis === "iterations") total = row.step;
    if (axis === "rollouts") total = row.step * (run.rollouts_per_step ?? NaN); // null times a number is 0 in JavaScript
    if (axis === "tokens") total += numberOf(row, "tokens_rollout") ?? NaN;
    if (axis === "time") total += PHASES.reduce((sum, key) => sum + (numberOf(row, key) ?? 0), PHASES.some((key) => numberOf(row, key) !== null) ? 0 : NaN);
    if (!Number.isFinite(total)) return null;
    places.set(row.step, total);
  }
  return places;
}

/** The step at which a branch left one of the other runs; null for any other run, which is drawn from its beginning. */
export function forkOf(run, runs) {
  const { run: name, step } = run.origin ?? {};
  return name !== run.name && runs.some((other) => other.name === name) && Number.isInteger(step) ? step : null;
}

/** The points [x, y] of one run without nulls; with `from`, those of that step and later. */
export function pointsOf(run, key, places, from = 0) {
  const rows = (key === "accuracy" ? (run.evals ?? []) : run.rows).filter(({ step }) => step >= from);
  const points = [];
  for (const row of rows) {
    const [x, y] = [places?.get(row.step), numberOf(row, key)];
    if (x !== undefined && y !== null) points.push([x, y]);
  }
  return points.sort((a, b) => a[0] - b[0]);
}

/** The value at x on the line through sorted points; null outside their range. */
export function valueAt(points, x) {
  if (points.length === 0 || x < points[0][0] || x > points.at(-1)[0]) return null;
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle;
    else high = middle;
  }
  const [[x0, y0], [x1, y1]] = [points[low], points[high]];
  return x1 === x0 ? y0 : y0 + ((x - x0) / (x1 - x0)) * (y1 - y0);
}

/** Mean and range over seeds at points where every seed has a value: beyond the shortest run the mean would jump. */
export function bandOf(lines, count = GRID) {
  const filled = lines.filter((points) => points.length > 0);
  if (filled.length === 0) return [];
  const low = Math.max(...filled.map((points) => points[0][0]));
  const high = Math.min(...filled.map((points) => points.at(-1)[0]));
  if (low > high) return [];
  const known = [...new Set(filled.flatMap((points) => points.map(([x]) => x)))].filter((x) => x >= low && x <= high).sort((a, b) => a - b);
  const xs = known.length <= count ? known : Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
  return xs.map((x) => {
    const values = filled.map((points) => valueAt(points, x));
    return { x, mean: values.reduce((sum, value) => sum + value, 0) / values.length, low: Math.min(...values), high: Math.max(...values) };
  });
}

/** Runs by method, in order of appearance, each with its place in the palette's styles. */
export function methodsOf(runs, slots = {}) {
  const methods = new Map();
  for (const run of runs) {
    if (!methods.has(run.method)) methods.set(run.method, []);
    methods.get(run.method).push(run);
  }
  return [...methods].map(([name, members], i) => ({ name, runs: members, slot: (slots[name] ?? i) % PALETTE.styles.length }));
}

/** Corners of a regular polygon, the first at the top. */
function corners(count) {
  const angle = (i) => (2 * Math.PI * i) / count;
  return Array.from({ length: count }, (_, i) => [1.25 * Math.sin(angle(i)), -1.25 * Math.cos(angle(i))]);
}

/** The outline of a style's marker around a point. */
export function markerPath(slot, x, y, r = 3.6) {
  const points = {
    circle: null,
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    diamond: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    "triangle-up": [[0, -1.2], [1.2, 1], [-1.2, 1]],
    "triangle-down": [[0, 1.2], [1.2, -1], [-1.2, -1]],
    cross: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
    bowtie: [[-1.2, -1], [1.2, 1], [1.2, -1], [-1.2, 1]],
    pentagon: corners(5),
    hexagon: corners(6),
    star: corners(10).map(([dx, dy], i) => (i % 2 ? [dx / 2, dy / 2] : [dx, dy])),
  }[PALETTE.styles[slot][2].replace("-open", "")];
  const at = ([dx, dy]) => `${(x + r * dx).toFixed(1)} ${(y + r * dy).toFixed(1)}`;
  return points ? `M${points.map(at).join("L")}Z` : `M${at([-1, 0])}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
}

/** Places as near to the wanted ones as a distance of `gap` between neighbours and the bounds allow, in the same order. */
export function spread(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b] || a - b);
  const room = Math.min(gap, (high - low) / Math.max(1, wanted.length - 1));
  const places = Array(wanted.length);
  let least = low;
  for (const i of order) least = (places[i] = Math.max(wanted[i], least)) + room;
  let most = high;
  for (const i of order.reverse()) most = (places[i] = Math.min(places[i], most)) - room;
  return places;
}

/** Start, final and best accuracy of each run of a method, averaged over its runs; null without evaluations. */
export function summaryOf(runs) {
  const all = runs.map((run) => pointsOf(run, "accuracy", placesOf(run, "iterations")).map(([, y]) => y)).filter((ys) => ys.length > 0);
  if (all.length === 0) return null;
  const over = (pick) => {
    const values = all.map(pick);
    return { mean: values.reduce((sum, value) => sum + value, 0) / values.length, low: Math.min(...values), high: Math.max(...values) };
  };
  return { start: over((ys) => ys[0]), final: over((ys) => ys.at(-1)), best: over((ys) => Math.max(...ys)), gain: over((ys) => ys.at(-1) - ys[0]) };
}

// ---- the view ----

class RunCompare extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-rc");
    this.cursor = null; // x under the pointer or the arrow keys
    this.head = element("div", "vpd-head");
    this.controls = element("div", "vpd-tools vpd-rc-controls");
    this.table = element("div", "vpd-rc-table");
    this.stage = element("div", "vpd-rc-stage");
    this.makeHome(this.stage, "group", "learning curves");
    this.status = statusLine("vpd-status vpd-rc-status");
    this.root.append(this.head, this.table, this.controls, this.stage, this.status);
    this.listen(this.stage, "pointermove", (event) => this.onPointer(event));
    this.listen(this.stage, "pointerleave", () => this.moveTo(null));
    this.listen(this.stage, "click", (event) => this.onClick(event));
    for (const name of ["runs", "axis", "hidden", "title"]) this.hear(`change:${name}`, () => this.renew());
    this.hear("change:selected", () => this.renew());
    this.watch(this.root);
    this.renew();
    this.draw();
  }

  renew() {
    this.fresh = true;
    this.schedule();
  }

  draw() {
    const width = Math.floor(this.root.clientWidth);
    if (!this.fresh && width === this.width) return;
    this.fresh = false;
    this.width = width;
    this.runs = this.model.get("runs") ?? [];
    this.methods = methodsOf(this.runs, this.model.get("slots") ?? {});
    this.axes = AXES.filter(({ id }) => this.runs.length && this.runs.every((run) => placesOf(run, id) !== null));
    this.axis = this.axes.find(({ id }) => id === this.model.get("axis")) ?? this.axes[0];
    const hidden = new Set(this.model.get("hidden") ?? []);
    this.shown = this.methods.filter(({ name }) => !hidden.has(name));
    this.places = new Map(this.runs.map((run) => [run.name, this.axis ? placesOf(run, this.axis.id) : null]));
    this.forks = this.forksOf(this.shown.flatMap(({ runs }) => runs));
    this.drawHead();
    this.drawTable(hidden);
    if (this.width > 60) this.drawPanels();
    this.showCursor();
  }

  /** Branches whose origin is shown too: run name -> {step, from}. Up to there they share the origin's line. */
  forksOf(runs) {
    const found = runs.map((run) => [run, forkOf(run, runs)]).filter(([, step]) => step !== null);
    return new Map(found.map(([run, step]) => [run.name, { step, from: run.origin.run, x: this.places.get(run.name)?.get(step) }]));
  }

  drawHead() {
    const parts = [element("div", "vpd-title", clean(this.model.get("title")) || "Runs compared")];
    parts.push(element("span", "vpd-mark", `${counted(this.runs.length, "run")}, ${counted(this.methods.length, "method")}`));
    const rows = () => this.runs.flatMap(({ name, method, seed, rows: steps }) => steps.map((row) => ({ run: name, method, seed, ...row })));
    if (this.runs.length) parts.push(saveCorner(() => this.model.get("title") || "runs", rows, this.stage));
    this.head.replaceChildren(...parts);
    const pick = choice(this.axes, this.axis?.id, (axis) => this.tell({ axis }));
    const note = this.axis?.id === "time" ? [element("span", "vpd-caps", "evaluation time excluded")] : [];
    const hint = element("span", "vpd-hint", "← → move · ↑ ↓ run · X axis · Esc leaves");
    const label = element("span", "vpd-caps", "aligned by");
    this.controls.replaceChildren(...(this.axes.length > 1 ? [label, pick, ...note] : []), hint);
  }

  /** A row per method: its line style, its seeds, its accuracy at the start and the end. */
  drawTable(hidden) {
    const header = ["method", "runs (seeds)", "start", "final", "best", "gain", "time"];
    const table = element("div", "vpd-rc-grid");
    for (const [i, name] of header.entries()) table.append(element("span", `vpd-caps${i > 1 ? " vpd-rc-figure" : ""}`, name));
    const share = (one) => (one ? percent(one.mean) : "–");
    const range = (one) => (one && one.high - one.low > 5e-4 ? `${percent(one.low)}–${percent(one.high)}`.replaceAll(" %", "") : "");
    for (const method of this.methods) {
      const summary = summaryOf(method.runs);
      const name = element("button", `vpd-rc-method${hidden.has(method.name) ? " vpd-rc-off" : ""}`);
      name.type = "button";
      name.tabIndex = -1;
      name.title = "hide or show this method";
      name.setAttribute("aria-pressed", String(!hidden.has(method.name)));
      name.append(lineKey(method.slot), clean(method.name, 60));
      name.addEventListener("click", () => this.toggle(method.name));
      const seeds = element("span", "vpd-rc-seeds");
      for (const run of method.runs) {
        const chip = element("button", "vpd-rc-seed", run.seed === null || run.seed === undefined ? clean(run.name, 24) : String(run.seed));
        chip.type = "button";
        chip.tabIndex = -1;
        chip.title = clean(run.name, 200);
        chip.setAttribute("aria-pressed", String(run.name === this.model.get("selected")));
        chip.addEventListener("click", () => this.select(run.name));
        seeds.append(chip);
      }
      table.append(name, seeds);
      for (const key of ["start", "final", "best"]) table.append(figureCell(share(summary?.[key]), range(summary?.[key])));
      table.append(figureCell(summary ? `${brief(Number((100 * summary.gain.mean).toFixed(1)), true)} points` : "–", ""));
      const seconds = method.runs.map((run) => [...(placesOf(run, "time") ?? new Map([[0, NaN]])).values()].at(-1));
      table.append(figureCell(duration(seconds.reduce((sum, value) => sum + value, 0) / seconds.length), ""));
    }
    this.table.replaceChildren(table);
  }

  drawPanels() {
    this.panels = [];
    const nodes = [];
    for (const panel of PANELS) {
      const methods = this.shown
        .map((method) => {
          const lines = method.runs.map((run) => ({ run, points: pointsOf(run, panel.id, this.places.get(run.name), this.forks.get(run.name)?.step) }));
          return { ...method, lines: lines.filter(({ points }) => points.length), band: bandOf(lines.map(({ points }) => points)) };
        })
        .filter(({ lines }) => lines.length);
      const values = new Set(panel.varies ? methods.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map(([, y]) => y))) : []);
      if (methods.length && (!panel.varies || values.size > 1)) this.panels.push({ ...panel, methods });
    }
    if (this.panels.length === 0) {
      const why = this.shown.length ? "No iterations" : this.runs.length ? "All methods are hidden" : "No runs";
      this.stage.replaceChildren(element("div", "vpd-empty", why));
      return;
    }
    const xs = this.panels.flatMap(({ methods }) => methods.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map(([x]) => x))));
    this.reach = bounds(xs);
    if (this.reach[0] === this.reach[1]) this.reach = [this.reach[0] - 1, this.reach[1] + 1];
    const across = this.width >= 1080 ? 3 : this.width >= 640 ? 2 : 1;
    this.stage.style.setProperty("--across", across);
    this.panels.forEach((panel, i) => {
      const first = i === 0;
      const width = first ? this.width : Math.floor((this.width - 22 * (across - 1)) / across);
      nodes.push(this.drawPanel(panel, width, first ? Math.max(230, NAME_LINE * panel.methods.length + 12) : 132, first));
    });
    this.stage.replaceChildren(...nodes);
    this.stage.setAttribute("aria-label", `Learning curves of ${counted(this.runs.length, "run")}. Left and right arrows move, up and down select a run, X changes the axis, Escape leaves.`);
  }

  drawPanel(panel, width, height, first) {
    const values = panel.methods.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map(([, y]) => y)));
    const axis = axisOf(values, { ...panel, count: first ? 5 : 3 });
    const left = labelRoom(axis);
    const names = first ? Math.min(150, Math.max(...panel.methods.map(({ name }) => clean(name, 20).length)) * 7 + 22) : 10;
    const right = width - names;
    const x = (panel.x = scaleOf(this.reach, [left + 4, right - 4]));
    const y = (panel.y = scaleOf(axis.domain, [height - 5, 6]));
    const svg = shape("svg", { width, height: height + UNDER, class: "vpd-chart", "aria-hidden": "true", "data-panel": panel.id });
    const time = this.axis.id === "time";
    const unit = time ? [1, 60, 3600].find((one) => this.reach[1] / one < 180) ?? 3600 : 1;
    const step = niceStep((this.reach[1] - this.reach[0]) / unit, Math.max(2, Math.floor((right - left) / 80)), this.axis.id !== "time") * unit;
    const across = ticks(this.reach[0] / unit, this.reach[1] / unit, step / unit).map((tick) => [x(tick * unit), tickLabel(tick, step / unit)]);
    const units = { 1: "s", 60: "min", 3600: "h" };
    const under = time ? `${this.axis.name} (${units[unit]})` : this.axis.name;
    drawAxes(svg, { left, right, height, axis, y, across, under });
    this.drawForks(svg, x, height, first);
    const chosen = this.model.get("selected");
    // Solid lines first: where two are equal, the dashed one leaves gaps.
    const solid = ({ slot }) => PALETTE.styles[slot][1].length === 0;
    const ordered = [...panel.methods].sort((a, b) => solid(b) - solid(a));
    for (const method of ordered) this.drawMethod(svg, method, x, y, chosen);
    if (first) this.nameLines(svg, panel, right, y, height);
    panel.marks = shape("g", {});
    svg.append(panel.marks);
    const box = element("div", `vpd-rc-panel${first ? " vpd-rc-first" : ""}`);
    const name = element("div", "vpd-rc-name", panel.name);
    name.style.paddingLeft = `${left}px`;
    if (panel.unit) name.append(element("span", "vpd-unit", ` ${panel.unit}`));
    box.append(name, svg);
    panel.svg = svg;
    panel.range = [left, right];
    return box;
  }

  /** A dashed line where branches left their origin. */
  drawForks(svg, x, height, first) {
    const forks = new Map();
    for (const [name, { step, from, x: at }] of this.forks) {
      if (at === undefined) continue;
      if (!forks.has(at)) forks.set(at, { step, names: [] });
      forks.get(at).names.push(`${clean(name, 60)} from ${clean(from, 60)}`);
    }
    for (const [at, { step, names }] of forks) {
      const line = shape("path", { d: `M${x(at).toFixed(1)} 0V${height}`, class: "vpd-rc-fork", "data-fork": step });
      line.append(shape("title", {}, `after iteration ${step}: ${names.join(", ")}`));
      svg.append(line);
      if (first) svg.append(shape("text", { x: (x(at) + 5).toFixed(1), y: height - 7, class: "vpd-rc-forkname" }, `fork at ${step}`));
    }
  }

  drawMethod(svg, { lines, band, slot }, x, y, chosen) {
    const at = (value, scale) => scale(value).toFixed(1);
    const several = lines.length > 1;
    const add = (d, className, more = {}) => svg.append(inStyle(shape("path", { d, class: className, ...more }), slot));
    if (several && band.length > 1) {
      const over = band.map((one) => `${at(one.x, x)} ${at(one.high, y)}`);
      const under = [...band].reverse().map((one) => `${at(one.x, x)} ${at(one.low, y)}`);
      add(`M${[...over, ...under].join("L")}Z`, "vpd-rc-band");
    }
    for (const { run, points } of lines) {
      const own = run.name === chosen;
      if (!several || own) continue;
      const kept = thin(points.map(([, value]) => value), 400).map((i) => points[i]);
      add(pathOf(kept.map(([px]) => x(px)), kept.map(([, py]) => y(py))), "vpd-line vpd-rc-line vpd-rc-seedline");
    }
    if (band.length) {
      add(pathOf(band.map((one) => x(one.x)), band.map((one) => y(one.mean))), "vpd-line vpd-rc-line", { "data-method": slot });
      // Different methods are marked at different points, so that equal curves both show.
      const every = Math.max(1, Math.ceil(band.length / MARKS));
      const marked = band.filter((_, i) => i % every === slot % every).map((one) => markerPath(slot, x(one.x), y(one.mean)));
      add(marked.join(""), markerClass(slot));
    }
    for (const { run, points } of lines.filter(({ run: one }) => one.name === chosen)) {
      const d = pathOf(points.map(([px]) => x(px)), points.map(([, py]) => y(py)));
      svg.append(shape("path", { d, class: "vpd-line vpd-rc-chosen-back" }));
      add(d, "vpd-line vpd-rc-line vpd-rc-chosen", { "data-run": run.name });
    }
  }

  /** Names at the ends of the lines, pushed apart where they would overlap; a hairline leads from each to its line. */
  nameLines(svg, panel, right, y, height) {
    const ends = panel.methods.map(({ name, slot, lines, band }) => ({ name, slot, end: y(band.length ? band.at(-1).mean : lines[0].points.at(-1)[1]) }));
    const places = spread(ends.map(({ end }) => end), NAME_LINE, 6, height - 2);
    ends.forEach(({ name, slot, end }, i) => {
      svg.append(shape("path", { d: `M${right - 2} ${end.toFixed(1)}L${right + 6} ${places[i].toFixed(1)}`, class: "vpd-rc-lead" }));
      const label = shape("text", { x: right + 9, y: places[i].toFixed(1), dy: "0.34em", class: "vpd-rc-end" }, clean(name, 20));
      svg.append(inStyle(label, slot));
    });
  }

  // -- cursor and selection --

  showCursor() {
    if (!this.panels?.length) return;
    const lead = this.panels[0];
    for (const panel of this.panels) {
      panel.marks.replaceChildren();
      if (this.cursor === null) continue;
      const x = panel.x(this.cursor);
      panel.marks.append(shape("path", { d: `M${x.toFixed(1)} 0V${panel.svg.height.baseVal.value - 32}`, class: "vpd-rc-cursor" }));
      for (const { band, slot } of panel.methods) {
        const value = valueAt(band.map((one) => [one.x, one.mean]), this.cursor);
        if (value !== null) panel.marks.append(inStyle(shape("circle", { cx: x, cy: panel.y(value), r: 3.5, class: "vpd-rc-dot" }), slot));
      }
    }
    const panel = this.over ?? lead;
    const chosen = this.model.get("selected");
    if (this.cursor === null) {
      this.status.textContent = chosen ? `run ${clean(chosen, 80)} selected` : `${counted(this.runs.length, "run")}, aligned by ${this.axis?.name ?? "nothing"}`;
      return;
    }
    const where = this.axis.id === "time" ? duration(this.cursor) : `${Math.round(this.cursor)} ${this.axis.name}`;
    const parts = panel.methods.map(({ name, band }) => {
      const [mean, low, high] = ["mean", "low", "high"].map((key) => valueAt(band.map((one) => [one.x, one[key]]), this.cursor));
      if (mean === null) return `${clean(name, 40)} –`;
      return `${clean(name, 40)} ${brief(mean)}${high - low > 1e-9 ? ` [${brief(low)}, ${brief(high)}]` : ""}`;
    });
    this.status.textContent = `${panel.name} at ${where}: ${parts.join(" · ")}`;
  }

  panelAt(event) {
    const svg = event.target.closest?.("svg[data-panel]");
    return this.panels?.find((panel) => panel.svg === svg) ?? null;
  }

  onPointer(event) {
    const panel = this.panelAt(event);
    if (!panel) return this.moveTo(null);
    const x = panel.x.invert(event.clientX - panel.svg.getBoundingClientRect().left);
    this.over = panel;
    this.moveTo(Math.min(Math.max(x, this.reach[0]), this.reach[1]));
  }

  /** The run whose line is nearest to the pointer. */
  onClick(event) {
    const panel = this.panelAt(event);
    if (!panel || copying(this.root)) return;
    const frame = panel.svg.getBoundingClientRect();
    const x = panel.x.invert(event.clientX - frame.left);
    let best = null;
    for (const { lines } of panel.methods) {
      for (const { run, points } of lines) {
        const value = valueAt(points, x);
        const distance = value === null ? Infinity : Math.abs(panel.y(value) - (event.clientY - frame.top));
        if (distance < (best?.distance ?? 24)) best = { run, distance };
      }
    }
    if (best) this.select(best.run.name);
  }

  select(name) {
    this.tell({ selected: name === this.model.get("selected") ? null : name });
  }

  toggle(method) {
    const hidden = this.model.get("hidden") ?? [];
    this.tell({ hidden: hidden.includes(method) ? hidden.filter((name) => name !== method) : [...hidden, method] });
  }

  moveTo(x) {
    if (x === this.cursor) return;
    this.cursor = x;
    if (x === null) this.over = null;
    this.showCursor();
  }

  nextRun(by) {
    const names = this.shown.flatMap(({ runs }) => runs.map(({ name }) => name));
    const at = names.indexOf(this.model.get("selected"));
    if (names.length) this.tell({ selected: names[at < 0 ? (by > 0 ? 0 : names.length - 1) : (at + by + names.length) % names.length] });
  }

  onKey(event) {
    if (!this.panels?.length) return;
    const [low, high] = this.reach;
    const by = (count) => () => {
      const one = this.axis.id === "iterations" ? 1 : (high - low) / 100;
      this.moveTo(Math.min(Math.max((this.cursor ?? high) + count * one, low), high));
    };
    const nextAxis = () => this.tell({ axis: this.axes[(this.axes.indexOf(this.axis) + 1) % this.axes.length].id });
    takeKeys(
      event,
      {
        ArrowLeft: by(-1), ArrowRight: by(1), PageUp: by(-10), PageDown: by(10), Home: () => this.moveTo(low), End: () => this.moveTo(high),
        ArrowUp: () => this.nextRun(-1), ArrowDown: () => this.nextRun(1), x: nextAxis, X: nextAxis,
        Escape: () => (this.cursor === null ? this.tell({ selected: null }) : this.moveTo(null)),
      },
      () => this.cursor !== null || this.model.get("selected") !== null,
    );
  }
}

/** A node in the colour and with the dashes of a style. */
function inStyle(node, slot) {
  const [colour, dash] = PALETTE.styles[slot];
  node.style.setProperty("--c", `var(--vpd-${colour})`);
  node.style.setProperty("--dash", dash.join(" ") || "none");
  return node;
}

function markerClass(slot) {
  return `vpd-rc-marker${PALETTE.styles[slot][2].endsWith("-open") ? " vpd-rc-open" : ""}`;
}

function lineKey(slot) {
  const swatch = shape("svg", { width: 44, height: 12, "aria-hidden": "true" });
  swatch.append(inStyle(shape("path", { d: "M1 6H43", class: "vpd-line vpd-rc-line" }), slot));
  swatch.append(inStyle(shape("path", { d: markerPath(slot, 22, 6), class: markerClass(slot) }), slot));
  return swatch;
}

function figureCell(value, range) {
  const cell = element("span", "vpd-rc-figure vpd-num", value);
  if (range) cell.append(element("span", "vpd-caps", ` ${range}`));
  return cell;
}

export default widgetOf(RunCompare);
