// Simplex: student, teacher and target of exact EM as points of a triangle. mathematics.js and shared.js are prepended.

const LEAST = 1e-4; // smallest probability of a point, as in simplex.py
const FLOW = 400; // updates of the M-step's path that is drawn
const LEVELS_NATS = [0.02, 0.1, 0.3, 1, 3]; // contours of the gap
const GRID = 56; // triangles along a side for the contours
const HEIGHT = Math.sqrt(3) / 2;

// ---- exact formulas on three responses (vpdlab/study/tabular.py), tested against Python ----

const sumOf = (values) => values.reduce((sum, value) => sum + value, 0);
const expected = (p, values) => sumOf(p.map((share, i) => share * values[i]));

/** Probabilities from logits. */
export function softmax(logits) {
  const largest = Math.max(...logits);
  const parts = logits.map((value) => Math.exp(value - largest));
  const total = sumOf(parts);
  return parts.map((part) => part / total);
}

/** KL(p‖q) in nats; an outcome of probability 0 adds 0. */
export function divergenceOf(p, q) {
  return sumOf(p.map((share, i) => (share > 0 ? share * Math.log(share / q[i]) : 0)));
}

/** The exact E-step: π tilted by exp(r / β), and log Z. `share` of the tilt, from 0 to 1, is a point on the way. */
export function target(student, reward, beta, share = 1) {
  const tilted = student.map((p, i) => Math.log(p) + (share * reward[i]) / beta);
  const largest = Math.max(...tilted);
  return { point: softmax(tilted), logZ: largest + Math.log(sumOf(tilted.map((value) => Math.exp(value - largest)))) };
}

/** The bound F(q) = E_q[r] / β − KL(q‖π), in nats. */
export function bound(q, student, reward, beta) {
  return expected(q, reward) / beta - divergenceOf(q, student);
}

const LOSSES_OF = { reverse: (student, q) => divergenceOf(student, q), forward: (student, q) => divergenceOf(q, student) };

/** The students after 0, 1, 2, … updates of gradient descent on the logits. */
export function descent(student, q, loss, lr, updates) {
  const path = [student];
  let logits = student.map(Math.log);
  for (let update = 0; update < updates; update++) {
    const p = path.at(-1);
    const whole = divergenceOf(p, q);
    const slope = p.map((share, i) => (loss === "forward" ? share - q[i] : share * (Math.log(share / q[i]) - whole)));
    logits = logits.map((value, i) => value - lr * slope[i]);
    path.push(softmax(logits));
  }
  return path;
}

/** The point of a line with the least loss; both losses are convex along it. */
export function nearestOn([start, end], q, loss) {
  const at = (share) => start.map((value, i) => value + share * (end[i] - value));
  let [low, high] = [LEAST, 1 - LEAST];
  for (let i = 0; i < 100; i++) {
    const [one, other] = [low + (high - low) / 3, high - (high - low) / 3];
    if (LOSSES_OF[loss](at(one), q) < LOSSES_OF[loss](at(other), q)) high = other;
    else low = one;
  }
  return at((low + high) / 2);
}

/** All that the picture and its numbers are made of. */
export function facts({ student, q, reward, beta, loss, line, lr, updates }) {
  const { point, logZ } = target(student, reward, beta);
  const free = line.length === 0;
  const next = free ? descent(student, q, loss, lr, updates).at(-1) : nearestOn(line, q, loss);
  return {
    target: point, logZ, next, reward: expected(q, reward), bound: bound(q, student, reward, beta),
    anchor: divergenceOf(q, student), gap: divergenceOf(q, point), reverse: divergenceOf(student, q),
    forward: divergenceOf(q, student), before: expected(student, reward), after: expected(next, reward),
  };
}

// ---- the triangle ----

/** Where a point is, in units of the triangle's side: the first response at the lower left, the third at the top. */
export function placeOf([, b, c]) {
  return [b + c / 2, HEIGHT * (1 - c)];
}

/** The point at a place, moved into the triangle. */
export function pointAt(x, y) {
  const c = 1 - y / HEIGHT;
  const b = x - c / 2;
  const inside = [1 - b - c, b, c].map((value) => Math.max(value, LEAST));
  const total = sumOf(inside);
  const point = inside.map((value) => value / total);
  // Shares of a corner's neighbours can fall below the least by the division.
  return Math.min(...point) < LEAST ? settled(point) : point;
}

function settled(point) {
  const raised = point.map((value) => Math.max(value, LEAST));
  const largest = raised.indexOf(Math.max(...raised));
  raised[largest] -= sumOf(raised) - 1;
  return raised;
}

/** Pieces of the lines along which a function of the point has each level, as pairs of places. */
export function contours(of, levels, grid = GRID) {
  const value = [];
  const node = (i, j) => [1 - (i + j) / grid, i / grid, j / grid];
  for (let j = 0; j <= grid; j++) for (let i = 0; i <= grid - j; i++) (value[j] ??= []).push(of(settled(node(i, j))));
  const pieces = levels.map(() => []);
  const cut = (corners) => {
    levels.forEach((level, number) => {
      const found = [];
      for (const [[i, j], [k, l]] of [[corners[0], corners[1]], [corners[1], corners[2]], [corners[2], corners[0]]]) {
        const [one, other] = [value[j][i] - level, value[l][k] - level];
        if (one < 0 === other < 0) continue;
        const share = one / (one - other);
        const [a, b] = [placeOf(node(i, j)), placeOf(node(k, l))];
        found.push([a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])]);
      }
      if (found.length === 2) pieces[number].push(found);
    });
  };
  for (let j = 0; j < grid; j++) {
    for (let i = 0; i < grid - j; i++) {
      cut([[i, j], [i + 1, j], [i, j + 1]]);
      if (i + j < grid - 1) cut([[i + 1, j], [i + 1, j + 1], [i, j + 1]]);
    }
  }
  return pieces;
}

// ---- the view ----

const POINTS = ["q", "student"];
const NAMES = { q: "q", student: "π", target: "π*", next: "π′" };
const STEP = 0.01; // of a side, for an arrow key
const NARROWEST = 200; // pixels of the widget
const BETAS = [0.05, 5]; // range of the slider

class Simplex extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-sx");
    this.start = { student: model.get("student"), q: model.get("q"), beta: model.get("beta"), loss: model.get("loss") };
    this.build();
    for (const name of ["names", "reward", "student", "q", "beta", "loss", "line", "lr", "updates", "title", "selected"]) {
      this.hear(`change:${name}`, () => this.schedule());
    }
    this.watch(this.root);
    this.draw();
  }

  build() {
    this.head = element("div", "vpd-head");
    this.stage = element("div", "vpd-sx-stage");
    this.makeHome(this.stage, "group", "triangle");
    this.panel = element("div", "vpd-sx-panel");
    this.tools = element("div", "vpd-tools");
    this.status = statusLine("vpd-status vpd-sx-status");
    const main = element("div", "vpd-sx-main");
    main.append(this.stage, this.panel);
    this.root.append(this.head, this.tools, main, this.status);
    this.buildTools();
    this.listen(this.stage, "pointerdown", (event) => this.onPress(event));
    this.listen(this.stage, "pointermove", (event) => this.onDrag(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) this.listen(this.stage, name, () => this.onRelease());
  }

  buildTools() {
    const button = (text, key, act) => {
      const node = element("button", "vpd-button", text);
      node.type = "button";
      node.tabIndex = -1; // keys do the same
      node.title = `key ${key}`;
      node.addEventListener("click", act);
      return node;
    };
    this.slider = element("input", "vpd-sx-beta");
    Object.assign(this.slider, { type: "range", min: Math.log(BETAS[0]), max: Math.log(BETAS[1]), step: 0.01, tabIndex: -1 });
    this.slider.setAttribute("aria-label", "beta, units of reward per nat");
    this.slider.addEventListener("input", () => this.tell({ beta: Number(Math.exp(Number(this.slider.value)).toPrecision(3)) }));
    this.betaLabel = element("span", "vpd-num vpd-sx-beta-label");
    const beta = element("label", "vpd-sx-slider");
    beta.append(this.betaLabel, this.slider);
    this.lossChoice = element("span");
    this.tools.append(
      button("E-step: q to π*", "E", () => this.eStep()), button("M-step: π to π′", "M", () => this.mStep()), this.lossChoice, beta,
      button("Start again", "R", () => this.tell(this.start)),
    );
  }

  settings() {
    return Object.fromEntries(["student", "q", "reward", "beta", "loss", "line", "lr", "updates"].map((name) => [name, this.model.get(name)]));
  }

  draw() {
    const width = Math.floor(this.root.clientWidth);
    this.width = width;
    if (width < NARROWEST) return; // not laid out yet
    this.now = { ...this.settings(), names: this.model.get("names").map((name) => clean(name, 24)) };
    this.found = facts(this.now);
    this.drawHead();
    this.drawTools();
    this.drawTriangle(Math.min(560, width > 820 ? Math.floor(width * 0.52) : width));
    this.drawPanel();
    this.status.textContent = this.sentence();
  }

  drawHead() {
    const keys = element("span", "vpd-keys");
    for (const [side, name] of [["student", "student π"], ["teacher", "teacher q"], ["target", "target π*"]]) {
      const key = element("span", "vpd-key");
      key.append(element("i", `vpd-data vpd-sx-swatch vpd-sx-${side}-fill`), name);
      keys.append(key);
    }
    for (const [kind, name] of [["e", "exact E-step"], ["m", "M-step"], ["gap", "gap, nats"]]) {
      if (kind === "m" && this.now.line.length) continue;
      const key = element("span", "vpd-key");
      const line = shape("svg", { width: 24, height: 8, "aria-hidden": "true" });
      line.append(shape("path", { d: "M0 4H24", class: kind === "gap" ? "vpd-sx-gap" : `vpd-sx-way vpd-sx-${kind}` }));
      key.append(line, name);
      keys.append(key);
    }
    this.head.replaceChildren(element("div", "vpd-title", clean(this.model.get("title")) || "Three responses"), keys);
  }

  drawTools() {
    this.slider.value = String(Math.log(this.now.beta));
    this.betaLabel.textContent = `β ${brief(this.now.beta)}`;
    const items = [{ id: "reverse", name: "M-step KL(π‖q)", title: "reverse, as in the paper" }, { id: "forward", name: "KL(q‖π)", title: "forward, as in classical EM" }];
    this.lossChoice.replaceChildren(choice(items, this.now.loss, (loss) => this.tell({ loss })));
  }

  // -- the triangle --

  drawTriangle(width) {
    const margin = { x: 56, top: 44, bottom: 46 };
    this.side = width - 2 * margin.x;
    this.origin = [margin.x, margin.top];
    const height = margin.top + this.side * HEIGHT + margin.bottom;
    const svg = shape("svg", { width, height, class: "vpd-chart vpd-sx-chart", "aria-hidden": "true" });
    svg.append(...this.outline(), ...this.gapLines(), ...this.paths(), ...this.marks());
    this.svg = svg;
    this.stage.replaceChildren(svg);
    const keys = "Arrow keys move the point, with Shift in larger steps, P changes the point, E does the E-step, M the M-step, L changes its loss, B and Shift+B change beta, R starts again.";
    this.stage.setAttribute("aria-label", `Triangle of three responses, ${this.now.names.join(", ")}. ${keys}`);
  }

  at(point) {
    const [x, y] = placeOf(point);
    return [this.origin[0] + this.side * x, this.origin[1] + this.side * y];
  }

  pathThrough(points) {
    return points.map((point, i) => `${i ? "L" : "M"}${this.at(point).map((value) => value.toFixed(1)).join(" ")}`).join("");
  }

  outline() {
    const corners = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
    const parts = [];
    let grid = "";
    for (const share of [0.25, 0.5, 0.75]) {
      grid += this.pathThrough([[share, 1 - share, 0], [share, 0, 1 - share]]) + this.pathThrough([[1 - share, share, 0], [0, share, 1 - share]]);
      grid += this.pathThrough([[1 - share, 0, share], [0, 1 - share, share]]);
    }
    parts.push(shape("path", { d: grid, class: "vpd-sx-grid" }), shape("path", { d: `${this.pathThrough(corners)}Z`, class: "vpd-sx-frame" }));
    corners.forEach((corner, i) => {
      const [x, y] = this.at(corner);
      const [dx, dy] = [[0, 22], [0, 22], [0, -26]][i];
      const best = this.now.reward[i] === Math.max(...this.now.reward);
      parts.push(shape("text", { x: x + dx, y: y + dy, class: `vpd-middle vpd-sx-corner${best ? " vpd-sx-best" : ""}` }, this.now.names[i]));
      parts.push(shape("text", { x: x + dx, y: y + dy + 15, class: "vpd-middle" }, `r = ${brief(this.now.reward[i])}`));
    });
    return parts;
  }

  /** Lines of equal gap around the target; one label each, on the way from the target to the farthest corner. */
  gapLines() {
    const { target: centre } = this.found;
    const gap = (point) => divergenceOf(point, centre);
    const corners = [[1, 0, 0], [0, 1, 0], [0, 0, 1]].map(settled);
    const far = corners.reduce((a, b) => (gap(b) > gap(a) ? b : a));
    const parts = [];
    this.levelSpots = []; // where the names of points must not be
    let last = this.at(centre);
    contours(gap, LEVELS_NATS).forEach((pieces, number) => {
      const to = ([x, y]) => `${(this.origin[0] + this.side * x).toFixed(1)} ${(this.origin[1] + this.side * y).toFixed(1)}`;
      parts.push(shape("path", { d: pieces.map(([a, b]) => `M${to(a)}L${to(b)}`).join(""), class: "vpd-sx-gap" }));
      let [low, high] = [0, 1];
      const between = (share) => centre.map((value, i) => value + share * (far[i] - value));
      if (gap(far) < LEVELS_NATS[number]) return;
      for (let i = 0; i < 40; i++) {
        const middle = (low + high) / 2;
        if (gap(between(middle)) < LEVELS_NATS[number]) low = middle;
        else high = middle;
      }
      const [x, y] = this.at(between(low));
      if (Math.hypot(x - last[0], y - last[1]) < 22) return; // it would be over the one before
      last = [x, y];
      this.levelSpots.push(last);
      parts.push(shape("text", { x, y: y + 4, class: "vpd-middle vpd-sx-level" }, brief(LEVELS_NATS[number])));
    });
    return parts;
  }

  /** The E-step's way from π to π*, and the M-step's from π toward q, with an arrow to where the next one ends. */
  paths() {
    const { student, q, reward, beta, loss, line, lr } = this.now;
    const tilt = Array.from({ length: 41 }, (_, i) => target(student, reward, beta, i / 40).point);
    const parts = [shape("path", { d: this.pathThrough(tilt), class: "vpd-sx-way vpd-sx-e" })];
    if (line.length) parts.push(shape("path", { d: this.pathThrough(line), class: "vpd-sx-line" }));
    else parts.push(shape("path", { d: this.pathThrough(descent(student, q, loss, lr, FLOW)), class: "vpd-sx-way vpd-sx-m" }));
    const [from, to] = [this.at(student), this.at(this.found.next)];
    const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
    if (length > 14) {
      const [ux, uy] = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
      const tip = [to[0] - 8 * ux, to[1] - 8 * uy];
      const wing = (way) => [tip[0] - 9 * ux - way * 5 * uy, tip[1] - 9 * uy + way * 5 * ux];
      const text = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;
      parts.push(shape("path", { d: `M${text([from[0] + 9 * ux, from[1] + 9 * uy])}L${text(tip)}M${text(wing(1))}L${text(tip)}L${text(wing(-1))}`, class: "vpd-sx-arrow" }));
    }
    return parts;
  }

  marks() {
    const { student, q } = this.now;
    const { target: goal, next } = this.found;
    const all = [["target", goal], ["next", next], ["student", student], ["q", q]];
    const places = new Map(all.map(([name, point]) => [name, this.at(point)]));
    const nodes = [];
    for (const [name, [x, y]] of places) {
      const chosen = name === this.model.get("selected");
      if (chosen) nodes.push(shape("circle", { cx: x, cy: y, r: 13, class: "vpd-sx-ring" }));
      const mark = name === "target"
        ? shape("path", { d: `M${x} ${y - 9}L${x + 9} ${y}L${x} ${y + 9}L${x - 9} ${y}Z`, class: "vpd-data vpd-sx-mark vpd-sx-at-target" })
        : shape("circle", { cx: x, cy: y, r: name === "next" ? 5 : 8, class: `vpd-data vpd-sx-mark vpd-sx-at-${name}` });
      nodes.push(mark);
    }
    const taken = [...this.levelSpots];
    for (const [name, [x, y]] of [...places].reverse()) {
      const spot = freeSpot(x, y, taken, [...places.values()]);
      taken.push(spot);
      nodes.push(shape("text", { x: spot[0], y: spot[1] + 5, class: "vpd-middle vpd-sx-name" }, NAMES[name]));
    }
    return nodes;
  }

  // -- numbers --

  drawPanel() {
    const { found, now } = this;
    const share = leaf(["mfrac", ["mn", "1"], idOf("β")], 1 / now.beta, "1 over beta");
    const mean = leaf(["mrow", sub("E", "q"), operatorOf("["), idOf("r"), operatorOf("]")], found.reward, "the teacher's expected reward");
    const kl = (a, b, value, about) => leaf(["mrow", textOf("KL"), operatorOf("("), a, operatorOf("‖"), b, operatorOf(")")], value, about);
    const goal = ["msup", idOf("π"), operatorOf("*")];
    const gap = kl(idOf("q"), goal, found.gap, "the gap");
    const f = leaf(["mrow", idOf("F"), operatorOf("("), idOf("q"), operatorOf(")")], found.bound, "the bound");
    this.panel.replaceChildren(
      equation("the bound, in nats", ["mrow", idOf("F"), operatorOf("("), idOf("q"), operatorOf(")")], null, plus(times(share, mean), negative(kl(idOf("q"), idOf("π"), found.anchor, "distance from the student")))),
      equation("log Z, which does not move with q", ["mrow", textOf("log\u2009"), idOf("Z")], null, plus(f, gap)),
      this.bar(), this.mLine(), this.table(),
    );
  }

  /** log Z as a bar: the bound, and the gap that is left; a negative bound extends to the left of 0. */
  bar() {
    const { bound: f, logZ } = this.found;
    const [low, high] = [Math.min(0, f, logZ), Math.max(0, f, logZ)];
    const at = (value) => (high > low ? (100 * (value - low)) / (high - low) : 0);
    const track = element("div", "vpd-sx-track");
    const piece = (from, to, className) => {
      const node = element("i", `vpd-data ${className}`);
      node.style.left = `${Math.min(at(from), at(to)).toFixed(2)}%`;
      node.style.width = `${Math.abs(at(to) - at(from)).toFixed(2)}%`;
      return node;
    };
    track.append(piece(0, f, "vpd-sx-bound"), piece(f, logZ, "vpd-sx-rest"));
    const zero = element("i", "vpd-sx-zero");
    zero.style.left = `${at(0).toFixed(2)}%`;
    track.append(zero);
    const under = element("div", "vpd-sx-ends vpd-caps vpd-num");
    under.append(element("span", "", `bound ${brief(f)}, so J(q) = β F(q) = ${brief(this.now.beta * f)}`), element("span", "", `gap ${brief(logZ - f)}`), element("span", "", `log Z ${brief(logZ)} nats`));
    const box = element("div");
    box.append(track, under);
    return box;
  }

  mLine() {
    const { found, now } = this;
    const line = element("div", "vpd-sx-mline");
    const how = now.line.length ? "its best point on the line" : `${counted(now.updates, "update")} of the student`;
    const cells = [
      ["KL(π‖q)", found.reverse, now.loss === "reverse"], ["KL(q‖π)", found.forward, now.loss === "forward"],
      ["E[r] of π", found.before, false], ["E[r] of π′", found.after, false],
    ];
    const grid = element("div", "vpd-read-grid");
    for (const [name, value, chosen] of cells) {
      const cell = element("span", `vpd-cell${chosen ? " vpd-sx-loss" : ""}`);
      const number = element("span", "vpd-num", brief(value));
      number.title = String(value);
      cell.append(element("span", "vpd-label", name), number);
      grid.append(cell);
    }
    line.append(element("div", "vpd-caps", `the next M-step: ${how}`), grid);
    return line;
  }

  table() {
    const { found, now } = this;
    const table = element("table", "vpd-sx-table");
    table.setAttribute("aria-label", "probabilities");
    const row = (kind, cells) => {
      const node = element("tr");
      cells.forEach((text, i) => {
        const cell = element(i === 0 || kind === "th" ? "th" : "td", "vpd-num", typeof text === "number" ? percent(text) : text);
        if (typeof text === "number") cell.title = String(text);
        node.append(cell);
      });
      return node;
    };
    table.append(row("th", ["", "r", "π", "q", "π*", "π′"]));
    now.names.forEach((name, i) => table.append(row("td", [name, brief(now.reward[i]), now.student[i], now.q[i], found.target[i], found.next[i]])));
    return table;
  }

  sentence() {
    const { found, now } = this;
    const point = this.model.get("selected");
    const shares = now.names.map((name, i) => `${name} ${percent(now[point][i])}`).join(", ");
    return `${NAMES[point]}: ${shares} · bound ${brief(found.bound)}, gap ${brief(found.gap)} nats · Arrow keys move, P changes the point, E and M do the steps.`;
  }

  // -- moving --

  move(name, point) {
    this.tell({ [name]: point, selected: name });
  }

  onPress(event) {
    if (event.button !== 0 || !this.svg) return;
    const place = this.placeOfEvent(event);
    const distance = (name) => {
      const [x, y] = this.at(this.now[name]);
      return Math.hypot(x - place[0], y - place[1]);
    };
    // The nearer point; the teacher where both are near, and where the press is far from both.
    this.held = distance("student") < 16 && distance("student") < distance("q") - 4 ? "student" : "q";
    this.stage.setPointerCapture(event.pointerId);
    this.stage.focus({ preventScroll: true });
    event.preventDefault();
    this.dragTo(place);
  }

  onDrag(event) {
    if (this.held) this.dragTo(this.placeOfEvent(event));
  }

  onRelease() {
    this.held = null;
  }

  placeOfEvent(event) {
    const box = this.svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  dragTo([x, y]) {
    this.move(this.held, pointAt((x - this.origin[0]) / this.side, (y - this.origin[1]) / this.side));
  }

  moveTo() {} // no cursor: a point stays where it is

  nudge(dx, dy, event) {
    const name = this.model.get("selected");
    const [x, y] = placeOf(this.model.get(name));
    const size = event.shiftKey ? 5 * STEP : STEP;
    this.move(name, pointAt(x + dx * size, y + dy * size));
  }

  eStep() {
    this.tell({ q: settled(target(this.model.get("student"), this.model.get("reward"), this.model.get("beta")).point) });
  }

  mStep() {
    this.tell({ student: settled(facts(this.settings()).next) });
  }

  scaleBeta(factor) {
    const beta = Math.min(Math.max(this.model.get("beta") * factor, BETAS[0]), BETAS[1]);
    this.tell({ beta: Number(beta.toPrecision(3)) });
  }

  onKey(event) {
    const other = { q: "student", student: "q" };
    takeKeys(
      event,
      {
        ArrowLeft: () => this.nudge(-1, 0, event), ArrowRight: () => this.nudge(1, 0, event),
        ArrowUp: () => this.nudge(0, -1, event), ArrowDown: () => this.nudge(0, 1, event),
        p: () => this.tell({ selected: other[this.model.get("selected")] }), e: () => this.eStep(), m: () => this.mStep(),
        l: () => this.tell({ loss: this.model.get("loss") === "reverse" ? "forward" : "reverse" }),
        b: () => this.scaleBeta(1.1), B: () => this.scaleBeta(1 / 1.1), r: () => this.tell(this.start),
      },
      () => false,
    );
  }
}

/** A place for a label beside a point: the first of eight around it that is far from other labels and points. */
function freeSpot(x, y, labels, points) {
  const around = [[18, -12], [-18, -12], [18, 14], [-18, 14], [0, -21], [0, 22], [24, 0], [-24, 0]];
  const spots = around.map(([dx, dy]) => [x + dx, y + dy]);
  const room = ([a, b]) => Math.min(...[...labels, ...points].map(([c, d]) => Math.hypot(a - c, b - d)));
  return spots.find((spot) => room(spot) >= 17) ?? spots.reduce((best, spot) => (room(spot) > room(best) ? spot : best));
}

export default widgetOf(Simplex);
