// EMTimeline: stacked SVG panels over one iteration axis. Plain ES module; shared.js is prepended to it.

// varies: omitted if constant. zero: the axis includes 0. floor and ceiling: limits of the axis.
export const PANELS = [
  {
    id: "success", name: "Success", unit: "", height: 118, zero: true, floor: 0, ceiling: 1, evals: true,
    series: [
      { key: "success_rate", name: "success rate", colour: "blue" },
      { key: "reward", name: "mean reward", colour: "grey" },
    ],
  },
  {
    id: "margin", name: "Margin", unit: "implicit reward r̃", height: 92, zero: true,
    series: [
      { key: "margin", name: "margin", colour: "orange" },
      { key: "delta", name: "shift δ", colour: "grey" },
    ],
  },
  {
    id: "trust", name: "Trust region", unit: "nats", height: 92, zero: true, floor: 0, target: true,
    series: [
      { key: "kl", name: "KL student‖teacher", colour: "blue" },
      { key: "kl_teacher", name: "KL teacher‖student", colour: "orange" },
      { key: "teacher_drift", name: "teacher drift", colour: "grey" },
    ],
  },
  {
    id: "beta", name: "β", unit: "trust-region weight", height: 64, varies: true,
    series: [{ key: "beta", name: "β", colour: "grey" }],
  },
  {
    id: "entropy", name: "Entropy", unit: "nats", height: 76, floor: 0,
    series: [{ key: "entropy", name: "entropy", colour: "blue" }],
  },
  {
    id: "length", name: "Length", unit: "tokens", height: 76, floor: 0,
    series: [{ key: "length", name: "response length", colour: "blue" }],
  },
];

const HUES = 6; // colours and marks of probes, em_timeline.css

// The values of the readout, in this order; a key that no row has is omitted.
const READOUT = [
  ["success_rate", "success rate", ""],
  ["reward", "mean reward", ""],
  ["accuracy", "held-out", ""],
  ["margin", "margin", ""],
  ["delta", "shift δ", ""],
  ["kl", "KL", "nats"],
  ["kl_teacher", "KL reverse", "nats"],
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

const ALARM = 24; // height of a kind of warning: its name above its marks
const MAX_POINTS = 2000; // more than this is thinned before drawing
const RIGHT = 16;
const EDGE = 8; // room between the first or last point and the frame
const DIAMOND = 4.5;
const DRAG = 6; // pixels before a press becomes a brush

// ---- pure functions, tested in node ----

/** Rows in the order of their steps; if a step occurs twice (in a resumed run), the later row is used. */
export function orderRows(rows) {
  const byStep = new Map();
  for (const row of rows) if (numberOf(row, "step") !== null) byStep.set(row.step, row);
  return [...byStep.values()].sort((a, b) => a.step - b.step);
}

/**
 * A panel for each group of the task's probes, with a line each: "belief/Ada" and "belief/Bob" share the panel "belief".
 * Their values are those of the evaluations, whose steps need not be iterations in `rows`.
 */
export function probePanels(evals) {
  const groups = new Map();
  for (const name of new Set(evals.flatMap((point) => Object.keys(point.probes ?? {})))) {
    const cut = name.indexOf("/");
    const [group, line] = cut > 0 ? [name.slice(0, cut), name.slice(cut + 1)] : [name, name];
    const points = evals.map((point) => ({ step: point.step, value: numberOf(point.probes ?? {}, name) }));
    if (points.every(({ value }) => value === null)) continue;
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push({ key: name, name: wordsOf(line), points });
  }
  return [...groups].map(([group, series]) => {
    const values = series.flatMap(({ points }) => points.map(({ value }) => value));
    const share = values.every((value) => value === null || (value >= 0 && value <= 1));
    const name = wordsOf(group);
    return {
      id: `probe:${group}`, name: name.charAt(0).toUpperCase() + name.slice(1), unit: "at evaluations", height: share ? 118 : 92, probes: true,
      ...(share ? { zero: true, floor: 0, ceiling: 1 } : {}),
      series: series.map((one, i) => ({ ...one, colour: `emt-probe vpd-emt-p${(i % HUES) + 1}`, mark: i % HUES, values })),
    };
  });
}

/** The name of a probe as a label. */
function wordsOf(name) {
  return clean(name.replace(/_/g, " "), 60);
}

/** A filled mark around a point, a shape for each line of probes. */
export function markPath(kind, x, y) {
  const at = (dx, dy) => `${(x + dx).toFixed(1)} ${(y + dy).toFixed(1)}`;
  const shapes = [
    `M${at(-4, 0)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
    `M${at(-5, 0)}L${at(0, -5)}L${at(5, 0)}L${at(0, 5)}z`,
    `M${at(-3.5, -3.5)}h7v7h-7z`,
    `M${at(-4.5, 4)}h9L${at(0, -4.5)}z`,
    `M${at(-4.5, -4)}h9L${at(0, 4.5)}z`,
    `M${at(-5, -2)}h10v4h-10z`,
  ];
  return shapes[kind];
}

/** Mean of a number over some rows; null if none of them has it. */
export function meanOf(rows, key) {
  const values = rows.map((row) => numberOf(row, key)).filter((value) => value !== null);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

/** The changes of settings in the order of their steps; those that were made right after one iteration in one line. */
export function changeMarks(changes) {
  const byStep = new Map();
  for (const { step, text } of changes ?? []) byStep.set(step, [...(byStep.get(step) ?? []), clean(text, 200)]);
  return [...byStep].sort(([a], [b]) => a - b).map(([step, texts]) => ({ step, text: texts.join(", ") }));
}

/**
 * The warnings of all rows by kind, in the order in which they first came: runs of iterations in a row, with the
 * explanation of each iteration.
 */
export function alarmsOf(data) {
  const kinds = new Map();
  data.forEach((row, i) => {
    for (const warning of row.warnings ?? []) {
      const [name] = String(warning).split(":", 1);
      if (!kinds.has(name)) kinds.set(name, []);
      const spans = kinds.get(name);
      if (spans.length && spans.at(-1).last === i - 1) spans.at(-1).last = i;
      else spans.push({ first: i, last: i });
    }
  });
  return [...kinds].map(([name, spans]) => ({ name, spans }));
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

function legendItem(kind, colour, name, mark = 0) {
  const item = element("span", "vpd-key");
  const swatch = shape("svg", { width: 16, height: 12, viewBox: "0 0 16 12", "aria-hidden": "true" });
  if (kind === "line" || kind === "probe") swatch.append(shape("path", { d: "M1 6H15", class: `vpd-line vpd-${colour}` }));
  if (kind === "probe") swatch.append(shape("path", { d: markPath(mark, 8, 6), class: `vpd-emt-mark vpd-${colour}` }));
  if (kind === "change") swatch.append(shape("path", { d: "M8 0V12", class: "vpd-emt-change" }));
  if (kind === "target") swatch.append(shape("path", { d: "M0 6H16", class: "vpd-emt-target" }));
  if (kind === "e-step") {
    swatch.append(shape("path", { d: "M8 0V12", class: "vpd-frame" }));
    swatch.append(shape("path", { d: "M4 0h8L8 6z", class: "vpd-emt-flag" }));
  }
  if (kind === "eval") {
    swatch.append(shape("path", { d: "M8 0V12M6 .5H10M6 11.5H10", class: "vpd-emt-whisker" }));
    swatch.append(shape("path", { d: "M4 6L8 2L12 6L8 10Z", class: "vpd-emt-eval" }));
  }
  item.append(swatch, name);
  return item;
}

class Timeline extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-emt");
    this.cursor = null; // index into this.data
    this.brush = null; // a range being drawn: [where it began, where it is], indices into this.data
    this.head = element("div", "vpd-head");
    this.reason = element("div", "vpd-emt-reason");
    this.stage = element("div", "vpd-emt-stage");
    this.makeHome(this.stage, "group", "timeline");
    this.readout = statusLine("vpd-box vpd-emt-readout");
    this.root.append(this.head, this.reason, this.stage, this.readout);

    this.listen(this.stage, "pointermove", (event) => this.onMove(event));
    this.listen(this.stage, "pointerdown", (event) => this.onPress(event));
    this.listen(this.stage, "pointerup", () => this.onRelease());
    this.listen(this.stage, "pointercancel", () => (this.pressed = null));
    this.listen(this.stage, "pointerleave", () => this.moveTo(null));
    this.listen(this.stage, "click", (event) => this.onClick(event));

    this.hear("change:rows", () => this.takeRows());
    for (const name of ["evals", "title", "state", "reason", "total", "kl_target", "changes", "alarm"]) {
      this.hear(`change:${name}`, () => this.schedule());
    }
    this.hear("change:selected", () => this.showCursor());
    this.hear("change:window", () => this.showCursor());
    this.hear("msg:custom", (message) => this.onMessage(message));
    this.watch(this.stage);
    this.takeRows();
    this.draw(); // at once, so that a static reader finds the picture complete
  }

  takeRows() {
    this.rows = this.model.get("rows");
    this.schedule();
  }

  // New rows arrive as messages and are kept here, not in the model: what a view sets in the model is echoed to
  // Python with the next selection, and would overwrite the list that training appends to with an older one.
  onMessage(message) {
    if (message?.kind !== "rows") return;
    if (this.rows.length < message.from) {
      this.model.send({ kind: "resync" });
      return;
    }
    this.rows = this.rows.slice(0, message.from).concat(message.rows);
    this.schedule();
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
    this.changes = changeMarks(this.model.get("changes"));
    this.alarms = alarmsOf(this.data);
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
    const keys = element("div", "vpd-keys");
    if (this.changes.length) keys.append(legendItem("change", "", "settings changed"));
    if (this.eSteps.length) keys.append(legendItem("e-step", "", "E-step"));
    const parts = [element("div", "vpd-title vpd-emt-title", title || "Timeline")];
    if (state) parts.push(element("span", `vpd-badge vpd-emt-badge vpd-emt-${state}`, state));
    const corner = saveCorner(() => title || "timeline", () => this.data, this.stage);
    this.head.replaceChildren(...parts, keys, ...(this.data.length ? [corner] : []));
    this.reason.textContent = clean(this.model.get("reason"));
    this.reason.hidden = !this.reason.textContent;
    this.reason.classList.toggle("vpd-emt-failed", state === "failed");
    const what = title ? `Timeline of ${title}` : "Timeline of a run";
    this.stage.setAttribute(
      "aria-label",
      `${what}, ${counted(this.data.length, "iteration")}. Left and right arrows move, Home and End jump, Enter selects, W goes to the next warning, Escape clears.`,
    );
  }

  panelsWithData() {
    const [first, ...others] = PANELS.map((panel) => {
      const series = panel.series
        .map((one) => ({ ...one, values: this.data.map((row) => numberOf(row, one.key)) }))
        .filter((one) => one.values.some((value) => value !== null));
      return { ...panel, series: mergeEqual(series), evals: panel.evals ? this.evals : [] };
    });
    const probes = probePanels(this.evals).map((panel) => ({ ...panel, evals: [] }));
    return [first, ...probes, ...others].filter((panel) =>
      panel.varies ? !this.constant(panel.series) : panel.series.length || panel.evals.length,
    );
  }

  constant(series) {
    return new Set(series.flatMap((one) => one.values.filter((value) => value !== null))).size < 2;
  }

  drawPanels() {
    this.panels = this.panelsWithData();
    if (this.panels.length === 0) {
      const running = this.model.get("state") === "running";
      this.stage.replaceChildren(element("div", "vpd-empty", running ? "Waiting for the first iteration …" : "No iterations"));
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
    }
    this.left = Math.ceil(labelRoom(...this.panels.map(({ axis }) => axis)));
    this.scaleX();
    const panels = this.panels.map((panel, i) => this.drawPanel(panel, i === this.panels.length - 1));
    this.stage.replaceChildren(...(this.alarms.length ? [this.drawAlarms(), ...panels] : panels));
  }

  /** A line of marks for each kind of warning; a click on one asks for what caused it. */
  drawAlarms() {
    const { width } = this;
    const svg = shape("svg", { width, height: this.alarms.length * ALARM, class: "vpd-chart vpd-emt-alarms", "aria-hidden": "true" });
    const half = Math.max(3, (this.x(this.steps.at(-1)) - this.x(this.steps[0])) / Math.max(1, this.steps.length - 1) / 2);
    const chosen = this.model.get("alarm");
    this.alarms.forEach(({ name, spans }, line) => {
      const label = clean(name, 40);
      const [start, room] = [Math.max(this.left, this.x(this.steps[spans[0].first]) - half), 6.8 * label.length];
      const at = Math.max(4, Math.min(start, width - room - 4));
      svg.append(shape("text", { x: at, y: line * ALARM + 10, class: "vpd-emt-alarm-name", "data-alarm": line, "data-span": spans.length - 1 }, label));
      spans.forEach(({ first, last }, span) => {
        const left = Math.max(this.left, this.x(this.steps[first]) - half);
        const right = Math.min(width - RIGHT, this.x(this.steps[last]) + half);
        const picked = chosen && chosen.name === name && chosen.step >= this.steps[first] && chosen.step <= this.steps[last];
        const mark = shape("rect", {
          x: left.toFixed(1), y: line * ALARM + 14, width: (right - left).toFixed(1), height: 7, rx: 2,
          class: `vpd-emt-alarm${picked ? " vpd-emt-picked" : ""}`, "data-alarm": line, "data-span": span,
        });
        mark.append(shape("title", {}, `${label}: which rollouts?`));
        svg.append(mark);
      });
    });
    const box = element("div", "vpd-emt-panel");
    const head = element("div", "vpd-emt-panel-head");
    head.style.paddingLeft = `${this.left}px`;
    head.append(element("span", "vpd-name", "Warnings"), element("span", "vpd-hint", "click or W: the rollouts behind one"));
    box.append(head, svg);
    return box;
  }

  /** The warning under a pointer, at the iteration nearest to it; null elsewhere. */
  alarmAt(event) {
    const mark = event.target.closest?.("[data-alarm]");
    if (!mark) return null;
    const { name, spans } = this.alarms[Number(mark.dataset.alarm)];
    const { first, last } = spans[Number(mark.dataset.span)];
    const index = mark.tagName === "text" ? last : Math.min(Math.max(this.indexAt(event.clientX), first), last);
    return { step: this.steps[index], name };
  }

  pickAlarm(alarm) {
    const now = this.model.get("alarm");
    const same = now && now.step === alarm.step && now.name === alarm.name;
    this.tell({ alarm: same ? null : alarm, selected: alarm.step });
  }

  /** The next or the last kind of warning in the order of iterations, each at the first iteration of a run of them. */
  nextAlarm(by) {
    const all = this.alarms.flatMap(({ name, spans }) => spans.map(({ first }) => ({ name, step: this.steps[first] })));
    if (!all.length) return;
    all.sort((a, b) => a.step - b.step);
    const now = this.model.get("alarm");
    const at = now ? all.findIndex(({ name, step }) => name === now.name && step === now.step) : -1;
    const to = at < 0 ? (by > 0 ? 0 : all.length - 1) : (at + by + all.length) % all.length;
    this.tell({ alarm: all[to], selected: all[to].step });
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
      width, height: panel.height + (last ? UNDER : 0), class: "vpd-chart", "aria-hidden": "true", "data-panel": panel.id,
    });
    const right = width - RIGHT;
    const labels = drawAxes(svg, { ...panel, left, right, across: this.xTicks, under: last ? "iteration" : "" });
    if (last) this.xLabels = labels;
    this.drawESteps(svg, panel.height);
    this.drawChanges(svg, panel.height);
    if (panel.goal !== null) svg.append(shape("path", { d: `M${left} ${y(panel.goal)}H${right}`, class: "vpd-emt-target" }));
    for (const one of [...panel.series].reverse()) {
      if (panel.probes) this.drawProbe(svg, one, y);
      else this.drawSeries(svg, one, y, one !== panel.series[0]);
    }
    for (const point of panel.evals) this.drawEval(svg, point, y);
    panel.marks = shape("g", {});
    svg.append(panel.marks);
    const box = element("div", "vpd-emt-panel");
    box.append(this.panelHead(panel), svg);
    return box;
  }

  drawESteps(svg, height) {
    if (this.eSteps.length === 0) return;
    const spacing = (this.x(this.eSteps.at(-1)) - this.x(this.eSteps[0])) / Math.max(1, this.eSteps.length - 1);
    // Too dense: lines would fill the panel with grey, so only the flags on its edge are drawn.
    const dense = this.eSteps.length > 1 && spacing < 9;
    const xs = this.eSteps.map((step) => this.x(step).toFixed(1));
    if (!dense) svg.append(shape("path", { d: xs.map((x) => `M${x} 0V${height}`).join(""), class: "vpd-emt-estep" }));
    const half = dense ? Math.max(0.5, Math.min(2, spacing / 3)) : 3.5;
    const flags = xs.map((x) => `M${(x - half).toFixed(1)} 0h${(2 * half).toFixed(1)}l${-half.toFixed(1)} 5z`).join("");
    svg.append(shape("path", { d: flags, class: "vpd-emt-flag" }));
  }

  /** A change is between two iterations, and so is its line. */
  drawChanges(svg, height) {
    for (const { step, text } of this.changes) {
      const x = this.x(step + 0.5);
      if (x < this.left || x > this.width - RIGHT) continue;
      const line = shape("path", { d: `M${x.toFixed(1)} 0V${height}`, class: "vpd-emt-change", "data-change": step });
      line.append(shape("title", {}, `after iteration ${step}: ${text}`));
      svg.append(line);
    }
  }

  drawSeries(svg, one, y, under) {
    const kept = one.values.length > MAX_POINTS ? thin(one.values, Math.ceil(this.width / 2)) : one.values.map((_, i) => i);
    const xs = kept.map((i) => this.x(this.steps[i]));
    const ys = kept.map((i) => (one.values[i] === null ? null : y(one.values[i])));
    const room = (this.width - this.left) / Math.max(1, this.steps.length);
    const colour = `vpd-${one.colour}${room < 2 ? " vpd-fine" : ""}${under ? " vpd-under" : ""}`;
    svg.append(shape("path", { d: pathOf(xs, ys), class: `vpd-line ${colour}`, "data-series": one.key }));
    if (room < 11) return;
    const dots = xs.map((x, i) => (ys[i] === null ? "" : `M${x.toFixed(1)} ${ys[i].toFixed(1)}h0`)).join("");
    svg.append(shape("path", { d: dots, class: `vpd-dots ${colour}` }));
  }

  drawProbe(svg, one, y) {
    const xs = one.points.map(({ step }) => this.x(step));
    const ys = one.points.map(({ value }) => (value === null ? null : y(value)));
    svg.append(shape("path", { d: pathOf(xs, ys), class: `vpd-line vpd-${one.colour}`, "data-series": one.key }));
    if ((this.width - this.left) / xs.length < 11) return;
    const d = xs.map((x, i) => (ys[i] === null ? "" : markPath(one.mark, x, ys[i]))).join("");
    svg.append(shape("path", { d, class: `vpd-emt-mark vpd-${one.colour}` }));
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

  panelHead(panel) {
    const head = element("div", "vpd-emt-panel-head");
    head.style.paddingLeft = `${this.left}px`;
    const name = element("span", "vpd-name", panel.name);
    if (panel.unit) name.append(element("span", "vpd-unit", ` ${panel.unit}`));
    head.append(name);
    const keys = element("span", "vpd-keys");
    // A single line named like its panel needs no legend.
    const plainName = panel.series.length === 1 && !panel.evals.length && panel.goal === null;
    for (const one of plainName ? [] : panel.series) {
      keys.append(legendItem(panel.probes ? "probe" : "line", one.colour, one.name, one.mark));
    }
    if (panel.evals.length) {
      const interval = panel.evals.some((point) => numberOf(point, "low") !== null);
      keys.append(legendItem("eval", "", interval ? "held-out accuracy with interval" : "held-out accuracy"));
    }
    if (panel.goal !== null) keys.append(legendItem("target", "", `KL target ${valueLabel(panel.goal)}`));
    const beta = panel.target ? meanOf(this.data, "beta") : null;
    if (beta !== null && !this.panels.some(({ id }) => id === "beta")) keys.append(element("span", "vpd-key", `β ${valueLabel(beta)}`));
    head.append(keys);
    return head;
  }

  // -- cursor, selection, readout --

  buildReadout() {
    const has = (key) => (key === "accuracy" ? this.evals.length > 0 : this.data.some((row) => numberOf(row, key) !== null));
    const probes = this.panels.filter((panel) => panel.probes).flatMap((panel) =>
      panel.series.map(({ key }) => [key, wordsOf(key.replace("/", " ")), "", true]),
    );
    const keys = READOUT.filter(([key]) => has(key));
    keys.splice(keys.findIndex(([key]) => key === "accuracy") + 1, 0, ...probes);
    this.readHead = element("div", "vpd-read-head");
    this.readGrid = element("div", "vpd-read-grid");
    this.readValues = keys.map(([key, name, unit, probe]) => {
      const wide = key === "accuracy" || name.length > 17;
      const cell = element("span", `vpd-cell${wide ? " vpd-wide" : ""}`);
      const value = element("span", "vpd-emt-value");
      cell.append(element("span", "vpd-label", unit ? `${name}, ${unit}` : name), " ", value);
      this.readGrid.append(cell, " ");
      return [key, value, probe];
    });
    this.readWarnings = element("div", "vpd-emt-warnings");
    this.readout.replaceChildren(this.readHead, this.readWarnings, this.readGrid);
    this.readout.hidden = this.data.length === 0 || this.panels.length === 0;
  }

  showCursor() {
    if (!this.panels?.length) return;
    const selected = this.model.get("selected");
    const chosen = selected === null ? -1 : this.steps.indexOf(selected);
    const range = this.range();
    for (const label of this.xLabels) label.text.removeAttribute("visibility");
    for (const [i, panel] of this.panels.entries()) {
      panel.marks.replaceChildren();
      if (range) this.drawRange(panel, range);
      if (chosen >= 0) this.drawMark(panel, chosen, "vpd-emt-selected", i === this.panels.length - 1);
      if (this.cursor !== null && this.cursor !== chosen) {
        this.drawMark(panel, this.cursor, "vpd-emt-cursor", i === this.panels.length - 1);
      }
    }
    if (this.data.length) this.showReadout(chosen);
  }

  /** The range that is being brushed, else the window: [first, last] as indices; null if there is none. */
  range() {
    if (this.brush) return [Math.min(...this.brush), Math.max(...this.brush)];
    const window = this.model.get("window");
    if (!window || this.steps.length === 0) return null;
    const inside = this.steps.map((step, i) => [step, i]).filter(([step]) => step >= window[0] && step <= window[1]);
    return inside.length ? [inside[0][1], inside.at(-1)[1]] : null;
  }

  drawRange(panel, [first, last]) {
    // Half a step on either side, so that a range of one iteration is visible.
    const half = Math.min(6, (this.x(this.steps.at(-1)) - this.x(this.steps[0])) / Math.max(1, this.steps.length - 1) / 2);
    const [left, right] = [this.x(this.steps[first]) - half, this.x(this.steps[last]) + half];
    panel.marks.append(shape("rect", { x: left, y: 0, width: right - left, height: panel.height, class: "vpd-emt-range" }));
  }

  drawMark(panel, index, className, last) {
    const x = this.x(this.steps[index]);
    panel.marks.append(shape("path", { d: `M${x} 0V${panel.height}`, class: className }));
    for (const one of panel.series) {
      const value = panel.probes ? numberOf(this.evalAt.get(this.steps[index])?.probes ?? {}, one.key) : one.values[index];
      if (value === null) continue;
      panel.marks.append(shape("circle", { cx: x, cy: panel.y(value), r: 4, class: `vpd-emt-dot vpd-${one.colour}` }));
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
      shape("text", { x: at, y: panel.height + 16, class: `vpd-tag-text vpd-middle` }, label),
    );
  }

  showReadout(chosen) {
    const range = this.range();
    if (range && (this.brush || this.cursor === null)) return this.showMeans(range);
    const index = this.cursor ?? (chosen >= 0 ? chosen : this.data.length - 1);
    const row = this.data[index];
    const marks = [];
    if (this.cursor === null && chosen < 0) marks.push("latest");
    if (index === chosen) marks.push("selected");
    if (numberOf(row, "e_loss") !== null) marks.push("E-step");
    // A live run must not trigger a screen reader five times per second.
    this.readout.setAttribute("aria-live", marks[0] === "latest" ? "off" : "polite");
    const parts = [element("span", "vpd-emt-at", `iteration ${row.step}`)];
    for (const mark of marks) parts.push(" ", element("span", "vpd-mark", mark));
    const change = this.changes.find(({ step }) => step === row.step - 1);
    if (change) parts.push(" ", element("span", "vpd-mark vpd-emt-changed", `changed before it: ${change.text}`));
    const notes = notesOf(row);
    if (notes) {
      const note = element("span", "vpd-note", notes);
      note.title = notes;
      parts.push(" ", note);
    }
    parts.push(element("span", "vpd-hint", "← → move · Enter selects · drag for a range · Esc clears"));
    this.readHead.replaceChildren(...parts);
    this.showWarnings(row.warnings ?? []);
    const point = this.evalAt.get(row.step);
    for (const [key, node, probe] of this.readValues) {
      const text = probe ? valueLabel(numberOf(point?.probes ?? {}, key)) : valueLabel(numberOf(row, key));
      node.textContent = key === "accuracy" && !probe ? accuracyLabel(point) : text;
    }
  }

  showWarnings(warnings) {
    this.readWarnings.replaceChildren(...warnings.map((warning) => element("div", "", clean(warning, 300))));
  }

  showMeans([first, last]) {
    this.showWarnings([]);
    const rows = this.data.slice(first, last + 1);
    const [from, to] = [this.steps[first], this.steps[last]];
    const parts = [element("span", "vpd-emt-at", from === to ? `iteration ${from}` : `iterations ${from} to ${to}`)];
    const eSteps = rows.filter((row) => numberOf(row, "e_loss") !== null).length;
    for (const mark of [`means of ${rows.length}`, ...(eSteps ? [counted(eSteps, "E-step")] : [])]) {
      parts.push(" ", element("span", "vpd-mark", mark));
    }
    parts.push(element("span", "vpd-hint", "Shift ← → changes the range · Esc clears"));
    this.readHead.replaceChildren(...parts);
    this.readout.setAttribute("aria-live", "polite");
    const points = this.evals.filter(({ step }) => step >= from && step <= to);
    const probed = points.map((point) => point.probes ?? {});
    for (const [key, node, probe] of this.readValues) {
      node.textContent = valueLabel(meanOf(probe ? probed : key === "accuracy" ? points : rows, key));
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
    this.tell({ selected: step, alarm: null });
  }

  /** Make the range between two indices the window. */
  choose(from, to) {
    const steps = [this.steps[Math.min(from, to)], this.steps[Math.max(from, to)]];
    this.tell({ window: steps, alarm: null });
  }

  onPress(event) {
    const index = this.indexAt(event.clientX);
    this.moveTo(index);
    const drawn = event.target.closest?.("svg[data-panel]");
    this.pressed = event.button === 0 && event.pointerType !== "touch" && drawn && index !== null ? { x: event.clientX, index } : null;
  }

  onMove(event) {
    const index = this.indexAt(event.clientX);
    if (this.pressed && index !== null && (this.brush || Math.abs(event.clientX - this.pressed.x) > DRAG)) {
      this.brush = [this.pressed.index, index];
      this.cursor = index;
      this.stage.setPointerCapture?.(event.pointerId);
      this.showCursor();
    } else {
      this.moveTo(index);
    }
  }

  onRelease() {
    const brush = this.brush;
    this.pressed = this.brush = null;
    if (!brush) return;
    this.brushed = true; // the click that follows ends the brush and chooses nothing
    setTimeout(() => (this.brushed = false));
    this.choose(...brush);
  }

  /** Shift with an arrow key: the first press starts a range at the cursor, further ones move its other end. */
  extend(by, from) {
    const last = this.data.length - 1;
    const start = this.anchor ?? from ?? last;
    const end = Math.min(Math.max((this.anchor === undefined || this.anchor === null ? start : (this.cursor ?? start)) + by, 0), last);
    this.anchor = start;
    this.moveTo(end);
    this.choose(start, end);
  }

  toggle(index) {
    const step = this.steps[index];
    this.select(step === this.model.get("selected") ? null : step);
  }

  onClick(event) {
    if (this.brushed || getSelection()?.toString()) return; // a brush has ended, or somebody is copying a label
    const alarm = this.alarmAt(event);
    if (alarm) return this.pickAlarm(alarm);
    const index = this.indexAt(event.clientX);
    if (index !== null && event.target.closest("svg[data-panel]")) this.toggle(index);
  }

  /** Escape clears one thing at a time: the cursor, the warning, the range, the selection. */
  leave() {
    this.anchor = null;
    if (this.cursor !== null) this.moveTo(null);
    else if (this.model.get("alarm")) this.tell({ alarm: null });
    else if (this.model.get("window")) this.tell({ window: null });
    else this.select(null);
  }

  onKey(event) {
    const last = this.data.length - 1;
    const chosen = this.steps.indexOf(this.model.get("selected"));
    const from = this.cursor ?? (chosen >= 0 ? chosen : null);
    const to = (index) => () => {
      this.anchor = null;
      if (last >= 0) this.moveTo(index);
    };
    const by = (count) => to(from === null ? last : Math.min(Math.max(from + count, 0), last));
    const arrow = (way) => (event.shiftKey && last >= 0 ? () => this.extend(way, from) : by(way));
    const pick = () => from !== null && this.toggle(from);
    takeKeys(
      event,
      {
        ArrowLeft: arrow(-1), ArrowRight: arrow(1), PageUp: by(-10), PageDown: by(10), Home: to(0), End: to(last),
        Enter: pick, " ": pick, Escape: () => this.leave(), w: () => this.nextAlarm(1), W: () => this.nextAlarm(-1),
      },
      () => ["selected", "window", "alarm"].some((name) => this.model.get(name) !== null) || this.cursor !== null,
    );
  }
}

function accuracyLabel(point) {
  if (!point) return "–";
  const [low, high] = [numberOf(point, "low"), numberOf(point, "high")];
  const interval = low !== null && high !== null ? ` [${brief(low)}, ${brief(high)}]` : "";
  return brief(point.accuracy) + interval;
}

/** With rewards of 0 and 1 the mean reward IS the success rate: one line with both names. */
export function mergeEqual(series) {
  if (series.length !== 2) return series;
  const [a, b] = series;
  const same = a.values.every((value, i) => value === b.values[i] || Math.abs((value ?? NaN) - (b.values[i] ?? NaN)) < 1e-9);
  return same ? [{ ...a, name: `${a.name} = ${b.name}` }] : series;
}

export default widgetOf(Timeline);
