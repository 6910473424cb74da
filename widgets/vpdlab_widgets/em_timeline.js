// EMTimeline: stacked SVG panels over one iteration axis. Plain ES module, no imports.

// zero: the axis holds 0. floor and ceiling: the axis never passes them.
export const PANELS = [
  {
    id: "success", name: "Success", unit: "", height: 118, zero: true, floor: 0, ceiling: 1, evals: true,
    series: [
      { key: "success_rate", name: "success rate", colour: "orange" },
      { key: "reward", name: "mean reward", colour: "blue" },
    ],
  },
  {
    id: "margin", name: "Margin", unit: "implicit reward r̃", height: 92, zero: true,
    series: [
      { key: "margin", name: "margin", colour: "orange" },
      { key: "delta", name: "shift δ", colour: "blue" },
    ],
  },
  {
    id: "trust", name: "Trust region", unit: "nats", height: 92, zero: true, floor: 0, target: true,
    series: [
      { key: "kl", name: "KL student‖teacher", colour: "orange" },
      { key: "teacher_drift", name: "teacher drift", colour: "blue" },
    ],
  },
  {
    id: "entropy", name: "Entropy", unit: "nats", height: 76, floor: 0,
    series: [{ key: "entropy", name: "entropy", colour: "orange" }],
  },
  {
    id: "length", name: "Length", unit: "tokens", height: 76, floor: 0,
    series: [{ key: "length", name: "response length", colour: "orange" }],
  },
];

// What the readout can hold, in this order; a key that no row has is left out.
const READOUT = [
  ["success_rate", "success rate", ""],
  ["reward", "mean reward", ""],
  ["accuracy", "held-out", ""],
  ["margin", "margin", ""],
  ["delta", "shift δ", ""],
  ["kl", "KL", "nats"],
  ["teacher_drift", "teacher drift", "nats"],
  ["beta", "β", ""],
  ["entropy", "entropy", "nats"],
  ["length", "length", "tokens"],
  ["e_loss", "E loss", ""],
  ["m_loss", "M loss", ""],
  ["n_success", "successes", ""],
  ["n_failure", "failures", ""],
  ["signal_share", "signal share", ""],
  ["truncated", "truncated", ""],
  ["skipped", "skipped", ""],
  ["grad_norm", "grad norm", ""],
];

const MAX_POINTS = 2000; // more than this is thinned before drawing
const RIGHT = 16;
const EDGE = 8; // room between the first or last point and the frame
const AXIS = 36; // under the last panel: tick labels and the axis name
const DIAMOND = 4.5;

// ---- pure functions, tested in node ----

/** A number that can be drawn, or null. */
export function numberOf(row, key) {
  const value = row[key];
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** Rows in the order of their steps; where a step stands twice (a resumed run), the later row counts. */
export function orderRows(rows) {
  const byStep = new Map();
  for (const row of rows) if (numberOf(row, "step") !== null) byStep.set(row.step, row);
  return [...byStep.values()].sort((a, b) => a.step - b.step);
}

/** The distance between ticks: 1, 2 or 5 times a power of ten, `count` intervals at most. */
export function niceStep(span, count, integer = false) {
  if (!(span > 0)) return 1;
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= raw * (1 - 1e-9));
  const step = factor * power;
  return integer ? Math.max(1, Math.round(step)) : step;
}

/** Multiples of `step` inside [low, high]. */
export function ticks(low, high, step) {
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const decimals = Math.max(0, Math.min(12, -Math.floor(Math.log10(step)) + 1));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toFixed(decimals)));
}

/** The axis of one panel: a domain that ends on ticks. Values that are null take no part. */
export function axisOf(values, { zero = false, floor = -Infinity, ceiling = Infinity, count = 3 } = {}) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  // A rate has no axis over 1, a length none under 0; but data beyond such a limit are shown.
  const [lowest, highest] = [Math.min(floor, low), Math.max(ceiling, high)];
  const bounded = (value) => Math.min(Math.max(value, lowest), highest);
  if (zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  if (high - low < 1e-12 * Math.max(1, Math.abs(high))) {
    const room = Math.abs(high) * 0.1 || 1; // a flat line still needs an axis
    [low, high] = [bounded(low - room), bounded(high + room)];
  }
  const step = niceStep(high - low, count);
  const domain = [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step].map(bounded);
  return { domain, step, ticks: ticks(domain[0], domain[1], step) };
}

/** A linear map from a domain to a range; `invert` goes back. */
export function scaleOf([d0, d1], [r0, r1]) {
  const slope = d1 === d0 ? 0 : (r1 - r0) / (d1 - d0);
  const scale = (value) => r0 + (value - d0) * slope;
  scale.invert = (position) => (slope === 0 ? d0 : d0 + (position - r0) / slope);
  return scale;
}

/** An SVG path; null in `ys` is a gap, and a point alone between gaps is drawn as a dot (round line caps). */
export function pathOf(xs, ys) {
  let path = "";
  let open = false;
  for (let i = 0; i < ys.length; i++) {
    if (ys[i] === null) {
      open = false;
      continue;
    }
    const point = `${xs[i].toFixed(1)} ${ys[i].toFixed(1)}`;
    const alone = !open && (i + 1 >= ys.length || ys[i + 1] === null);
    path += alone ? `M${point}h0` : `${open ? "L" : "M"}${point}`;
    open = true;
  }
  return path;
}

/** Indices to draw: per bucket its first, lowest, highest and last value and its first gap, so no peak is lost. */
export function thin(values, buckets) {
  const n = values.length;
  if (n <= 4 * buckets) return values.map((_, i) => i);
  const kept = [];
  for (let bucket = 0; bucket < buckets; bucket++) {
    const start = Math.floor((bucket * n) / buckets);
    const end = Math.floor(((bucket + 1) * n) / buckets);
    const chosen = new Set([start, end - 1]);
    let low = -1;
    let high = -1;
    let gap = -1;
    for (let i = start; i < end; i++) {
      if (values[i] === null) {
        if (gap < 0) gap = i;
        continue;
      }
      if (low < 0 || values[i] < values[low]) low = i;
      if (high < 0 || values[i] > values[high]) high = i;
    }
    for (const i of [low, high, gap]) if (i >= 0) chosen.add(i);
    kept.push(...[...chosen].sort((a, b) => a - b));
  }
  return kept;
}

/** The index of the value nearest to `target` in an ascending list. */
export function nearest(sorted, target) {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < target) low = middle + 1;
    else high = middle;
  }
  return low > 0 && target - sorted[low - 1] <= sorted[low] - target ? low - 1 : low;
}

/** A tick's label, with as many decimals as its step needs. */
export function tickLabel(value, step) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (step < 1e-4 || size >= 1e7) return sign + size.toExponential(1).replace("e+", "e").replace(".0e", "e");
  if (step >= 1000 && size >= 10000) return `${sign}${Number((size / 1000).toPrecision(6))}k`;
  return sign + size.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

/** A number as the readout shows it: six significant digits, a dash for null. */
export function valueLabel(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return clean(String(value), 60);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
}

/** Text from outside without control and direction-changing characters, and not endless. */
export function clean(text, limit = 400) {
  const safe = String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, " ");
  return safe.length > limit ? `${safe.slice(0, limit - 1)}…` : safe;
}

/** The notes of a row (text, or phase -> reason) as one line. */
export function notesOf(row) {
  const notes = row.notes;
  if (!notes) return "";
  if (typeof notes !== "object") return clean(notes);
  const parts = Object.entries(notes).filter(([, reason]) => reason);
  return clean(parts.map(([phase, reason]) => (Array.isArray(notes) ? reason : `${phase}: ${reason}`)).join("; "));
}

// ---- the view ----

function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function shape(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function legendItem(kind, colour, name) {
  const item = element("span", "vpd-emt-key");
  const swatch = shape("svg", { width: 16, height: 12, viewBox: "0 0 16 12", "aria-hidden": "true" });
  if (kind === "line") swatch.append(shape("path", { d: "M1 6H15", class: `vpd-emt-line vpd-emt-${colour}` }));
  if (kind === "target") swatch.append(shape("path", { d: "M0 6H16", class: "vpd-emt-target" }));
  if (kind === "e-step") {
    swatch.append(shape("path", { d: "M8 0V12", class: "vpd-emt-frame" }));
    swatch.append(shape("path", { d: "M4 0h8L8 6z", class: "vpd-emt-flag" }));
  }
  if (kind === "eval") {
    swatch.append(shape("path", { d: "M8 0V12M6 .5H10M6 11.5H10", class: "vpd-emt-whisker" }));
    swatch.append(shape("path", { d: "M4 6L8 2L12 6L8 10Z", class: "vpd-emt-eval" }));
  }
  item.append(swatch, name);
  return item;
}

class View {
  constructor(model, el) {
    this.model = model;
    this.cursor = null; // index into this.data
    this.frame = 0;
    this.width = 0;
    this.root = element("div", "vpd vpd-emt");
    this.head = element("div", "vpd-emt-head");
    this.reason = element("div", "vpd-emt-reason");
    this.stage = element("div", "vpd-emt-stage");
    this.stage.tabIndex = 0;
    this.stage.setAttribute("role", "group");
    this.stage.setAttribute("aria-roledescription", "timeline");
    this.readout = element("div", "vpd-emt-readout");
    this.readout.setAttribute("role", "status");
    this.root.append(this.head, this.reason, this.stage, this.readout);
    el.append(this.root);

    this.events = new AbortController();
    const listen = (name, handler) => this.stage.addEventListener(name, handler, { signal: this.events.signal });
    listen("pointermove", (event) => this.moveTo(this.indexAt(event.clientX)));
    listen("pointerdown", (event) => this.moveTo(this.indexAt(event.clientX)));
    listen("pointerleave", () => this.moveTo(null));
    listen("click", (event) => this.onClick(event));
    listen("keydown", (event) => this.onKey(event));
    listen("blur", () => this.moveTo(null));

    this.handlers = {
      "change:rows": () => this.takeRows(),
      "change:evals": () => this.schedule(),
      "change:title": () => this.schedule(),
      "change:state": () => this.schedule(),
      "change:reason": () => this.schedule(),
      "change:total": () => this.schedule(),
      "change:kl_target": () => this.schedule(),
      "change:selected": () => this.showCursor(),
      "msg:custom": (message) => this.onMessage(message),
    };
    for (const [name, handler] of Object.entries(this.handlers)) model.on(name, handler);
    this.resize = new ResizeObserver(() => {
      const width = Math.floor(this.stage.clientWidth);
      if (width === this.width) return;
      this.schedule();
    });
    this.resize.observe(this.stage);
    this.takeRows();
    this.draw(); // at once, so that a static reader finds the picture complete
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.events.abort();
    this.resize.disconnect();
    for (const [name, handler] of Object.entries(this.handlers)) this.model.off(name, handler);
  }

  takeRows() {
    this.rows = this.model.get("rows");
    this.schedule();
  }

  // New rows come as messages and are kept here, not in the model: what a view sets in the model is echoed to
  // Python with the next selection, and would put an older list over the one that training is filling.
  onMessage(message) {
    if (message?.kind !== "rows") return;
    if (this.rows.length < message.from) {
      this.model.send({ kind: "resync" });
      return;
    }
    this.rows = this.rows.slice(0, message.from).concat(message.rows);
    this.schedule();
  }

  schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  // -- drawing --

  draw() {
    this.width = Math.floor(this.stage.clientWidth);
    const followed = this.cursor === null ? null : this.data[this.cursor].step;
    this.data = orderRows(this.rows);
    this.steps = this.data.map((row) => row.step);
    this.evals = orderRows(this.model.get("evals")).filter((point) => numberOf(point, "accuracy") !== null);
    this.evalAt = new Map(this.evals.map((point) => [point.step, point]));
    this.eSteps = this.data.filter((row) => numberOf(row, "e_loss") !== null).map((row) => row.step);
    this.cursor = followed === null || this.data.length === 0 ? null : nearest(this.steps, followed);
    this.drawHead();
    if (this.width < 60) return; // hidden: the observer calls again
    this.drawPanels();
    this.buildReadout();
    this.showCursor();
  }

  drawHead() {
    const title = clean(this.model.get("title"));
    const state = this.model.get("state");
    const keys = element("div", "vpd-emt-keys");
    if (this.eSteps.length) keys.append(legendItem("e-step", "", "E-step"));
    const parts = [element("div", "vpd-emt-title", title || "Timeline")];
    if (state) parts.push(element("span", `vpd-emt-badge vpd-emt-${state}`, state));
    this.head.replaceChildren(...parts, keys);
    this.reason.textContent = clean(this.model.get("reason"));
    this.reason.hidden = !this.reason.textContent;
    this.reason.classList.toggle("vpd-emt-failed", state === "failed");
    const what = title ? `Timeline of ${title}` : "Timeline of a run";
    this.stage.setAttribute(
      "aria-label",
      `${what}, ${this.data.length} iterations. Left and right arrows move, Home and End jump, Enter selects, Escape clears.`,
    );
  }

  panelsWithData() {
    return PANELS.map((panel) => {
      const series = panel.series
        .map((one) => ({ ...one, values: this.data.map((row) => numberOf(row, one.key)) }))
        .filter((one) => one.values.some((value) => value !== null));
      return { ...panel, series: mergeEqual(series), evals: panel.evals ? this.evals : [] };
    }).filter((panel) => panel.series.length || panel.evals.length);
  }

  drawPanels() {
    this.panels = this.panelsWithData();
    if (this.panels.length === 0) {
      const running = this.model.get("state") === "running";
      this.stage.replaceChildren(element("div", "vpd-emt-empty", running ? "Waiting for the first iteration …" : "No iterations"));
      return;
    }
    const target = this.model.get("kl_target");
    for (const panel of this.panels) {
      const values = panel.series.flatMap((one) => one.values);
      for (const point of panel.evals) for (const key of ["accuracy", "low", "high"]) values.push(numberOf(point, key));
      panel.goal = panel.target && Number.isFinite(target) ? target : null;
      values.push(panel.goal);
      panel.height = Math.round(panel.height * (this.width < 720 ? 0.86 : 1));
      panel.axis = axisOf(values, { ...panel, count: panel.height > 100 ? 4 : 3 });
      panel.labels = panel.axis.ticks.map((tick) => tickLabel(tick, panel.axis.step));
    }
    const longest = Math.max(...this.panels.flatMap((panel) => panel.labels.map((label) => label.length)));
    this.left = Math.max(34, Math.ceil(longest * 6.6) + 14);
    this.scaleX();
    this.stage.replaceChildren(...this.panels.map((panel, i) => this.drawPanel(panel, i === this.panels.length - 1)));
  }

  scaleX() {
    const marks = [...this.steps, ...this.evals.map((point) => point.step)];
    let low = Math.min(...bounds(marks));
    let high = Math.max(...bounds(marks));
    const total = this.model.get("total");
    if (this.model.get("state") === "running" && total > high) high = total;
    if (low === high) [low, high] = [low - 1, high + 1];
    this.x = scaleOf([low, high], [this.left + EDGE, this.width - RIGHT - EDGE]);
    const room = Math.max(2, Math.floor((this.width - this.left - RIGHT) / 70));
    const step = niceStep(high - low, room, true);
    this.xTicks = ticks(low, high, step).map((tick) => [this.x(tick), tickLabel(tick, step)]);
  }

  drawPanel(panel, last) {
    const { width, left } = this;
    const top = 5;
    const bottom = panel.height - 5;
    const y = (panel.y = scaleOf(panel.axis.domain, [bottom, top]));
    const svg = shape("svg", {
      width, height: panel.height + (last ? AXIS : 0), "aria-hidden": "true", "data-panel": panel.id,
    });
    const right = width - RIGHT;
    const grid = this.xTicks.map(([x]) => `M${x.toFixed(1)} 0V${panel.height}`).join("");
    svg.append(shape("path", { d: grid, class: "vpd-emt-grid" }));
    this.drawESteps(svg, panel.height);
    panel.axis.ticks.forEach((tick, i) => {
      const zero = tick === 0 && panel.axis.domain[0] < 0;
      svg.append(shape("path", { d: `M${left} ${y(tick)}H${right}`, class: zero ? "vpd-emt-zero" : "vpd-emt-grid" }));
      svg.append(shape("text", { x: left - 8, y: y(tick), dy: "0.34em", class: "vpd-emt-tick vpd-emt-end" }, panel.labels[i]));
    });
    svg.append(shape("path", { d: `M${left} 0V${panel.height}H${right}`, class: "vpd-emt-frame" }));
    if (panel.goal !== null) svg.append(shape("path", { d: `M${left} ${y(panel.goal)}H${right}`, class: "vpd-emt-target" }));
    for (const one of [...panel.series].reverse()) this.drawSeries(svg, one, y);
    for (const point of panel.evals) this.drawEval(svg, point, y);
    if (last) this.drawAxis(svg, panel.height);
    panel.marks = shape("g", {});
    svg.append(panel.marks);
    const box = element("div", "vpd-emt-panel");
    box.append(this.panelHead(panel), svg);
    return box;
  }

  drawESteps(svg, height) {
    if (this.eSteps.length === 0) return;
    const spacing = (this.x(this.eSteps.at(-1)) - this.x(this.eSteps[0])) / Math.max(1, this.eSteps.length - 1);
    // So dense that lines would make the panel grey: the flags on the edge remain.
    const dense = this.eSteps.length > 1 && spacing < 9;
    const xs = this.eSteps.map((step) => this.x(step).toFixed(1));
    if (!dense) svg.append(shape("path", { d: xs.map((x) => `M${x} 0V${height}`).join(""), class: "vpd-emt-estep" }));
    const half = dense ? Math.max(0.5, Math.min(2, spacing / 3)) : 3.5;
    const flags = xs.map((x) => `M${(x - half).toFixed(1)} 0h${(2 * half).toFixed(1)}l${-half.toFixed(1)} 5z`).join("");
    svg.append(shape("path", { d: flags, class: "vpd-emt-flag" }));
  }

  drawSeries(svg, one, y) {
    const kept = one.values.length > MAX_POINTS ? thin(one.values, Math.ceil(this.width / 2)) : one.values.map((_, i) => i);
    const xs = kept.map((i) => this.x(this.steps[i]));
    const ys = kept.map((i) => (one.values[i] === null ? null : y(one.values[i])));
    const room = (this.width - this.left) / Math.max(1, this.steps.length);
    const colour = `vpd-emt-${one.colour}${room < 2 ? " vpd-emt-fine" : ""}`;
    svg.append(shape("path", { d: pathOf(xs, ys), class: `vpd-emt-line ${colour}`, "data-series": one.key }));
    if (room < 11) return;
    const dots = xs.map((x, i) => (ys[i] === null ? "" : `M${x.toFixed(1)} ${ys[i].toFixed(1)}h0`)).join("");
    svg.append(shape("path", { d: dots, class: `vpd-emt-dots ${colour}` }));
  }

  drawEval(svg, point, y) {
    const x = this.x(point.step);
    const [low, high] = [numberOf(point, "low"), numberOf(point, "high")];
    if (low !== null && high !== null) {
      const d = `M${x} ${y(low)}V${y(high)}M${x - 3.5} ${y(low)}h7M${x - 3.5} ${y(high)}h7`;
      svg.append(shape("path", { d, class: "vpd-emt-whisker" }));
    }
    const d = `M${x - DIAMOND} ${y(point.accuracy)}l${DIAMOND} ${-DIAMOND}l${DIAMOND} ${DIAMOND}l${-DIAMOND} ${DIAMOND}z`;
    svg.append(shape("path", { d, class: "vpd-emt-eval" }));
  }

  drawAxis(svg, height) {
    this.xLabels = this.xTicks.map(([x, label]) => {
      const text = shape("text", { x, y: height + 16, class: "vpd-emt-tick vpd-emt-middle" }, label);
      svg.append(shape("path", { d: `M${x} ${height}v4`, class: "vpd-emt-frame" }), text);
      return { text, x, half: label.length * 3.4 };
    });
    const middle = (this.left + this.width - RIGHT) / 2;
    svg.append(shape("text", { x: middle, y: height + 32, class: "vpd-emt-axis vpd-emt-middle" }, "iteration"));
  }

  panelHead(panel) {
    const head = element("div", "vpd-emt-panel-head");
    head.style.paddingLeft = `${this.left}px`;
    const name = element("span", "vpd-emt-name", panel.name);
    if (panel.unit) name.append(element("span", "vpd-emt-unit", ` ${panel.unit}`));
    head.append(name);
    const keys = element("span", "vpd-emt-keys");
    // One line that says what the panel's own name says needs no key.
    const plainName = panel.series.length === 1 && !panel.evals.length && panel.goal === null;
    if (!plainName) for (const one of panel.series) keys.append(legendItem("line", one.colour, one.name));
    if (panel.evals.length) {
      const interval = panel.evals.some((point) => numberOf(point, "low") !== null);
      keys.append(legendItem("eval", "", interval ? "held-out accuracy with interval" : "held-out accuracy"));
    }
    if (panel.goal !== null) keys.append(legendItem("target", "", `KL target ${valueLabel(panel.goal)}`));
    head.append(keys);
    return head;
  }

  // -- cursor, selection, readout --

  buildReadout() {
    const has = (key) => (key === "accuracy" ? this.evals.length > 0 : this.data.some((row) => numberOf(row, key) !== null));
    const keys = READOUT.filter(([key]) => has(key));
    this.readHead = element("div", "vpd-emt-read-head");
    this.readGrid = element("div", "vpd-emt-read-grid");
    this.readValues = keys.map(([key, name, unit]) => {
      const cell = element("span", `vpd-emt-cell${key === "accuracy" ? " vpd-emt-wide" : ""}`);
      const value = element("span", "vpd-emt-value");
      cell.append(element("span", "vpd-emt-label", unit ? `${name}, ${unit}` : name), " ", value);
      this.readGrid.append(cell, " ");
      return [key, value];
    });
    this.readout.replaceChildren(this.readHead, this.readGrid);
    this.readout.hidden = this.data.length === 0 || this.panels.length === 0;
  }

  showCursor() {
    if (!this.panels?.length) return;
    const selected = this.model.get("selected");
    const chosen = selected === null ? -1 : this.steps.indexOf(selected);
    for (const label of this.xLabels) label.text.removeAttribute("visibility");
    for (const [i, panel] of this.panels.entries()) {
      panel.marks.replaceChildren();
      if (chosen >= 0) this.drawMark(panel, chosen, "vpd-emt-selected", i === this.panels.length - 1);
      if (this.cursor !== null && this.cursor !== chosen) {
        this.drawMark(panel, this.cursor, "vpd-emt-cursor", i === this.panels.length - 1);
      }
    }
    if (this.data.length) this.showReadout(chosen);
  }

  drawMark(panel, index, className, last) {
    const x = this.x(this.steps[index]);
    panel.marks.append(shape("path", { d: `M${x} 0V${panel.height}`, class: className }));
    for (const one of panel.series) {
      const value = one.values[index];
      if (value === null) continue;
      panel.marks.append(shape("circle", { cx: x, cy: panel.y(value), r: 4, class: `vpd-emt-dot vpd-emt-${one.colour}` }));
    }
    if (!last) return;
    const label = String(this.steps[index]);
    const wide = label.length * 7 + 12;
    const at = Math.min(Math.max(x, wide / 2), this.width - wide / 2);
    for (const { text, x: middle, half } of this.xLabels) {
      if (Math.abs(middle - at) < half + wide / 2) text.setAttribute("visibility", "hidden");
    }
    panel.marks.append(
      shape("rect", { x: at - wide / 2, y: panel.height + 3, width: wide, height: 18, rx: 3, class: `${className}-tag` }),
      shape("text", { x: at, y: panel.height + 16, class: `vpd-emt-tag-text vpd-emt-middle` }, label),
    );
  }

  showReadout(chosen) {
    const index = this.cursor ?? (chosen >= 0 ? chosen : this.data.length - 1);
    const row = this.data[index];
    const marks = [];
    if (this.cursor === null && chosen < 0) marks.push("latest");
    if (index === chosen) marks.push("selected");
    if (numberOf(row, "e_loss") !== null) marks.push("E-step");
    // A live run must not talk to a screen reader five times a second.
    this.readout.setAttribute("aria-live", marks[0] === "latest" ? "off" : "polite");
    const parts = [element("span", "vpd-emt-at", `iteration ${row.step}`)];
    for (const mark of marks) parts.push(" ", element("span", "vpd-emt-mark", mark));
    const notes = notesOf(row);
    if (notes) {
      const note = element("span", "vpd-emt-note", notes);
      note.title = notes;
      parts.push(" ", note);
    }
    parts.push(element("span", "vpd-emt-hint", "← → move · Enter selects · Esc clears"));
    this.readHead.replaceChildren(...parts);
    for (const [key, node] of this.readValues) {
      node.textContent = key === "accuracy" ? accuracyLabel(this.evalAt.get(row.step)) : valueLabel(numberOf(row, key));
    }
  }

  indexAt(clientX) {
    if (!this.panels?.length || this.data.length === 0) return null;
    return nearest(this.steps, this.x.invert(clientX - this.stage.getBoundingClientRect().left));
  }

  moveTo(index) {
    if (index === this.cursor) return;
    this.cursor = index;
    this.showCursor();
  }

  select(step) {
    this.model.set("selected", step);
    this.model.save_changes();
  }

  toggle(index) {
    const step = this.steps[index];
    this.select(step === this.model.get("selected") ? null : step);
  }

  onClick(event) {
    if (getSelection()?.toString()) return; // somebody is copying a label
    const index = this.indexAt(event.clientX);
    if (index !== null && event.target.closest("svg")) this.toggle(index);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    if (event.key === "Escape" && this.cursor === null && this.model.get("selected") === null) return; // nothing to leave
    event.stopPropagation(); // a plain `b` would add a cell to the notebook
    const last = this.data.length - 1;
    if (last < 0) return;
    const chosen = this.steps.indexOf(this.model.get("selected"));
    const from = this.cursor ?? (chosen >= 0 ? chosen : null);
    const by = (count) => (from === null ? last : Math.min(Math.max(from + count, 0), last));
    const jump = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowLeft: () => by(-jump),
      ArrowRight: () => by(jump),
      PageUp: () => by(-10),
      PageDown: () => by(10),
      Home: () => 0,
      End: () => last,
    };
    if (moves[event.key]) {
      this.moveTo(moves[event.key]());
    } else if (event.key === "Enter" || event.key === " ") {
      if (from !== null) this.toggle(from);
    } else if (event.key === "Escape") {
      if (this.cursor !== null) this.moveTo(null);
      else this.select(null);
    } else {
      return;
    }
    event.preventDefault();
  }
}

function accuracyLabel(point) {
  if (!point) return "–";
  const [low, high] = [numberOf(point, "low"), numberOf(point, "high")];
  const short = (value) => String(Number(value.toPrecision(4)));
  const interval = low !== null && high !== null ? ` [${short(low)}, ${short(high)}]` : "";
  return short(point.accuracy) + interval;
}

/** With rewards of 0 and 1 the mean reward IS the success rate: one line with both names. */
export function mergeEqual(series) {
  if (series.length !== 2) return series;
  const [a, b] = series;
  const same = a.values.every((value, i) => value === b.values[i] || Math.abs((value ?? NaN) - (b.values[i] ?? NaN)) < 1e-9);
  return same ? [{ ...a, name: `${a.name} = ${b.name}` }] : series;
}

function bounds(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.destroy();
  },
};
