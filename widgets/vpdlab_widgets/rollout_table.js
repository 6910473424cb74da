// RolloutTable: rollouts to sort, search and select. Plain ES module; shared.js is prepended to it.

const ROW = 30; // height of a row in pixels: only the rows in sight exist
const TWO_LINES = 50; // its height where the feedback has a line of its own
const SLIM = 1000; // width of the table below which there are no bars
const SHORT = 24; // characters of feedback that fit a column
const LETTER = { prompt: 7, text: 7.3, source: 7 }; // mean width of a character in pixels
const SHOWN = 12; // rows in sight at most
const VIEWS = ["rows", "scatter", "group"];
const OUTCOMES = ["all", "right", "wrong", "no signal"];

// `wide` is the column's width, `slim` its width in a narrow notebook, without bars; columns without data are omitted.
const COLUMNS = [
  { key: "success", name: "outcome", wide: "86px" },
  { key: "step", name: "iteration", wide: "74px", many: true },
  { key: "prompt", name: "problem", wide: "minmax(90px, 1fr)" },
  { key: "text", name: "response", wide: "minmax(110px, 1.4fr)" },
  { key: "turns", name: "turns", wide: "46px", count: true },
  { key: "length", name: "tokens", wide: "92px", slim: "62px", bar: "plain" },
  { key: "kl", name: "KL per token", wide: "120px", slim: "100px", bar: "up" },
  { key: "implicit_reward", name: "implicit reward", wide: "150px", slim: "116px", bar: "signed" },
  { key: "source", name: "feedback", wide: "minmax(80px, 0.8fr)" },
];

// ---- pure functions, tested in node ----

/** "right", "wrong" or "no signal": the rollout's outcome, and whether it has a training signal. */
export function outcomeOf(row) {
  return row.success === true ? "right" : row.success === false ? "wrong" : "unknown";
}

/** Indices of the rows that match: the query (query.js), the outcome, and the warning that they caused. */
export function passing(rows, query, outcome, alarm = null) {
  const wanted = parseQuery(query);
  const places = [];
  rows.forEach((row, place) => {
    if (outcome === "no signal" ? row.signal !== false : outcome !== "all" && outcomeOf(row) !== outcome) return;
    if (alarm && !(row.alarms ?? []).includes(alarm.name)) return;
    if (fitsQuery(row, wanted)) places.push(place);
  });
  return places;
}

/** Indices sorted by a column, with a leading "-" in descending order; rows without a value come last either way. */
export function sorted(rows, places, sort) {
  if (!sort) return places;
  const down = sort.startsWith("-");
  const key = down ? sort.slice(1) : sort;
  const valueOf = (place) => {
    const value = rows[place][key];
    if (typeof value === "boolean") return Number(value);
    return value === undefined || value === "" ? null : value;
  };
  const compare = (a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    const order = typeof x === "string" ? x.localeCompare(String(y), "en", { numeric: true }) : x - y;
    return (down ? -order : order) || a - b;
  };
  return [...places].sort(compare);
}

/** The groups in order of appearance: each a list of indices, and the step they belong to. */
export function groupsOf(rows) {
  const groups = new Map();
  rows.forEach((row, place) => {
    const key = `${row.step}/${row.group ?? row.problem_id}`;
    if (!groups.has(key)) groups.set(key, { step: row.step ?? null, places: [] });
    groups.get(key).places.push(place);
  });
  return [...groups.values()];
}

/** Mean implicit reward of the right rollouts minus that of the wrong ones; null if one kind is missing. */
export function marginOf(rows) {
  const mean = (kept) => kept.reduce((sum, row) => sum + row.implicit_reward, 0) / kept.length;
  const known = rows.filter((row) => numberOf(row, "implicit_reward") !== null);
  const [right, wrong] = [true, false].map((success) => known.filter((row) => row.success === success));
  return right.length && wrong.length ? mean(right) - mean(wrong) : null;
}

/**
 * How many characters to leave out at the beginning of all texts, so that each fits: whole words that they share, and no
 * more of them than needed. 0 where all fit.
 */
export function leftOut(texts, fits) {
  const shared = sharedBeginning(texts);
  const needed = Math.max(0, ...texts.map((text) => text.length)) + 1 - fits;
  if (needed <= 1) return 0;
  return needed >= shared ? shared : texts[0].slice(needed - 1).search(/\s/) + needed;
}

/** How many characters all texts share at their beginning, up to the last white space among them. */
export function sharedBeginning(texts) {
  if (texts.length < 2) return 0;
  let length = Math.min(...texts.map((text) => text.length));
  for (const text of texts) while (length > 0 && !text.startsWith(texts[0].slice(0, length))) length--;
  return texts[0].slice(0, length).search(/\s\S*$/) + 1;
}

/** A text in at most `fits` characters: without the beginning that it shares, then without its middle. Its end is kept. */
export function keptEnd(text, shared, fits) {
  const rest = shared > 3 ? `…${text.slice(shared)}` : text;
  if (rest.length <= fits) return rest;
  const tail = Math.ceil(0.6 * (fits - 1));
  return `${rest.slice(0, Math.max(0, fits - 1 - tail))}…${rest.slice(rest.length - tail)}`;
}

/** What a row says about its feedback: the text that the teacher reads, else why there is none. */
export function feedbackOf(row) {
  const told = row.critique || row.demonstration || (row.signal === false && row.reason) || "";
  return clean(told, 2000).trim() || row.source || "–";
}

// ---- the view ----

/** The conversation of an episode, turn by turn under its role. */
function conversationOf(row) {
  const block = element("div", "vpd-rt-said vpd-rt-talk");
  const list = scroller("vpd-rt-turns");
  for (const turn of turnsOf(row)) {
    const one = element("div", `vpd-rt-turn ${turn.own ? "vpd-rt-own" : "vpd-rt-reply"}`);
    const head = element("div", "vpd-caps", speakerOf(turn));
    if (turn.about) head.append(" ", element("span", "vpd-mark vpd-about", ABOUT));
    one.append(head, element("div", "vpd-rt-turn-text", visible(turn.text)));
    list.append(one);
  }
  block.append(element("div", "vpd-caps", `conversation, ${counted(row.turns ?? 0, "turn")} of the policy`), list);
  return block;
}

class RolloutTable extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-rt");
    this.cursor = null; // place in the rows
    this.build();
    this.hear("change:rows", () => this.takeRows());
    for (const name of ["sort", "query", "outcome", "alarm", "brush", "x", "y", "view", "everywhere", "found"]) {
      this.hear(`change:${name}`, () => this.arrange());
    }
    this.hear("change:selected", () => this.follow());
    this.hear("change:title", () => this.drawHead());
    this.watch(this.root);
    this.takeRows();
    this.draw();
  }

  build() {
    this.head = element("div", "vpd-head");
    this.controls = element("div", "vpd-tools vpd-rt-controls");
    this.mosaic = element("div", "vpd-rt-mosaic");
    this.table = element("div", "vpd-rt-table");
    this.header = element("div", "vpd-rt-row vpd-rt-header");
    this.header.setAttribute("role", "row");
    this.body = element("div", "vpd-rt-body");
    this.makeHome(this.body, "grid");
    this.sheet = element("div", "vpd-rt-sheet");
    this.body.append(this.sheet);
    this.table.append(this.header, this.body);
    this.panel = element("div", "vpd-rt-panel"); // the scatter, or rollouts side by side
    this.axes = element("div", "vpd-tools vpd-rt-axes");
    this.scatter = new Scatter(this, {
      pick: (place) => this.toggle(place),
      hover: (place) => this.moveTo(place),
      keep: (brush) => this.tell({ brush }),
    });
    this.details = element("div", "vpd-box vpd-rt-details");
    this.status = statusLine("vpd-rt-status");
    this.search = element("input", "vpd-field vpd-rt-search");
    Object.assign(this.search, { type: "search", placeholder: "search (/)  e.g. kl>0.5", tabIndex: -1, maxLength: 200 });
    this.search.setAttribute("aria-label", "search in problems, responses and feedback, or by column: kl>0.5 outcome=wrong");
    this.search.title = "text, or columns: kl>0.5  tokens<=8  outcome=wrong  source:sibling  feedback:word  step>=10  kl=none";
    this.root.append(this.head, this.mosaic, this.controls, this.panel, this.table, this.details, this.status);
    this.listen(this.search, "input", () => this.model.get("everywhere") || this.tell({ query: this.search.value }));
    this.listen(this.search, "change", () => this.tell({ query: this.search.value })); // a search of all iterations waits for Enter
    this.listen(this.search, "keydown", (event) => {
      event.stopPropagation(); // letters belong to the search, not to the notebook
      if (event.key === "Escape") {
        this.search.value = "";
        this.tell({ query: "" });
      }
      if (event.key === "Escape" || event.key === "Enter") this.body.focus();
    });
    this.listen(this.body, "scroll", () => {
      this.drawRows();
      this.markRows();
    });
    this.listen(this.body, "click", (event) => this.onClick(event));
    this.listen(this.body, "pointerover", (event) => this.moveTo(this.placeAt(event)));
    this.listen(this.body, "pointerleave", () => this.moveTo(null));
  }

  takeRows() {
    this.rows = this.model.get("rows") ?? [];
    this.columns = COLUMNS.filter((column) => {
      const values = this.rows.map((row) => row[column.key]).filter((value) => value !== null && value !== undefined);
      return values.length > 0 && (!column.many || new Set(values).size > 1);
    });
    const reach = (key) => Math.max(0, ...this.rows.map((row) => Math.abs(numberOf(row, key) ?? 0)));
    this.reach = Object.fromEntries(COLUMNS.filter((column) => column.bar).map(({ key }) => [key, reach(key)]));
    this.groups = groupsOf(this.rows);
    this.groupOf = new Map(this.groups.flatMap((group) => group.places.map((place) => [place, group])));
    this.cursor = null;
    this.arrange();
  }

  /** Filter and sort again. */
  arrange() {
    const query = this.model.get("query");
    const [x, y] = this.over();
    const brush = this.model.get("brush");
    this.unbrushed = passing(this.rows, query, this.model.get("outcome"), this.model.get("alarm"));
    const inside = this.unbrushed.filter((place) => insideBrush(this.rows[place], brush, x, y));
    this.places = sorted(this.rows, inside, this.model.get("sort"));
    this.at = new Map(this.places.map((place, line) => [place, line]));
    if (this.cursor !== null && !this.at.has(this.cursor)) this.cursor = null;
    if (this.search.value !== query && document.activeElement !== this.search) this.search.value = query;
    this.fresh = true;
    this.drawn = "";
    this.schedule();
  }

  draw() {
    const width = Math.floor(this.root.clientWidth);
    if (this.fresh) {
      this.drawHead();
      this.drawControls();
      this.drawHeader();
      this.body.scrollTop = 0;
    }
    if (this.fresh || width !== this.width) {
      this.width = width;
      this.drawMosaic();
      this.drawPanel();
    }
    this.fresh = false;
    const slim = width < SLIM;
    const two = this.columns.some(({ key }) => key === "source") && this.rows.some((row) => feedbackOf(row).length > SHORT);
    this.row = two ? TWO_LINES : ROW;
    this.root.classList.toggle("vpd-rt-slim", slim);
    this.root.classList.toggle("vpd-rt-two", two);
    this.root.style.setProperty("--row", `${this.row}px`);
    this.root.style.setProperty("--columns", this.columns.filter(({ key }) => !two || key !== "source").map((one) => (slim && one.slim) || one.wide).join(" "));
    this.body.style.height = `${Math.min(SHOWN, Math.max(1, this.places.length)) * this.row + 2}px`;
    this.sheet.style.height = `${Math.max(1, this.places.length) * this.row}px`;
    // The header is as wide as the rows without their scroll bar.
    this.header.style.paddingRight = `${12 + this.body.offsetWidth - this.body.clientWidth}px`;
    this.fit();
    this.follow();
  }

  /** The columns of the scatter. */
  over() {
    return [this.model.get("x"), this.model.get("y")];
  }

  drawPanel() {
    const view = this.model.get("view");
    this.panel.hidden = view === "rows";
    if (view === "scatter") {
      this.scatter.draw(this.rows, this.unbrushed, this.over(), this.model.get("brush"), Math.max(280, this.width));
      this.drawAxes();
      this.panel.replaceChildren(this.axes, this.scatter.box);
    } else if (view === "group") {
      const place = this.model.get("selected");
      this.panel.replaceChildren(sideBySide(this.rows, place < this.rows.length ? place : null, (one) => this.tell({ selected: one })));
    }
  }

  /** Which columns the scatter is over, and its keys. */
  drawAxes() {
    const known = NUMBERS.filter((key) => this.rows.some((row) => numberOf(row, key) !== null));
    const parts = ["y", "x"].map((axis) => {
      const select = element("select", "vpd-field vpd-rt-axis");
      select.tabIndex = -1;
      const label = element("label", "vpd-caps", axis === "y" ? "up " : "across ");
      for (const key of known) select.append(new Option(NAMED[key], key, false, key === this.model.get(axis)));
      select.addEventListener("change", () => this.tell({ [axis]: select.value, brush: null }));
      label.append(select);
      return label;
    });
    const keys = ["right", "wrong"].map((kind) => {
      const swatch = shape("svg", { width: 12, height: 12, "aria-hidden": "true" });
      swatch.append(shape("path", { d: kind === "wrong" ? "M3 3l6 6m0 -6l-6 6" : "M6 6h0", class: `vpd-rt-point vpd-rt-point-${kind}` }));
      const key = element("span", "vpd-key");
      key.append(swatch, kind);
      return key;
    });
    const hint = this.model.get("brush") ? "double-click or Escape shows all again" : "drag over points to keep these";
    const both = element("span", "vpd-rt-keys");
    both.append(...keys);
    this.axes.replaceChildren(...parts, both, element("span", "vpd-hint", hint));
  }

  /** How many characters of each column of texts fit, and how many to leave out where one does not fit. */
  fit() {
    const before = JSON.stringify(this.shortened);
    this.shortened = {};
    for (const [i, { key }] of this.columns.entries()) {
      if (!LETTER[key]) continue;
      const fits = Math.max(8, Math.floor(this.header.children[i].clientWidth / LETTER[key]));
      const texts = [...new Set(this.places.map((place) => this.textOf(key, this.rows[place])))];
      this.shortened[key] = { fits, shared: leftOut(texts, fits) };
    }
    if (JSON.stringify(this.shortened) !== before) this.drawn = "";
  }

  textOf(key, row) {
    return key === "source" ? feedbackOf(row) : clean(row[key] ?? "–", 2000);
  }

  drawHead() {
    const right = this.rows.filter((row) => row.success === true).length;
    const wrong = this.rows.filter((row) => row.success === false).length;
    const silent = this.rows.filter((row) => row.signal === false).length;
    const parts = [element("div", "vpd-title", clean(this.model.get("title")) || "Rollouts")];
    parts.push(element("span", "vpd-badge vpd-right", `${right} right`), element("span", "vpd-badge vpd-wrong", `${wrong} wrong`));
    if (silent) parts.push(element("span", "vpd-mark", `${silent} without signal`));
    const margin = marginOf(this.rows);
    if (margin !== null) {
      const mark = element("span", "vpd-mark", `margin ${brief(margin, true)}`);
      mark.title = "mean implicit reward of the right rollouts minus that of the wrong ones";
      parts.push(mark);
    }
    this.head.replaceChildren(...parts);
    const name = clean(this.model.get("title")) || "Rollouts";
    this.body.setAttribute(
      "aria-label",
      `${name}: ${counted(this.rows.length, "rollout")}. Up and down arrows move, Enter selects, left and right arrows sort, ` +
        "R reverses, V changes the view, slash searches, Escape leaves.",
    );
  }

  drawControls() {
    const items = OUTCOMES.map((id) => ({ id, name: id }));
    const count = this.places.length === this.rows.length ? counted(this.rows.length, "rollout") : `${this.places.length} of ${counted(this.rows.length, "rollout")}`;
    const pick = choice(items, this.model.get("outcome"), (outcome) => this.tell({ outcome }));
    const view = choice(VIEWS.map((id) => ({ id, name: id })), this.model.get("view"), (one) => this.tell({ view: one }));
    // The field stays in the document: moving it would lose the caret.
    if (!this.search.isConnected) this.controls.append(this.search);
    for (const node of [...this.controls.children]) if (node !== this.search) node.remove();
    this.controls.prepend(pick);
    if (this.model.get("can_search") && !this.model.offline) {
      const all = element("button", "vpd-option", "all iterations");
      Object.assign(all, { type: "button", tabIndex: -1, title: "search all recorded rollouts of the run (A)" });
      all.setAttribute("aria-pressed", String(this.model.get("everywhere")));
      all.addEventListener("click", () => this.tell({ everywhere: !this.model.get("everywhere") }));
      this.controls.append(all);
    }
    const alarm = this.model.get("alarm");
    if (alarm) {
      const only = element("button", "vpd-option vpd-rt-alarm", `behind ${clean(alarm.name, 40)} ✕`);
      Object.assign(only, { type: "button", tabIndex: -1, title: "show all rollouts again" });
      only.addEventListener("click", () => this.tell({ alarm: null }));
      this.controls.append(only);
    }
    const found = clean(this.model.get("found"), 200);
    this.controls.append(view, saveCorner(() => this.model.get("title") || "rollouts", () => this.places.map((place) => this.rows[place])));
    this.controls.append(element("span", "vpd-caps vpd-num", found || count));
    this.controls.append(element("span", "vpd-hint", "↑ ↓ move · Enter selects · ← → sort · R reverse · / search · V view"));
  }

  drawHeader() {
    const sort = this.model.get("sort");
    this.header.replaceChildren(
      ...this.columns.map(({ key, name, bar, count }) => {
        const button = element("button", `vpd-rt-sort vpd-rt-sort-${key}${bar || count ? " vpd-rt-number" : ""}`, name);
        button.type = "button";
        button.tabIndex = -1;
        const state = sort === key ? "ascending" : sort === `-${key}` ? "descending" : "none";
        button.setAttribute("role", "columnheader");
        button.setAttribute("aria-sort", state);
        button.append(element("span", "vpd-rt-arrow", { ascending: "▲", descending: "▼", none: "" }[state]));
        button.addEventListener("click", () => this.sortBy(key));
        return button;
      }),
    );
  }

  /** Descending, then ascending, then the original order. */
  sortBy(key) {
    const sort = this.model.get("sort");
    const first = ["prompt", "text", "source", "step"].includes(key) ? key : `-${key}`;
    const second = first === key ? `-${key}` : key;
    this.tell({ sort: sort === first ? second : sort === second ? "" : first });
  }

  /** A square per rollout, a column per group: full and green is right, small and red is wrong, hollow has no signal. */
  drawMosaic() {
    const tall = Math.max(0, ...this.groups.map((group) => group.places.length));
    const cell = Math.min(13, Math.floor(this.width / Math.max(1, this.groups.length + 1)));
    this.mosaic.hidden = this.groups.length < 2 || tall < 2 || cell < 4 || tall > 64;
    this.cells = null;
    if (this.mosaic.hidden) return;
    const paths = { right: "", wrong: "", unknown: "", none: "" };
    this.cells = new Map();
    const inside = new Set(this.places);
    const faded = { right: "", wrong: "", unknown: "", none: "" };
    let x = 0;
    let step = this.groups[0].step;
    const labels = [[x, step]];
    for (const group of this.groups) {
      if (group.step !== step) {
        step = group.step;
        x += cell / 2;
        labels.push([x, step]);
      }
      group.places.forEach((place, i) => {
        const row = this.rows[place];
        const kind = row.signal === false ? "none" : outcomeOf(row);
        const inset = kind === "right" ? 1 : kind === "none" ? 2 : Math.max(1.5, cell * 0.26);
        const size = cell - 2 * inset;
        const d = `M${(x + inset).toFixed(1)} ${(i * cell + inset).toFixed(1)}h${size}v${size}h${-size}z`;
        (inside.has(place) ? paths : faded)[kind] += d;
        this.cells.set(place, [x, i * cell]);
      });
      x += cell;
    }
    const foot = labels.length > 1 ? 16 : 0;
    const svg = shape("svg", { width: x, height: tall * cell + foot, class: "vpd-chart vpd-rt-cells", "aria-hidden": "true" });
    for (const [list, extra] of [[paths, ""], [faded, " vpd-rt-faded"]]) {
      for (const [kind, d] of Object.entries(list)) if (d) svg.append(shape("path", { d, class: `vpd-rt-${kind}${extra}` }));
    }
    let last = -Infinity;
    for (const [at, name] of foot ? labels : []) {
      if (at - last < 34) continue;
      svg.append(shape("text", { x: at, y: tall * cell + 12 }, last === -Infinity ? `iteration ${name}` : String(name)));
      last = last === -Infinity ? at + 46 : at;
    }
    this.cell = cell;
    this.ring = shape("g", {});
    svg.append(this.ring);
    const hit = (event) => {
      const frame = svg.getBoundingClientRect();
      const [px, py] = [event.clientX - frame.left, event.clientY - frame.top];
      for (const [place, [cx, cy]] of this.cells) if (px >= cx && px < cx + cell && py >= cy && py < cy + cell) return place;
      return null;
    };
    svg.addEventListener("pointermove", (event) => this.moveTo(hit(event)));
    svg.addEventListener("pointerleave", () => this.moveTo(null));
    svg.addEventListener("click", (event) => hit(event) !== null && this.toggle(hit(event)));
    const caption = element("span", "vpd-caps vpd-rt-legend", "one column per group:");
    for (const [kind, name] of [["right", "right"], ["wrong", "wrong"], ["none", "no signal"]]) {
      if (!paths[kind] && !faded[kind]) continue;
      const swatch = shape("svg", { width: 11, height: 11, "aria-hidden": "true" });
      const inset = kind === "right" ? 1 : 2.5;
      swatch.append(shape("rect", { x: inset, y: inset, width: 11 - 2 * inset, height: 11 - 2 * inset, class: `vpd-rt-${kind}` }));
      const key = element("span", "vpd-key");
      key.append(swatch, name);
      caption.append(key);
    }
    this.mosaic.replaceChildren(svg, caption);
  }

  /** The visible rows. Existing ones are kept, so that text selected in them stays selected. */
  drawRows() {
    const first = Math.max(0, Math.floor(this.body.scrollTop / this.row) - 4);
    const last = Math.min(this.places.length, first + SHOWN + 10);
    if (this.drawn === `${first} ${last}`) return;
    this.drawn = `${first} ${last}`;
    if (this.places.length === 0) {
      this.sheet.replaceChildren(element("div", "vpd-rt-none", this.rows.length ? "No rollout matches the filter" : "No rollouts"));
      return;
    }
    const lines = [];
    for (let line = first; line < last; line++) {
      const place = this.places[line];
      const node = element("div", "vpd-rt-row");
      node.style.top = `${line * this.row}px`;
      node.setAttribute("role", "row");
      node.setAttribute("aria-rowindex", String(line + 1));
      node.dataset.place = place;
      node.append(...this.columns.map((column) => this.cellOf(column, this.rows[place])));
      lines.push(node);
    }
    this.sheet.replaceChildren(...lines);
    this.body.setAttribute("aria-rowcount", String(this.places.length));
  }

  markRows() {
    const selected = this.model.get("selected");
    for (const node of this.sheet.children) {
      const place = node.dataset.place === undefined ? null : Number(node.dataset.place);
      node.setAttribute("aria-selected", String(place !== null && place === selected));
      for (const name of ["vpd-rt-at", "vpd-at"]) node.classList.toggle(name, place !== null && place === this.cursor);
      node.classList.toggle("vpd-chosen", place !== null && place === selected);
    }
  }

  cellOf({ key, bar, count }, row) {
    const cell = element("span", `vpd-rt-cell vpd-rt-${key}`);
    cell.setAttribute("role", "gridcell");
    if (key === "success") {
      const outcome = outcomeOf(row);
      cell.append(element("i", `vpd-data vpd-rt-dot vpd-rt-${outcome}`), row.finished === false ? `${outcome}, truncated` : outcome);
      return cell;
    }
    if (count) {
      cell.classList.add("vpd-rt-number", "vpd-num");
      cell.textContent = String(row[key] ?? "–");
      return cell;
    }
    if (!bar) {
      const said = this.textOf(key, row);
      const { fits, shared } = this.shortened[key] ?? { fits: 160, shared: 0 };
      cell.textContent = keptEnd(said, shared, fits);
      if (cell.textContent !== said || row.source) cell.title = key === "source" && row.source ? `${clean(row.source, 60)}: ${said}` : said;
      if (key === "source" && !row.source) cell.classList.add("vpd-rt-quiet");
      return cell;
    }
    const value = numberOf(row, key);
    cell.classList.add("vpd-rt-number");
    const track = element("span", `vpd-rt-track vpd-rt-${bar}`);
    if (value !== null && this.reach[key] > 0) {
      const share = Math.abs(value) / this.reach[key];
      const fill = element("i", `vpd-data ${value < 0 ? "vpd-rt-minus" : "vpd-rt-plus"}`);
      fill.style.width = `${(bar === "signed" ? 50 : 100) * share}%`;
      track.append(fill);
    }
    cell.append(track, element("span", "vpd-num", value === null ? "–" : key === "length" ? String(value) : brief(value, bar === "signed")));
    return cell;
  }

  /** Update rows, mosaic and details after the cursor or the selection has moved. */
  follow() {
    const selected = this.model.get("selected");
    const place = this.cursor ?? selected;
    this.drawRows();
    this.markRows();
    if (this.cells) {
      const ring = (at, name) => {
        const corner = at === null ? null : this.cells.get(at);
        return corner ? [shape("rect", { x: corner[0], y: corner[1], width: this.cell, height: this.cell, class: name })] : [];
      };
      this.ring.replaceChildren(...ring(selected, "vpd-rt-ring vpd-rt-chosen"), ...ring(this.cursor, "vpd-rt-ring"));
    }
    if (this.model.get("view") === "scatter") this.scatter.mark(selected, this.cursor);
    if (this.model.get("view") === "group" && selected !== this.beside) this.drawPanel();
    this.beside = selected;
    this.drawDetails(place);
    this.status.textContent = this.sentence(place, selected);
  }

  sentence(place, selected) {
    if (place === null || !this.rows[place]) {
      return `${counted(this.places.length, "rollout")}, ${this.places.filter((one) => this.rows[one].success === true).length} right.`;
    }
    const row = this.rows[place];
    const line = this.at.get(place);
    const where = line === undefined ? "hidden by the filter" : `row ${line + 1} of ${this.places.length}`;
    return `${where}${place === selected ? ", selected" : ""} · ${outcomeOf(row)} · ${clean(row.text, 80)}`;
  }

  drawDetails(place) {
    this.details.hidden = place === null || !this.rows[place];
    if (this.details.hidden) return;
    const row = this.rows[place];
    const group = (this.groupOf.get(place)?.places ?? []).map((one) => this.rows[one]);
    const head = element("div", "vpd-read-head");
    head.append(element("span", "vpd-rt-name", placeLabel(row, place)));
    head.append(element("span", `vpd-badge vpd-${outcomeOf(row)}`, outcomeOf(row)));
    if (row.finished === false) head.append(element("span", "vpd-mark", "truncated at the token limit"));
    if (row.truncated) head.append(element("span", "vpd-mark", `${counted(row.truncated, "token")} of the feedback truncated`));
    if (!row.recorded) head.append(element("span", "vpd-caps", "no per-token numbers recorded"));
    const margin = marginOf(group);
    const right = group.filter((one) => one.success === true).length;
    const words = `its group: ${right} of ${group.length} right${margin === null ? "" : `, margin ${brief(margin, true)}`}`;
    head.append(element("span", "vpd-caps vpd-rt-group", words));
    const read = row.parsed !== null && row.parsed !== undefined ? clean(row.parsed, 80) : "none";
    const texts = [
      ["problem", row.prompt],
      [row.turn_roles ? "" : "response", row.text],
      ["parsed answer", `${read}${row.answer ? `, expected ${clean(row.answer, 80)}` : ""}`],
      [row.critique ? `feedback${row.turn_roles && row.feedback_turn ? ` on turn ${row.feedback_turn}` : ""}` : "", row.critique],
      [row.demonstration ? "solution shown to the teacher" : "", row.demonstration],
      [row.signal === false ? "no signal" : "", row.reason],
    ];
    const grid = element("div", "vpd-rt-texts");
    for (const [label, text] of texts) {
      if (!label || !text) continue;
      const block = element("div", "vpd-rt-said");
      block.append(element("div", "vpd-caps", label), scroller("vpd-rt-words", visible(text)));
      grid.append(block);
    }
    if (row.turn_roles) grid.append(conversationOf(row));
    this.details.replaceChildren(head, grid);
  }

  // -- pointer and keys --

  placeAt(event) {
    const node = event.target.closest?.(".vpd-rt-row");
    return node?.dataset.place === undefined ? null : Number(node.dataset.place);
  }

  onClick(event) {
    const place = this.placeAt(event);
    if (place !== null && !copying(this.root)) this.toggle(place);
  }

  toggle(place) {
    this.tell({ selected: place === this.model.get("selected") ? null : place });
  }

  moveTo(place) {
    if (place === this.cursor) return;
    this.cursor = place;
    this.follow();
  }

  goTo(line) {
    if (this.places.length === 0) return;
    const to = Math.min(Math.max(line, 0), this.places.length - 1);
    if (to * this.row < this.body.scrollTop) this.body.scrollTop = to * this.row;
    const over = (to + 1) * this.row - this.body.clientHeight;
    if (over > this.body.scrollTop) this.body.scrollTop = over;
    this.moveTo(this.places[to]);
  }

  sortByNext(by) {
    const keys = ["", ...this.columns.map((column) => column.key)];
    const at = keys.indexOf(this.model.get("sort").replace(/^-/, ""));
    const key = keys[(at + by + keys.length) % keys.length];
    this.tell({ sort: key && !["prompt", "text", "source", "step"].includes(key) ? `-${key}` : key });
  }

  onKey(event) {
    const from = this.at.get(this.cursor ?? this.model.get("selected")) ?? null;
    const by = (count) => () => this.goTo(from === null ? 0 : from + count);
    const chosen = () => this.cursor ?? this.model.get("selected");
    takeKeys(
      event,
      {
        ArrowUp: by(-1), ArrowDown: by(1), PageUp: by(-SHOWN), PageDown: by(SHOWN),
        Home: () => this.goTo(0), End: () => this.goTo(this.places.length - 1),
        ArrowLeft: () => this.sortByNext(-1), ArrowRight: () => this.sortByNext(1), r: () => this.reverse(), R: () => this.reverse(),
        Enter: () => chosen() !== null && this.toggle(chosen()), " ": () => chosen() !== null && this.toggle(chosen()),
        Escape: () => (this.cursor !== null ? this.moveTo(null) : this.tell(this.model.get("brush") ? { brush: null } : { selected: null })),
        v: () => this.tell({ view: VIEWS[(VIEWS.indexOf(this.model.get("view")) + 1) % VIEWS.length] }),
        a: () => this.model.get("can_search") && this.tell({ everywhere: !this.model.get("everywhere") }),
        "/": () => this.search.focus(),
        f: () => this.tell({ outcome: OUTCOMES[(OUTCOMES.indexOf(this.model.get("outcome")) + 1) % OUTCOMES.length] }),
      },
      () => this.cursor !== null || this.model.get("selected") !== null || Boolean(this.model.get("brush")),
    );
  }

  reverse() {
    const sort = this.model.get("sort");
    if (sort) this.tell({ sort: sort.startsWith("-") ? sort.slice(1) : `-${sort}` });
  }
}

export default widgetOf(RolloutTable);
