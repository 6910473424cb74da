// LensHistory: one response through a run. token_lens.js, and what it needs, is prepended.

const MOST_ROWS = 48; // tokens in the map; of a longer response those that change most
const ROW = 19;
const WIDEST = 44; // of a column of the map
const PLAY_MS = 700; // a point, while it plays
const LEAD = 0.1; // of probability by which a token must lead before a side has settled on it
const MARGIN = 0.05; // nats by which one side must lead before the two have changed places
const MOST_MOMENTS = 12;
const DASHES = ["", "7 4", "10 3 2 3", "4 4"]; // one per run
const RIVAL = "1.5 3"; // of the token that the teacher prefers

/** The responses of packed records, each {first, runs}: `runs` has for each run, in order, those of its points. */
export function responsesOf(packed) {
  const found = new Map();
  packed.forEach(({ response, run, step }, i) => {
    if (!found.has(response)) found.set(response, { response, first: i, runs: new Map() });
    const { runs } = found.get(response);
    if (!runs.has(run)) runs.set(run, new Map());
    runs.get(run).set(step, i); // scored twice at the same point: the later one stands
  });
  const sorted = (map) => [...map].sort(([a], [b]) => a - b);
  return [...found.values()].map((one) => ({
    ...one, runs: new Map(sorted(one.runs).map(([run, points]) => [run, sorted(points).map(([, i]) => i)])),
  }));
}

/** The token on which a side has settled at token `i`: {id, word}; null where no token leads by `LEAD`, or no list is there. */
export function choiceAt(record, side, i) {
  const top = record.tops[side];
  if (!top || top.k === 0 || top.ids[i * top.k] < 0) return null;
  const order = Array.from({ length: top.k }, (_, j) => i * top.k + j).filter((j) => top.ids[j] >= 0);
  order.sort((a, b) => top.logp[b] - top.logp[a]);
  const [first, second] = order.map((j) => Math.exp(top.logp[j]));
  return first - (second ?? 0) > LEAD ? { id: top.ids[order[0]], word: record.words[top.ids[order[0]]] } : null;
}

/** The log-probability that a side gives `word` at token `i`; null where it is neither written there nor in its list. */
export function logpOf(record, side, i, word) {
  const top = record.tops[side];
  if (record.tokens[i] === word) return finite(record[`${side}_logp`]?.[i]);
  for (let j = i * (top?.k ?? 0); j < (i + 1) * (top?.k ?? 0); j++) {
    if (top.ids[j] >= 0 && record.words[top.ids[j]] === word) return finite(top.logp[j]);
  }
  return null;
}

/** 1 where the teacher finds token `i` likelier than the student by more than `MARGIN`, −1 the other way, else 0. */
export function leaning(record, i) {
  const gap = record.teacher_logp && record.student_logp ? record.teacher_logp[i] - record.student_logp[i] : NaN;
  return Math.abs(gap) > MARGIN ? Math.sign(gap) : 0; // NaN: 0
}

/**
 * The moments at which token `i` flips, from the records of its points in order: {at, kind, side, ...}. `at` is the first
 * point after it. "choice": the side settled on another token than before, `from` (null for none) to `to`, and `on` says
 * whether that is the written one; "places": from there on the teacher finds the written token likelier than the student
 * (`on`), or less likely.
 */
export function flipsOf(records, i) {
  const found = [];
  for (const side of ["student", "teacher"]) {
    let last = choiceAt(records[0], side, i)?.word ?? null;
    records.forEach((record, at) => {
      const now = choiceAt(record, side, i)?.word ?? null;
      if (now !== null && now !== last) {
        found.push({ at, kind: "choice", side, from: last, to: now, on: now === record.tokens[i] });
        last = now;
      }
    });
  }
  let last = 0;
  records.forEach((record, at) => {
    const now = leaning(record, i);
    if (now !== 0 && last !== 0 && now !== last) found.push({ at, kind: "places", side: "teacher", on: now > 0 });
    if (now !== 0) last = now;
  });
  return found.sort((a, b) => a.at - b.at);
}

/** How far a token's numbers move over its points: the range of log π and of log q, summed. */
export function movement(records, i) {
  let sum = 0;
  for (const name of ["student_logp", "teacher_logp"]) {
    const [low, high] = bounds(records.map((record) => record[name]?.[i] ?? NaN).filter(Number.isFinite));
    if (high > low) sum += high - low;
  }
  return sum;
}

/** The tokens that the map shows: all of the policy's own, or those that move most, in the order of the response. */
export function rowsOf(records, most = MOST_ROWS) {
  const [first] = records;
  const own = first.tokens.map((_, i) => i).filter((i) => isOwn(first, i));
  if (own.length <= most) return own;
  const moved = new Map(own.map((i) => [i, movement(records, i)]));
  return own.sort((a, b) => moved.get(b) - moved.get(a) || a - b).slice(0, most).sort((a, b) => a - b);
}

const SIGNS = { student: "π", teacher: "q" };

/** What happens at a moment, in words. */
export function momentText({ kind, side, on, from, to }) {
  if (kind === "places") return on ? "q overtakes π" : "q falls below π";
  const [before, now] = [from, to].map((word) => word !== null && `“${tokenLabel(word, 14)}”`);
  return before ? `${SIGNS[side]} turns from ${before} to ${now}` : `${SIGNS[side]} settles on ${now}`;
}

/** The model of the lens: the records of one response in one run, and which of them is shown. */
function seriesModel(history) {
  const { model } = history;
  return {
    get(name) {
      if (name === "links") return [];
      if (name === "why") return null;
      if (name === "packed") return history.series().map((i) => history.packed[i]);
      if (name === "index") return history.point();
      if (name === "title") return history.runName();
      return model.get(name);
    },
    set: (name, value) => (name === "index" ? model.set("index", history.series()[value] ?? null) : model.set(name, value)),
    on: (name, handler) => name !== "change:packed" && name !== "change:title" && model.on(name, handler),
    off: (name, handler) => model.off(name, handler),
    save_changes: () => model.save_changes(),
  };
}

/** A lens on one point; its scale is that of the response in all runs. */
class HistoryLens extends TokenLens {
  drawText() {
    super.drawText();
    if (this.record === null) this.stage.replaceChildren(element("div", "vpd-empty", "No response is followed yet"));
  }

  explains() {
    return false;
  }

  /** The prompts stay the same through the run: shown on request only. */
  xrayShown() {
    return this.xray === true;
  }

  maxOf(measure) {
    return this.history ? this.history.maxOf(measure) : super.maxOf(measure);
  }

  moveTo(i) {
    super.moveTo(i);
    this.history?.showToken();
  }

  paint() {
    super.paint();
    this.history?.drawBelow();
  }
}

class LensHistory extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-lh");
    this.over = null; // the point under the pointer, in the curves
    this.take();
    this.head = element("div", "vpd-head");
    this.tools = element("div", "vpd-tools vpd-lh-tools");
    this.place = element("div", "vpd-lh-lens");
    this.below = element("div", "vpd-lh-below");
    this.map = element("div", "vpd-lh-map");
    this.curves = element("div", "vpd-lh-curves");
    this.moments = element("div", "vpd-tools vpd-lh-moments");
    this.status = statusLine("vpd-status");
    this.below.append(this.map, this.curves);
    this.root.append(this.head, this.tools, this.place, this.below, this.moments, this.status);
    this.makeHome(this.map, "group", "tokens through the run");
    this.lens = new HistoryLens(seriesModel(this), this.place);
    this.lens.history = this;
    for (const box of [this.map, this.curves]) {
      this.listen(box, "pointermove", (event) => this.onPointer(event));
      this.listen(box, "pointerleave", () => this.leave());
      this.listen(box, "click", (event) => this.onClick(event));
    }
    this.hear("change:packed", () => this.renew());
    this.hear("change:index", () => this.schedule());
    this.hear("change:selected", () => this.showToken());
    for (const name of ["names", "title"]) this.hear(`change:${name}`, () => this.schedule());
    this.watch(this.root);
    this.draw();
  }

  // -- the records --

  take() {
    this.packed = this.model.get("packed") ?? [];
    this.responses = responsesOf(this.packed);
    this.unpacked = new Map();
    this.maxima = new Map();
    this.seen = null; // what the series shows, whatever the measure
    this.mapKey = null;
  }

  renew() {
    this.take();
    this.lens.takeRecords();
    this.schedule();
  }

  recordAt(i) {
    if (!this.unpacked.has(i)) this.unpacked.set(i, unpackRecord(this.packed[i]));
    return this.unpacked.get(i);
  }

  /** The packed record that is shown; the first one where none is. */
  current() {
    const index = this.model.get("index");
    return this.packed[index] ?? this.packed[0] ?? null;
  }

  response() {
    return this.responses.find(({ response }) => response === this.current()?.response) ?? null;
  }

  /** Places in `packed` of the points of the current response in the current run. */
  series() {
    return this.response()?.runs.get(this.current().run) ?? [];
  }

  records() {
    return this.series().map((i) => this.recordAt(i));
  }

  /** Which point of the series is shown. */
  point() {
    const at = this.series().indexOf(this.model.get("index"));
    return at < 0 ? (this.series().length ? 0 : null) : at;
  }

  runName(run = this.current()?.run ?? 0) {
    return clean(this.model.get("names")[run] ?? "run", 60);
  }

  /** The iterations of the series' points. */
  steps() {
    return this.series().map((i) => this.packed[i].step);
  }

  /** What the map shows of a series, whatever the measure: its tokens, their flips in order, the token that moves most. */
  look() {
    const key = this.series().join();
    if (this.seen?.key !== key) {
      const records = this.records();
      const rows = rowsOf(records);
      const flips = rows.flatMap((i) => flipsOf(records, i).map((flip) => ({ ...flip, i }))).sort((a, b) => a.at - b.at || a.i - b.i);
      const moved = rows.map((i) => movement(records, i));
      this.seen = { key, rows, flips, most: rows[moved.indexOf(Math.max(...moved))] ?? null };
    }
    return this.seen;
  }

  /** One scale for all points of the response, in all runs. */
  maxOf(measure) {
    const key = `${this.current()?.response} ${measure.id}`;
    if (!this.maxima.has(key)) {
      const points = [...(this.response()?.runs.values() ?? [])].flat();
      this.maxima.set(key, sharedMax(points.map((i) => this.recordAt(i)), measure.id));
    }
    return this.maxima.get(key);
  }

  // -- drawing --

  draw() {
    this.width = Math.floor(this.root.clientWidth);
    const key = `${this.current()?.response} ${this.current()?.run}`;
    if (this.key !== key) {
      this.key = key;
      this.lens.takeRecords(); // another series
    }
    this.drawHead();
    this.drawTools();
    this.lens.draw();
    this.drawBelow();
  }

  drawHead() {
    const title = element("div", "vpd-title", clean(this.model.get("title")) || "One response through a run");
    const parts = [title];
    if (this.packed.length) {
      const steps = this.steps();
      const span = steps.length > 1 ? ` from ${steps[0]} to ${steps.at(-1)}` : ` after ${steps[0]}`;
      parts.push(element("span", "vpd-mark", `${counted(this.responses.length, "response")} followed`));
      parts.push(element("span", "vpd-mark", `${counted(steps.length, "point")}${span}`));
      parts.push(saveCorner(() => this.model.get("title") || "history", () => this.rows(), this.below));
    }
    this.head.replaceChildren(...parts);
  }

  /** A row for each token at each point in each run, for a file. */
  rows() {
    return [...this.response().runs].flatMap(([run, points]) =>
      points.flatMap((i) => tokenRows(this.recordAt(i)).map((row) => ({ run: this.runName(run), step: this.packed[i].step, ...row }))),
    );
  }

  drawTools() {
    const response = this.response();
    if (!response) {
      this.tools.replaceChildren();
      this.listed = null;
      return;
    }
    this.drawList();
    const runs = [...response.runs.keys()];
    const key = [runs, this.current().run, Boolean(this.timer), this.series().length > 1, this.model.get("names")].join(" ");
    if (this.drawn === key) return; // a button that is redrawn loses the focus
    this.drawn = key;
    const parts = [];
    if (runs.length > 1) {
      const items = runs.map((run) => ({ id: run, name: this.runName(run) }));
      parts.push(element("span", "vpd-caps", "run"), choice(items, this.current().run, (run) => this.choose(this.current().response, run)));
    }
    const play = element("button", "vpd-button vpd-lh-play", this.timer ? "Stop" : "Play");
    play.type = "button";
    play.tabIndex = -1; // P does the same
    play.hidden = this.series().length < 2;
    play.addEventListener("click", () => this.play());
    this.right.replaceChildren(...parts, play);
  }

  /** The list of responses; it stays the same element as long as there are no others, or an open one would close. */
  drawList() {
    const texts = this.responses.map((one, number) => {
      const { meta, tokens } = this.packed[one.first];
      return `${number + 1}: ${clean(meta.prompt, 50)} → ${clean(meta.text || unpackTexts(tokens).join(""), 40)}`;
    });
    if (this.listed !== texts.join("\n")) {
      this.listed = texts.join("\n");
      this.select = element("select", "vpd-field vpd-lh-response");
      this.select.tabIndex = -1; // brackets do the same
      this.select.setAttribute("aria-label", "response");
      this.select.append(...texts.map((text, i) => Object.assign(element("option", "", text), { value: String(this.responses[i].response) })));
      this.select.addEventListener("change", () => this.choose(Number(this.select.value), this.current().run));
      this.right = element("span", "vpd-tools");
      this.drawn = null;
      this.tools.replaceChildren(...(texts.length > 1 ? [element("span", "vpd-caps", "response"), this.select] : []), this.right);
    }
    this.select.value = String(this.current().response);
  }

  /** Another response or run, at the point nearest to the present one. */
  choose(response, run) {
    const chosen = this.responses.find((one) => one.response === response);
    const points = chosen.runs.get(run) ?? [...chosen.runs.values()][0];
    const step = this.current().step;
    const index = points[nearest(points.map((i) => this.packed[i].step), step)];
    this.tell(chosen === this.response() ? { index } : { index, selected: null });
  }

  nextResponse(by) {
    const at = this.responses.indexOf(this.response());
    const next = this.responses[(at + by + this.responses.length) % this.responses.length];
    if (next && next !== this.responses[at]) this.choose(next.response, this.current().run);
  }

  nextRun() {
    const runs = [...(this.response()?.runs.keys() ?? [])];
    if (runs.length > 1) this.choose(this.current().response, runs[(runs.indexOf(this.current().run) + 1) % runs.length]);
  }

  drawBelow() {
    this.below.hidden = !this.packed.length || !this.lens?.values;
    this.moments.hidden = this.below.hidden;
    if (this.below.hidden || !this.width) return;
    const measure = this.lens.measure();
    const key = [this.series(), measure.id, this.width].join(" ");
    if (this.mapKey !== key) {
      // Else there is another point or token, and only the marks move.
      this.mapKey = key;
      this.drawMap(measure);
      this.drawMoments();
    }
    this.showToken();
  }

  /** A row a token, a column a point. */
  drawMap(measure) {
    const records = this.records();
    const steps = this.steps();
    const max = this.maxOf(measure);
    const own = records.map((record) => measuresOf(record).find((one) => one.id === measure.id));
    const { rows, flips } = this.look();
    this.shown = rows;
    const beside = this.width >= 760;
    const room = beside ? Math.floor(0.5 * (this.width - 26)) : this.width;
    const label = Math.min(130, 16 + 7.4 * Math.max(3, ...this.shown.map((i) => tokenLabel(records[0].tokens[i], 14).length)));
    const column = Math.min(WIDEST, (room - label - 10) / steps.length);
    const height = this.shown.length * ROW;
    const width = Math.ceil(label + column * steps.length + 10);
    const svg = shape("svg", { width, height: height + UNDER, class: "vpd-chart", "aria-hidden": "true" });
    this.grid = { svg, label, column, height, steps };
    this.shown.forEach((i, row) => {
      const y = row * ROW;
      svg.append(shape("text", { x: label - 7, y: y + ROW / 2, dy: "0.34em", class: "vpd-end vpd-lh-token", "data-token": i }, tokenLabel(records[0].tokens[i], 14)));
      records.forEach((record, at) => {
        const heat = heatClass(own[at] ? own[at].of(record, i) : NaN, max);
        const box = { x: (label + at * column).toFixed(1), y: y + 1, width: Math.max(1, column - 1).toFixed(1), height: ROW - 2 };
        svg.append(shape("rect", { ...box, class: `vpd-data vpd-patch ${heat || "vpd-lh-none"}` }));
      });
    });
    const dots = flips.filter(({ kind, side }) => kind === "choice" && side === "student");
    for (const { at, i, on } of dots) {
      const place = { cx: (label + at * column).toFixed(1), cy: (rows.indexOf(i) + 0.5) * ROW, r: 3.5 };
      svg.append(shape("circle", { ...place, class: `vpd-lh-flip ${on ? "vpd-lh-on" : ""}` }));
    }
    const every = Math.max(1, Math.ceil(34 / column));
    steps.forEach((step, at) => {
      if (at % every && at !== steps.length - 1) return;
      if (at === steps.length - 1 && at % every && (at % every) * column < 30) return; // too near to its neighbour
      svg.append(shape("text", { x: label + (at + 0.5) * column, y: height + 16, class: "vpd-middle" }, String(step)));
    });
    svg.append(shape("text", { x: label + (column * steps.length) / 2, y: height + 32, class: "vpd-axis vpd-middle" }, "iterations done"));
    this.gridMarks = shape("g", {});
    svg.append(this.gridMarks);
    const name = element("div", "vpd-lh-name");
    name.append(element("span", "vpd-name", measure.name), element("span", "vpd-unit", ` ${measure.unit}`));
    if (dots.length) name.append(element("span", "vpd-caps vpd-lh-key", "● π settles on this token, ○ on another"));
    const all = records[0].tokens.filter((_, i) => isOwn(records[0], i)).length;
    if (all > this.shown.length) name.append(element("span", "vpd-caps vpd-lh-key", `the ${this.shown.length} of ${all} tokens that move most`));
    this.map.replaceChildren(name, svg);
    this.map.setAttribute("aria-label", `${counted(this.shown.length, "token")} at ${counted(steps.length, "point")} of the run. Left and right arrows move through the run, up and down through the tokens, Enter pins, N goes to the next flip, P plays, R shows the next run, brackets show another response, Escape leaves.`);
    this.below.classList.toggle("vpd-lh-beside", beside);
  }

  /** The token whose curves are shown: the one under the cursor, the pinned one, else the one that moves most. */
  token() {
    const known = this.lens.cursor ?? this.lens.selected();
    return known ?? this.look().most;
  }

  drawCurves(i) {
    const records = this.records();
    if (!isOwn(records[0], i)) {
      this.curves.replaceChildren(element("div", "vpd-empty", MASKED));
      this.plot = null;
      return;
    }
    const runs = [...this.response().runs];
    const lines = runs.flatMap(([run, points], place) =>
      ["student", "teacher"].map((side) => ({
        run, side, dash: DASHES[place % DASHES.length], own: run === this.current().run,
        xs: points.map((at) => this.packed[at].step), ys: points.map((at) => finite(this.recordAt(at)[`${side}_logp`]?.[i])),
      })),
    ).filter(({ ys }) => ys.some((y) => y !== null));
    const rival = this.rivalAt(i);
    for (const side of rival === null ? [] : ["student", "teacher"]) {
      const ys = records.map((record) => logpOf(record, side, i, rival));
      const xs = this.steps();
      if (ys.some((y) => y !== null)) lines.push({ run: this.current().run, side, dash: RIVAL, own: false, rival, xs, ys });
    }
    const width = this.below.classList.contains("vpd-lh-beside") ? this.width - this.grid.svg.width.baseVal.value - 26 : this.width;
    const height = Math.max(170, Math.min(300, this.grid.height - 6));
    const [low, high] = bounds(lines.flatMap(({ xs }) => xs));
    const axis = axisOf(lines.flatMap(({ ys }) => ys), { ceiling: 0, count: 4 });
    if (!axis) {
      this.curves.replaceChildren(element("div", "vpd-empty", "No log-probabilities of this token"));
      this.plot = null;
      return;
    }
    const left = labelRoom(axis);
    const right = width - 12;
    const x = scaleOf(low === high ? [low - 1, high + 1] : [low, high], [left + 6, right - 6]);
    const y = scaleOf(axis.domain, [height - 5, 6]);
    const svg = shape("svg", { width, height: height + UNDER, class: "vpd-chart", "aria-hidden": "true" });
    const across = ticks(low, high, niceStep(high - low, Math.max(2, Math.floor((right - left) / 70)), true)).map((tick) => [x(tick), String(tick)]);
    drawAxes(svg, { left, right, height, axis, y, across, under: "iterations done" });
    for (const line of [...lines].sort((a, b) => a.own - b.own)) this.drawLine(svg, line, x, y);
    this.drawFlips(svg, records, i, x, y);
    const marks = shape("g", {});
    svg.append(marks);
    this.plot = { svg, marks, x, height, lines, i };
    const name = element("div", "vpd-lh-name");
    const title = element("span", "vpd-name", "log-probability");
    name.append(title, element("span", "vpd-unit", " nats"), element("span", "vpd-lh-word", tokenLabel(records[0].tokens[i], 18)));
    name.append(sideKey("student", "student π"), ...(lines.some(({ side }) => side === "teacher") ? [sideKey("teacher", "teacher q")] : []));
    if (lines.some((line) => line.rival)) {
      const key = dashKey(RIVAL, "");
      key.append(element("span", "vpd-lh-word", tokenLabel(rival, 18)));
      key.title = "the token on which the teacher has settled here";
      name.append(key);
    }
    if (runs.length > 1) runs.forEach(([run], place) => name.append(dashKey(DASHES[place % DASHES.length], clean(this.runName(run), 24))));
    this.curves.replaceChildren(name, svg);
  }

  /** The token that the teacher prefers to the written one, at the point that is shown; null for none. */
  rivalAt(i) {
    const record = this.records()[this.point()];
    const word = choiceAt(record, "teacher", i)?.word ?? null;
    return word === record.tokens[i] ? null : word;
  }

  drawLine(svg, { side, dash, own, xs, ys, run, rival }, x, y) {
    const places = ys.map((value) => (value === null ? null : y(value)));
    const colour = side === "student" ? "vpd-blue" : "vpd-orange";
    const more = dash ? { "stroke-dasharray": dash, "stroke-linecap": "butt" } : {};
    svg.append(shape("path", { d: pathOf(xs.map(x), places), class: `vpd-line ${colour}${own ? "" : " vpd-lh-other"}`, "data-line": `${rival ? "rival" : run} ${side}`, ...more }));
    if (own && xs.length <= 60) {
      const dots = xs.map((at, i) => (places[i] === null ? "" : `M${x(at).toFixed(1)} ${places[i].toFixed(1)}h0`)).join("");
      svg.append(shape("path", { d: dots, class: `vpd-dots ${colour}` }));
    }
  }

  /** A ring at each flip of the token, with what it is in a tooltip. */
  drawFlips(svg, records, i, x, y) {
    const steps = this.steps();
    for (const flip of flipsOf(records, i)) {
      const value = finite(records[flip.at][`${flip.side}_logp`]?.[i]);
      if (value === null) continue;
      const ring = shape("circle", { cx: x(steps[flip.at]).toFixed(1), cy: y(value).toFixed(1), r: 6.5, class: "vpd-lh-ring" });
      ring.append(shape("title", {}, `${momentText(flip)} between iterations ${steps[flip.at - 1]} and ${steps[flip.at]}`));
      svg.append(ring);
    }
  }

  drawMoments() {
    const all = this.look().flips;
    const [tokens, steps] = [this.records()[0].tokens, this.steps()];
    const chips = all.slice(0, MOST_MOMENTS).map(({ i, at, ...flip }) => {
      const chip = element("button", "vpd-button vpd-lh-moment");
      chip.type = "button";
      chip.tabIndex = -1; // N does the same
      chip.append(element("span", "vpd-lh-word", tokenLabel(tokens[i], 18)), ` ${momentText(flip)} `);
      chip.append(element("span", "vpd-caps vpd-num", `${steps[at - 1]} → ${steps[at]}`));
      chip.title = `token ${i + 1}, between iterations ${steps[at - 1]} and ${steps[at]}`;
      chip.addEventListener("click", () => this.goTo(at, i));
      return chip;
    });
    if (all.length > chips.length) chips.push(element("span", "vpd-caps", `and ${all.length - chips.length} more`));
    const none = element("span", "vpd-caps", steps.length > 1 ? "no token flips" : "scored once so far: nothing can flip");
    this.moments.replaceChildren(element("span", "vpd-caps", "flips"), ...(chips.length ? chips : [none]));
  }

  // -- where the reader is --

  goTo(at, i = this.lens.selected()) {
    const index = this.series()[at];
    if (index !== undefined) this.tell({ index, selected: i });
  }

  showToken() {
    if (this.below.hidden || !this.grid) return;
    const i = this.token();
    if (i === null) return;
    const rival = isOwn(this.records()[0], i) ? this.rivalAt(i) : null;
    if (this.plot?.i !== i || this.plot.rival !== rival || this.plot.grid !== this.grid) {
      this.drawCurves(i);
      if (this.plot) Object.assign(this.plot, { rival, grid: this.grid });
    }
    const [at, row] = [this.point(), this.shown.indexOf(i)];
    const { label, column, height, steps } = this.grid;
    const here = shape("rect", { x: (label + at * column - 0.5).toFixed(1), y: 0, width: column.toFixed(1), height, class: "vpd-lh-here" });
    const line = row < 0 ? [] : [shape("rect", { x: 0.5, y: row * ROW, width: (label + column * steps.length).toFixed(1), height: ROW, class: "vpd-lh-row" })];
    this.gridMarks.replaceChildren(here, ...line);
    if (this.plot) {
      const x = this.plot.x(steps[this.over ?? at]).toFixed(1);
      this.plot.marks.replaceChildren(shape("path", { d: `M${x} 0V${this.plot.height}`, class: this.over === null ? "vpd-lh-now" : "vpd-lh-cursor" }));
    }
    this.status.textContent = this.sentence(i, this.over ?? at);
  }

  sentence(i, at) {
    const record = this.records()[at];
    const step = this.grid.steps[at];
    const parts = [`token ${i + 1} “${tokenLabel(record.tokens[i])}” after iteration ${step}`];
    if (!isOwn(record, i)) return [...parts, MASKED].join(" · ");
    for (const [run, points] of this.response().runs) {
      const place = nearest(points.map((one) => this.packed[one].step), step);
      const there = this.packed[points[place]].step === step ? this.recordAt(points[place]) : null;
      const values = ["student", "teacher"].filter((side) => there?.[`${side}_logp`]).map((side) => `${SIGNS[side]} ${percent(Math.exp(there[`${side}_logp`][i]))}`);
      if (values.length) parts.push(`${this.response().runs.size > 1 ? `${this.runName(run)}: ` : ""}${values.join(", ")}`);
    }
    return parts.join(" · ");
  }

  /** The point and the token of the map, or the point of the curves, under the pointer. */
  placeOf(event) {
    const svg = event.target.closest?.("svg.vpd-chart");
    const box = svg?.getBoundingClientRect();
    if (!box || !this.grid) return null;
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { label, column, steps } = this.grid;
    if (svg === this.grid.svg) {
      const i = this.shown[Math.floor(y / ROW)];
      const at = Math.floor((x - label) / column);
      return i === undefined ? null : { i, at: at >= 0 && at < steps.length ? at : null };
    }
    return svg === this.plot?.svg ? { i: null, at: nearest(steps, this.plot.x.invert(x)) } : null;
  }

  onPointer(event) {
    const place = this.placeOf(event);
    if (!place) return this.leave();
    this.over = place.at;
    if (place.i === null) this.showToken();
    else this.lens.jump(place.i);
    return undefined;
  }

  leave() {
    this.over = null;
    if (this.lens.cursor !== null) this.lens.moveTo(null);
    else this.showToken();
  }

  onClick(event) {
    const place = this.placeOf(event);
    if (!place) return;
    const i = place.i ?? this.token();
    this.goTo(place.at ?? this.point(), place.i !== null && place.at === null && i === this.lens.selected() ? null : i);
  }

  /** Called when the map loses the focus. */
  moveTo() {
    this.leave();
  }

  move(by) {
    const at = Math.max(0, Math.min(this.series().length - 1, (this.point() ?? 0) + by));
    this.goTo(at);
  }

  moveToken(by) {
    const row = this.shown.indexOf(this.token());
    this.tell({ selected: this.shown[Math.max(0, Math.min(this.shown.length - 1, row + by))] });
  }

  nextFlip(by) {
    const all = this.look().flips;
    if (!all.length) return;
    const here = [this.point(), this.lens.selected() ?? -1];
    const after = (flip) => flip.at - here[0] || flip.i - here[1];
    const next = by > 0 ? (all.find((flip) => after(flip) > 0) ?? all[0]) : (all.findLast((flip) => after(flip) < 0) ?? all.at(-1));
    this.goTo(next.at, next.i);
  }

  /** From here to the last point; from the last one, from the first. */
  play() {
    if (this.timer) return this.halt();
    if (this.point() === this.series().length - 1) this.move(-this.series().length);
    this.timer = setInterval(() => {
      this.move(1);
      if (this.point() >= this.series().length - 1) this.halt();
    }, PLAY_MS);
    return this.drawTools();
  }

  halt() {
    clearInterval(this.timer);
    this.timer = null;
    this.drawTools();
  }

  onKey(event) {
    if (!this.grid) return;
    takeKeys(
      event,
      {
        ArrowLeft: () => this.move(-1), ArrowRight: () => this.move(1), ArrowUp: () => this.moveToken(-1), ArrowDown: () => this.moveToken(1),
        Home: () => this.move(-this.series().length), End: () => this.move(this.series().length),
        Enter: () => this.tell({ selected: this.lens.selected() === null ? this.token() : null }),
        n: () => this.nextFlip(1), N: () => this.nextFlip(-1), p: () => this.play(), r: () => this.nextRun(), "]": () => this.nextResponse(1), "[": () => this.nextResponse(-1), c: () => this.lens.nextColour(1), C: () => this.lens.nextColour(-1),
        Escape: () => this.tell({ selected: null }),
      },
      () => this.lens.selected() !== null,
    );
  }

  destroy() {
    clearInterval(this.timer);
    this.lens.destroy();
    super.destroy();
  }
}

function finite(value) {
  return Number.isFinite(value) ? value : null;
}

function dashKey(dash, name) {
  const key = element("span", "vpd-key");
  const svg = shape("svg", { width: 26, height: 10 });
  svg.append(shape("path", { d: "M1 5H25", class: "vpd-line vpd-grey", ...(dash ? { "stroke-dasharray": dash } : {}) }));
  key.append(svg, name);
  return key;
}

export default widgetOf(LensHistory);
