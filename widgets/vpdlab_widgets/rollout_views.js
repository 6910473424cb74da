// Further views of RolloutTable: a scatter over two columns, and the rollouts of one problem side by side.

const SCATTER = 260; // height of the scatter in pixels
const NEAR = 14; // pixels from the pointer to the point that it means
const CARDS = 16; // rollouts side by side at most
const BEFORE = 80; // characters shown before a difference
const MOST = 700; // characters of a text side by side
const NAMED = {
  step: "iteration", turns: "turns", length: "tokens", kl: "KL per token, nats", reward: "reward",
  implicit_reward: "implicit reward", group: "group", index: "place in the group", truncated: "feedback tokens cut",
};

// ---- pure functions, tested in node ----

/** The rollouts that have both numbers: {place, x, y}. */
export function pointsOf(rows, places, x, y) {
  return places
    .map((place) => ({ place, x: numberOf(rows[place], x), y: numberOf(rows[place], y) }))
    .filter((point) => point.x !== null && point.y !== null);
}

/** Whether a row lies inside a brush over two columns; without a brush every row does. */
export function insideBrush(row, brush, x, y) {
  if (!brush) return true;
  return [x, y].every((key, i) => {
    const value = numberOf(row, key);
    return value !== null && value >= brush[i][0] && value <= brush[i][1];
  });
}

/** Where two texts begin to differ: the beginning of the first word that is not the same; -1 for equal texts. */
export function firstDifference(text, other) {
  if (text === other) return -1;
  let at = 0;
  while (at < Math.min(text.length, other.length) && text[at] === other[at]) at++;
  while (at > 0 && /\S/.test(text[at - 1])) at--;
  return at;
}

/** Places of all rollouts of one problem, in their order. */
export function sameProblem(rows, place) {
  const keyOf = (row) => row.problem_id ?? `${row.step}/${row.group}`;
  const key = keyOf(rows[place]);
  return rows.map((_, i) => i).filter((i) => keyOf(rows[i]) === key);
}

// ---- views ----

/** A point per rollout; a drag keeps those inside. */
class Scatter {
  /** `pick(place)`, `hover(place or null)` and `keep(brush or null)` are what the pointer asks for. */
  constructor(view, asks) {
    this.view = view;
    this.asks = asks;
    this.box = element("div", "vpd-rt-scatter");
    this.pressed = null;
    view.listen(this.box, "pointermove", (event) => this.onMove(event));
    view.listen(this.box, "pointerdown", (event) => this.onPress(event));
    view.listen(this.box, "pointerup", (event) => this.onRelease(event));
    view.listen(this.box, "pointerleave", () => this.asks.hover(null));
    view.listen(this.box, "dblclick", () => this.asks.keep(null));
  }

  draw(rows, places, [x, y], brush, width) {
    this.points = pointsOf(rows, places, x, y);
    if (this.points.length === 0) {
      this.box.replaceChildren(element("div", "vpd-rt-none", `No rollout has both ${NAMED[x]} and ${NAMED[y]}`));
      this.svg = null;
      return;
    }
    const [left, right, bottom] = [58, width - 10, SCATTER - UNDER];
    const axes = [axisOf(this.points.map((one) => one.x), { count: 6 }), axisOf(this.points.map((one) => one.y), { count: 5 })];
    this.x = scaleOf(axes[0].domain, [left + 8, right - 8]);
    this.y = scaleOf(axes[1].domain, [bottom - 6, 10]);
    this.svg = shape("svg", { width, height: SCATTER, class: "vpd-chart", role: "img" });
    this.svg.setAttribute("aria-label", `${NAMED[y]} over ${NAMED[x]}, ${counted(this.points.length, "rollout")}`);
    const across = axes[0].ticks.map((tick) => [this.x(tick), tickLabel(tick, axes[0].step)]);
    drawAxes(this.svg, { left, right, height: bottom, axis: axes[1], y: this.y, across, under: NAMED[x] });
    const side = shape("text", { x: 0, y: 0, class: "vpd-axis vpd-middle", transform: `translate(12 ${bottom / 2}) rotate(-90)` }, NAMED[y]);
    this.svg.append(side, ...this.marks(rows, brush, [x, y]));
    if (brush) this.svg.append(this.frame(brush.map((range, i) => range.map(i ? this.y : this.x))));
    this.ring = shape("g", {});
    this.svg.append(this.ring);
    this.box.replaceChildren(this.svg);
  }

  /** Circles for the right ones, crosses for the wrong ones: a shape each, for eyes and printers without colour. */
  marks(rows, brush, [x, y]) {
    const paths = new Map();
    for (const point of this.points) {
      const kind = outcomeOf(rows[point.place]);
      const faded = insideBrush(rows[point.place], brush, x, y) ? "" : " vpd-rt-faded";
      const [cx, cy] = [this.x(point.x), this.y(point.y)];
      const d = kind === "wrong" ? `M${(cx - 3).toFixed(1)} ${(cy - 3).toFixed(1)}l6 6m0 -6l-6 6` : `M${cx.toFixed(1)} ${cy.toFixed(1)}h0`;
      const name = `vpd-rt-point vpd-rt-point-${kind}${faded}`;
      paths.set(name, (paths.get(name) ?? "") + d);
    }
    return [...paths].map(([name, d]) => shape("path", { d, class: name }));
  }

  frame([[x0, x1], [y0, y1]]) {
    return shape("rect", {
      x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0), class: "vpd-rt-brush",
    });
  }

  /** Rings around the selected and the current rollout. */
  mark(selected, cursor) {
    if (!this.svg) return;
    const ring = (place, name) => {
      const point = this.points.find((one) => one.place === place);
      return point ? [shape("circle", { cx: this.x(point.x), cy: this.y(point.y), r: 7, class: name })] : [];
    };
    this.ring.replaceChildren(...ring(selected, "vpd-rt-ring vpd-rt-chosen"), ...(cursor === null ? [] : ring(cursor, "vpd-rt-ring")));
  }

  at(event) {
    const frame = this.svg.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  nearest([px, py]) {
    let [best, place] = [NEAR ** 2, null];
    for (const point of this.points) {
      const far = (this.x(point.x) - px) ** 2 + (this.y(point.y) - py) ** 2;
      if (far < best) [best, place] = [far, point.place];
    }
    return place;
  }

  onPress(event) {
    if (this.svg && event.button === 0) this.pressed = this.at(event);
  }

  onMove(event) {
    if (!this.svg) return;
    const now = this.at(event);
    if (!this.pressed) return this.asks.hover(this.nearest(now));
    if (Math.hypot(now[0] - this.pressed[0], now[1] - this.pressed[1]) < 6) return;
    this.box.setPointerCapture?.(event.pointerId);
    this.drawn?.remove();
    this.drawn = this.frame([[this.pressed[0], now[0]], [this.pressed[1], now[1]]]);
    this.svg.append(this.drawn);
  }

  onRelease(event) {
    if (!this.svg || !this.pressed) return;
    const [from, to] = [this.pressed, this.at(event)];
    this.pressed = null;
    if (!this.drawn) {
      const place = this.nearest(to);
      if (place !== null) this.asks.pick(place);
      return;
    }
    this.drawn.remove();
    this.drawn = null;
    const range = (scale, a, b) => [scale.invert(a), scale.invert(b)].sort((one, other) => one - other);
    this.asks.keep([range(this.x, from[0], to[0]), range(this.y, from[1], to[1])]);
  }
}

/** The rollouts of one problem as cards; each begins to differ from the selected one at its mark. */
function sideBySide(rows, place, pick) {
  const box = element("div", "vpd-rt-side");
  if (place === null) {
    box.append(element("div", "vpd-rt-none", "Select a rollout: the others of its problem stand beside it"));
    return box;
  }
  const all = sameProblem(rows, place);
  const shown = all.slice(0, CARDS);
  if (!shown.includes(place)) shown[CARDS - 1] = place;
  const caption = clean(rows[place].prompt ?? "", 300);
  const more = all.length > shown.length ? ` (${shown.length} of ${all.length})` : "";
  box.append(element("div", "vpd-caps vpd-rt-side-head", `${counted(all.length, "rollout")} of one problem${more}; the mark is where each begins to differ from the selected one`));
  box.append(element("div", "vpd-rt-side-problem", caption));
  const grid = element("div", "vpd-rt-cards");
  const chosen = visible(rows[place].text ?? "");
  for (const one of shown) {
    const row = rows[one];
    const card = element("button", `vpd-rt-card${one === place ? " vpd-chosen" : ""}`);
    Object.assign(card, { type: "button", tabIndex: -1 });
    card.setAttribute("aria-pressed", String(one === place));
    const head = element("span", "vpd-rt-card-head");
    head.append(element("span", `vpd-badge vpd-${outcomeOf(row)}`, outcomeOf(row)));
    head.append(element("span", "vpd-caps", placeLabel(row, one)));
    const reward = numberOf(row, "implicit_reward");
    if (reward !== null) head.append(element("span", "vpd-caps vpd-num", `r̃ ${brief(reward, true)}`));
    card.append(head, differing(visible(row.text ?? ""), chosen));
    card.addEventListener("click", () => pick(one));
    grid.append(card);
  }
  box.append(grid);
  return box;
}

/** A text whose first word that differs from another text is marked. */
function differing(text, other) {
  const node = element("span", "vpd-rt-card-text");
  const at = firstDifference(text, other);
  if (at < 0) {
    node.append(text.length > MOST ? `${text.slice(0, MOST - 1)}…` : text);
    return node;
  }
  const start = at > 2 * BEFORE ? at - BEFORE : 0;
  const word = /^\s*\S+/.exec(text.slice(at))?.[0] ?? "";
  const rest = text.slice(at + word.length, start + MOST);
  const cut = at + word.length + rest.length < text.length;
  node.append(`${start ? "…" : ""}${text.slice(start, at)}`, element("mark", "vpd-rt-differs", word || "(ends here)"), `${rest}${cut ? "…" : ""}`);
  return node;
}
