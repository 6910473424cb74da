// TokenLens: a response as coloured text, with both distributions at the current token.
// Plain ES module; shared.js is prepended to it.

const ROWS = 10; // tokens in the two lists of bars
const SPANS = 10;
const SHORT = 80; // tokens of a response that is set larger
const LONG_REPLY = { characters: 400, tokens: 80 }; // a reply above either is folded at first
// The per-token numbers of a packed record: those of token_lens.py.
const NUMBERS = [
  "student_logp", "teacher_logp", "kl", "divergence", "student_entropy", "teacher_entropy", "student_rank", "teacher_rank",
  "sampled_logp", "alpha_divergence", "alpha_divergence_push", "alpha_divergence_part", "cross_entropy", "cross_entropy_push",
  "clipped_kl", "clipped_kl_push", "clipped_kl_part", "to_come", "entropy_share", "reference_logp",
];
const SPECIAL = /^<\|.{1,40}\|>$|^<\/?[a-z_]{1,20}>$|^\[[A-Z]{2,10}\]$/;

// The measures that can colour tokens. `of(record, i)` is NaN where the record has no value.
export const MEASURES = [
  {
    id: "kl", name: "KL", unit: "nats", needs: ["kl"], of: (r, i) => r.kl[i],
    about: "divergence of the two distributions: KL(student ‖ teacher)",
  },
  {
    id: "ratio", name: "log q/π", unit: "nats", signed: true, needs: ["teacher_logp", "student_logp"],
    of: (r, i) => r.teacher_logp[i] - r.student_logp[i], ends: ["less likely under the teacher", "more likely"],
    about: "log q − log π of the sampled token",
  },
  {
    id: "reward", name: "β log q/π", unit: "reward", signed: true, needs: ["teacher_logp", "student_logp", "beta"],
    of: (r, i) => r.beta * (r.teacher_logp[i] - r.student_logp[i]), ends: ["lowers the reward", "raises it"],
    about: "the token's part of the response's implicit reward",
  },
  {
    id: "rank", name: "rank change", unit: "ranks", signed: true, needs: ["student_rank", "teacher_rank"],
    of: rankChange, ends: ["teacher ranks it lower", "higher"],
    about: "by how many places the token ranks higher in the teacher's top-k list than in the student's",
  },
  {
    id: "student_entropy", name: "entropy π", unit: "nats", needs: ["student_entropy"],
    of: (r, i) => r.student_entropy[i], about: "uncertainty of the student about this token",
  },
  {
    id: "teacher_entropy", name: "entropy q", unit: "nats", needs: ["teacher_entropy"],
    of: (r, i) => r.teacher_entropy[i], about: "uncertainty of the teacher about this token",
  },
  {
    id: "surprise", name: "−log π", unit: "nats", needs: ["student_logp"], of: (r, i) => -r.student_logp[i],
    about: "−log π: how improbable the sampled token was under the student",
  },
];

// ---- pure functions, tested in node ----

/** Whether the policy wrote token `i`: the environment's have no part in any measure. */
export function isOwn(record, i) {
  return !record.mask || record.mask[i] !== 0;
}

/** The values of a measure: NaN where it has none, and at tokens that the policy did not write. */
export function valuesOf(record, measure) {
  return Float32Array.from(record.tokens, (_, i) => (isOwn(record, i) ? measure.of(record, i) : NaN));
}

/** The policy's token that is `by` of its own tokens after `from` (before, where negative), as near as there is one. */
export function ownTokenFrom(record, from, by) {
  const way = Math.sign(by);
  let found = from;
  for (let i = from + way, left = Math.abs(by); left > 0 && i >= 0 && i < record.tokens.length; i += way) {
    if (!isOwn(record, i)) continue;
    found = i;
    left -= 1;
  }
  return found;
}

/** Whether a turn is folded until the reader opens it: a tool's output, or a long reply. */
export function foldedAtFirst(turn) {
  const long = turn.text.length > LONG_REPLY.characters || turn.end - turn.start > LONG_REPLY.tokens;
  return !turn.own && (turn.role === "tool" || long);
}

/** Places gained from the student's list to the teacher's. A token outside a list counts as ranked directly after it. */
export function rankChange(record, i) {
  const [a, b] = [record.student_rank[i], record.teacher_rank[i]];
  if (Number.isNaN(a) && Number.isNaN(b)) return NaN;
  const outside = (side) => (record.tops[side]?.k ?? 0) + 1;
  return (Number.isNaN(a) ? outside("student") : a) - (Number.isNaN(b) ? outside("teacher") : b);
}

/** The measures that a record has numbers for, its named weights among them. */
export function measuresOf(record) {
  const own = MEASURES.filter((one) => one.needs.every((name) => record[name] !== null && record[name] !== undefined));
  const named = Object.entries(record.weights).map(([name, values]) => ({
    id: name, name: clean(name, 40), unit: "", signed: values.some((value) => value < 0), of: (_, i) => values[i],
    ends: ["negative", "positive"], about: "further numbers in the record",
  }));
  return [...own, ...named];
}

/** The scale of a measure over records, so that colours are comparable between them. */
export function sharedMax(records, id) {
  const all = [];
  for (const record of records) {
    const own = measuresOf(record).find((one) => one.id === id);
    if (own) for (const value of valuesOf(record, own)) all.push(value);
  }
  return scaleMax(all);
}

/** A row for each token of a record, with its numbers, for a file. */
export function tokenRows(record) {
  const names = [...NUMBERS.filter((name) => record[name]), ...Object.keys(record.weights)];
  return record.tokens.map((token, i) => {
    const row = { place: i, token, own: isOwn(record, i) };
    for (const name of names) {
      const value = (record[name] ?? record.weights[name])[i];
      row[name] = Number.isFinite(value) ? value : null;
    }
    return row;
  });
}

/** A packed record (vpdlab_widgets/token_lens.py) with typed arrays in place of bytes. */
export function unpackRecord(packed) {
  const { meta } = packed;
  const record = { meta, beta: meta.beta ?? null, tokens: unpackTexts(packed.tokens), weights: {}, tops: {}, contexts: {} };
  const numbers = packed.numbers ?? {};
  for (const name of NUMBERS) record[name] = unpackNumbers(numbers[name]);
  for (const [name, bytes] of Object.entries(packed.weights ?? {})) record.weights[name] = unpackNumbers(bytes);
  record.mask = unpackNumbers(packed.mask, Int32Array);
  record.turns = turnsOf(meta);
  record.words = unpackTexts(packed.words) ?? [];
  for (const [side, top] of Object.entries(packed.tops ?? {})) {
    record.tops[side] = { k: top.k, ids: unpackNumbers(top.ids, Int32Array), logp: unpackNumbers(top.logp) };
  }
  for (const [side, texts] of Object.entries(packed.contexts ?? {})) record.contexts[side] = unpackTexts(texts);
  return record;
}

/** Runs of neighbours of the same sign above a share of `max`, largest sums first; `peak` is a run's largest value. */
export function largestSpans(values, max, count = SPANS, share = 0.2) {
  const spans = [];
  let open = null;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    const strong = max > 0 && Math.abs(value) >= share * max; // false for NaN
    if (strong && open && open.end === i && Math.sign(open.sum) === Math.sign(value)) {
      open.sum += value;
      open.end = i + 1;
      if (Math.abs(value) > Math.abs(values[open.peak])) open.peak = i;
    } else if (strong) {
      open = { start: i, end: i + 1, peak: i, sum: value };
      spans.push(open);
    }
  }
  return spans.sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum) || a.start - b.start).slice(0, count);
}

/**
 * Both distributions at token `i`: the tokens of both lists ordered by their larger probability, the sampled token
 * always included, and the mass of all others. A probability that was not recorded is null.
 */
export function distributionsAt(record, i, count = ROWS) {
  const sides = ["student", "teacher"];
  const rows = new Map();
  const mass = { student: 0, teacher: 0 };
  for (const side of sides) {
    const top = record.tops[side];
    if (!top) continue;
    for (let j = i * top.k; j < (i + 1) * top.k; j++) {
      if (top.ids[j] < 0) continue;
      const word = record.words[top.ids[j]];
      const row = rows.get(top.ids[j]) ?? { word, student: null, teacher: null, written: false };
      row[side] = Math.exp(top.logp[j]);
      mass[side] += row[side];
      rows.set(top.ids[j], row);
    }
  }
  const written = { student: exact(record.student_logp, i), teacher: exact(record.teacher_logp, i) };
  // Two tokens may have the same text: take the one with the sampled token's own probability.
  const same = [...rows.values()].find(
    (row) => row.word === record.tokens[i] && sides.every((side) => row[side] === null || near(row[side], written[side])),
  );
  const mine = same ?? { word: record.tokens[i], student: null, teacher: null };
  mine.written = true;
  for (const side of sides) {
    if (mine[side] === null && written[side] !== null) {
      mine[side] = written[side];
      if (record.tops[side]) mass[side] += written[side];
    }
  }
  const largest = (row) => Math.max(row.student ?? 0, row.teacher ?? 0);
  const sorted = [...new Set([...rows.values(), mine])].sort((a, b) => largest(b) - largest(a));
  const shown = sorted.slice(0, count);
  if (!shown.includes(mine)) shown[shown.length - 1] = mine;
  const shownMass = (side) => shown.reduce((sum, row) => sum + (row[side] ?? 0), 0);
  const rest = Object.fromEntries(sides.map((side) => [side, record.tops[side] ? Math.max(0, 1 - shownMass(side)) : null]));
  return { rows: shown, rest };
}

function exact(logps, i) {
  return logps && Number.isFinite(logps[i]) ? Math.exp(logps[i]) : null;
}

function near(a, b) {
  return b === null || Math.abs(a - b) <= 1e-4 * Math.max(a, b) + 1e-12;
}

/** Length of the shared prefix of two lists, and then of their shared suffix. */
export function sharedEnds(a, b) {
  let head = 0;
  while (head < Math.min(a.length, b.length) && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < Math.min(a.length, b.length) - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  return { head, tail };
}

// ---- parts of the view ----

/** A run of tokens as blocks of spans, each span with its index. */
function tokenBlocks(tokens, from, className = "") {
  let start = 0;
  const blocks = [];
  for (const end of chunkEnds(tokens)) {
    const block = element("div", "vpd-chunk");
    let length = 0;
    for (let i = start; i < end; i++) {
      const token = tokens[i];
      const span = document.createElement("span");
      span.vpdAt = from + i;
      span.vpdBase = kindOf(token) + className;
      span.className = `vpd-tok${span.vpdBase}`;
      span.textContent = visible(token) || "∅";
      block.append(span);
      length += token.length;
    }
    expectHeight(block, length);
    blocks.push(block);
    start = end;
  }
  return blocks;
}

function kindOf(token) {
  if (token.includes("\n")) return " vpd-tl-break";
  if (token === "") return " vpd-tl-special";
  return SPECIAL.test(token) ? " vpd-tl-special" : "";
}

/** What is said of tokens that the environment wrote. */
const MASKED = "masked: no part in loss, credit or scales";

/** The runs of tokens that the policy did not write, as [start, end]. */
function maskedRuns(record) {
  const runs = [];
  for (let i = 0; i < (record.mask?.length ?? 0); i++) {
    if (isOwn(record, i)) continue;
    if (runs.at(-1)?.[1] === i) runs.at(-1)[1] = i + 1;
    else runs.push([i, i + 1]);
  }
  return runs;
}

function outcomeOf(meta) {
  if (meta.success === true) return ["right", "vpd-right"];
  if (meta.success === false) return [meta.finished === false ? "truncated at the token limit" : "wrong", "vpd-wrong"];
  return ["", ""];
}

// ---- the view ----

class TokenLens extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-tl");
    this.cursor = null; // the token under the pointer or the arrow keys
    this.byPlace = false; // the order of the spans
    this.folds = new Map(); // "record turn" -> whether the reader has folded or opened it
    this.xray = null; // whether both prompts are shown; null leaves it to how much room they need
    this.build();
    this.hear("change:packed", () => this.takeRecords());
    this.hear("change:index", () => this.schedule());
    this.hear("change:colour", () => this.paint());
    this.hear("change:selected", () => this.showToken());
    this.hear("change:title", () => (this.title.textContent = this.titleText()));
    this.hear("change:why", () => this.paint());
    this.watch(this.root);
    this.takeRecords();
    this.draw();
  }

  build() {
    this.head = element("div", "vpd-head");
    this.controls = element("div", "vpd-tools vpd-tl-controls");
    this.steps = element("div", "vpd-tools vpd-tl-steps");
    this.about = element("div", "vpd-tl-about");
    this.profile = element("div", "vpd-tl-profile");
    this.stage = element("div", "vpd-tl-stage");
    this.makeHome(this.stage, "group", "tokens");
    this.card = element("div", "vpd-box vpd-tl-card");
    this.spans = element("div", "vpd-tools vpd-tl-spans");
    this.reason = element("section", "vpd-box vpd-tl-why");
    this.under = element("div", "vpd-tl-xray");
    this.status = statusLine("vpd-tl-status");
    this.column = element("div", "vpd-tl-text");
    this.column.append(this.profile, this.stage, this.spans);
    const main = element("div", "vpd-tl-main");
    main.append(this.column, this.card);
    this.root.append(this.head, this.about, this.steps, this.controls, main, this.reason, this.under, this.status);
    for (const box of [this.stage, this.under]) {
      this.listen(box, "pointerover", (event) => this.onPointer(event));
      this.listen(box, "pointerleave", () => this.moveTo(null));
      this.listen(box, "click", (event) => this.onClick(event));
    }
  }

  takeRecords() {
    this.packed = this.model.get("packed") ?? [];
    this.unpacked = new Map();
    this.maxima = new Map();
    this.folds = new Map();
    this.shown = null;
    this.schedule();
  }

  recordAt(index) {
    if (!this.unpacked.has(index)) this.unpacked.set(index, unpackRecord(this.packed[index]));
    return this.unpacked.get(index);
  }

  // -- drawing --

  draw() {
    const width = Math.floor(this.root.clientWidth);
    const index = this.model.get("index");
    const known = index !== null && index < this.packed.length;
    this.record = known ? this.recordAt(index) : null;
    const changed = this.shown !== this.record || this.record === null;
    this.shown = this.record;
    if (changed) {
      this.cursor = null;
      this.drawHead();
      this.drawSteps(index);
      this.drawAbout();
      this.drawText();
      this.drawXray();
    }
    if (changed || width !== this.width) {
      this.width = width;
      this.paint();
    }
  }

  titleText() {
    return clean(this.model.get("title")) || "Token lens";
  }

  drawHead() {
    const meta = this.record?.meta ?? {};
    this.title = element("div", "vpd-title", this.titleText());
    const parts = [this.title];
    const [outcome, tone] = outcomeOf(meta);
    if (outcome) parts.push(element("span", `vpd-badge ${tone}`, outcome));
    if (this.packed.length === 1 && placeLabel(meta)) parts.push(element("span", "vpd-mark", placeLabel(meta)));
    if (this.record?.turns.length) {
      parts.push(element("span", "vpd-mark", counted(this.record.turns.filter((turn) => turn.own).length, "turn")));
    }
    if (meta.source) parts.push(element("span", "vpd-mark", `feedback: ${clean(meta.source, 60)}`));
    if (meta.truncated) parts.push(element("span", "vpd-mark vpd-tl-warn", `${counted(meta.truncated, "token")} of the feedback truncated`));
    const keys = element("span", "vpd-keys");
    if (this.record?.teacher_logp) keys.append(sideKey("student", "student π"), sideKey("teacher", "teacher q"));
    const corner = saveCorner(() => this.model.get("title") || "tokens", () => tokenRows(this.record));
    this.head.replaceChildren(...parts, keys, ...(this.record?.tokens ? [corner] : []));
  }

  drawAbout() {
    const meta = this.record?.meta ?? {};
    const told = meta.critique || meta.demonstration;
    const blocks = [["problem", meta.prompt]];
    if (meta.critique) blocks.push([`feedback${this.aboutTurn(meta)}, read by the teacher only`, meta.critique]);
    if (meta.demonstration) blocks.push([`solution${this.aboutTurn(meta)}, read by the teacher only`, meta.demonstration]);
    if (!told && meta.reason) blocks.push(["no feedback", meta.reason]);
    this.about.replaceChildren(
      ...blocks.filter(([, text]) => text).map(([name, text]) => {
        const block = element("div", "vpd-tl-said");
        block.append(element("div", "vpd-caps", name), scroller("vpd-tl-words", visible(text).slice(0, 6000)));
        return block;
      }),
    );
  }

  aboutTurn(meta) {
    return this.record.turns.some((turn) => turn.about) ? ` on turn ${meta.feedback_turn}` : "";
  }

  /** Choice of the record: its problem, and a slider over that problem's iterations and rollouts. */
  drawSteps(index) {
    this.steps.hidden = this.packed.length < 2;
    if (this.steps.hidden) return;
    const problems = new Map();
    this.packed.forEach(({ meta }, i) => {
      const id = String(meta.problem_id ?? "");
      problems.set(id, [...(problems.get(id) ?? []), i]);
    });
    for (const list of problems.values()) list.sort((a, b) => this.order(a) - this.order(b) || a - b);
    const current = this.record === null ? null : String(this.record.meta.problem_id ?? "");
    const parts = [];
    if (problems.size > 1 && current !== null) {
      const select = element("select", "vpd-field vpd-tl-problem");
      select.tabIndex = -1;
      select.setAttribute("aria-label", "problem");
      for (const [id, list] of problems) {
        const option = element("option", "", clean(this.packed[list[0]].meta.prompt || id, 70));
        option.value = id;
        option.selected = id === current;
        select.append(option);
      }
      select.addEventListener("change", () => this.tell({ index: problems.get(select.value)[0] }));
      parts.push(select);
    }
    const mine = problems.get(current) ?? [];
    // The slider must remain the same element while it is dragged.
    const same = this.range?.isConnected && this.mine?.length > 1 && mine.join() === this.mine.join();
    this.mine = mine;
    if (!same) {
      this.makeSlider();
      this.steps.replaceChildren(...parts, ...(mine.length > 1 ? [this.track, this.where, this.count] : []));
    }
    if (mine.length > 1) this.setSlider(index);
  }

  order(i) {
    const { meta } = this.packed[i];
    return (meta.step ?? 0) * 1e6 + (meta.index ?? 0);
  }

  makeSlider() {
    this.range = element("input", "vpd-tl-range");
    Object.assign(this.range, { type: "range", min: 0, max: this.mine.length - 1, step: 1, tabIndex: -1 });
    this.range.setAttribute("aria-label", "recorded rollouts of this problem");
    this.range.addEventListener("input", () => this.tell({ index: this.mine[Number(this.range.value)] }));
    // The outcome of each rollout, to show where it changes.
    this.dots = this.mine.length <= 64 ? this.mine.map((i) => element("i", `vpd-data vpd-tl-tick ${outcomeOf(this.packed[i].meta)[1]}`)) : [];
    const dots = element("span", "vpd-tl-ticks");
    dots.append(...this.dots);
    this.track = element("span", "vpd-tl-track");
    this.track.append(this.range, dots);
    this.where = element("span", "vpd-num vpd-tl-where");
    this.count = element("span", "vpd-caps");
  }

  setSlider(index) {
    const at = this.mine.indexOf(index);
    this.range.value = String(at);
    this.where.textContent = placeLabel(this.packed[index].meta);
    this.range.setAttribute("aria-valuetext", this.where.textContent);
    this.count.textContent = `${at + 1} of ${this.mine.length} recorded`;
    this.dots.forEach((dot, i) => dot.classList.toggle("vpd-tl-here", i === at));
  }

  step(by) {
    const at = this.mine?.indexOf(this.model.get("index")) ?? -1;
    const next = this.mine?.[at + by];
    if (next !== undefined) this.tell({ index: next });
  }

  drawText() {
    const { record } = this;
    this.spanAt = [];
    if (record === null) {
      this.stage.replaceChildren(element("div", "vpd-empty", this.packed.length ? "Choose a rollout" : "No rollouts"));
      return;
    }
    this.folders = [];
    this.stage.replaceChildren(
      ...(record.turns.length
        ? record.turns.map((turn, i) => this.turnBox(turn, i))
        : this.textBlocks(0, record.tokens?.length, record.meta.text)),
    );
    this.stage.scrollTop = 0;
    this.stage.classList.toggle("vpd-tl-short", this.isShort());
    const count = record.tokens ? this.counts() : "text without recorded tokens";
    const turns = record.turns.length ? "T moves to the next turn, O opens or folds the environment's replies, " : "";
    const why = this.explains() ? "W shows the formula of this push, M the next method's, " : "";
    this.stage.setAttribute(
      "aria-label",
      `Response, ${count}. Arrow keys move, Enter pins, C changes the colour, N moves to the next large span, ` +
        `${turns}brackets change the rollout, ${why}X both prompts, Escape leaves.`,
    );
  }

  /** How many tokens there are, and how many of them the policy wrote. */
  counts() {
    const { tokens, mask } = this.record;
    const all = counted(tokens.length, "token");
    return mask ? `${all}, ${tokens.filter((_, i) => isOwn(this.record, i)).length} of them the policy's own` : all;
  }

  /** Part of the response as blocks: its tokens, or the text of a record without tokens. */
  textBlocks(start, end, text) {
    if (!this.record.tokens) return [element("div", "vpd-chunk", visible(text))];
    const blocks = tokenBlocks(this.record.tokens.slice(start, end), start);
    for (const block of blocks) this.spanAt.push(...block.childNodes);
    return blocks;
  }

  /** A turn of an episode under the name of its speaker; replies of the environment can be folded. */
  turnBox(turn, place) {
    const box = element("section", `vpd-tl-turn ${turn.own ? "vpd-tl-policy" : "vpd-tl-reply"}${turn.about ? " vpd-tl-heard" : ""}`);
    const head = element("div", "vpd-tl-turn-head");
    const body = element("div", "vpd-tl-turn-body");
    body.append(...this.textBlocks(turn.start, turn.end, turn.text));
    const name = element("span", "vpd-tl-speaker", speakerOf(turn));
    const size = this.record.tokens ? counted(turn.end - turn.start, "token") : "";
    head.append(name, element("span", "vpd-caps vpd-num", turn.own ? size : [size, MASKED].filter(Boolean).join(", ")));
    if (turn.about) head.append(element("span", "vpd-mark vpd-about", ABOUT));
    box.append(head, body);
    if (!turn.own) this.addFold(turn, place, head, body);
    return box;
  }

  addFold(turn, place, head, body) {
    const key = `${this.model.get("index")} ${place}`;
    const button = element("button", "vpd-button vpd-tl-fold");
    button.type = "button";
    button.tabIndex = -1; // O does the same
    const start = element("div", "vpd-tl-fold-text", clean(turn.text, 160));
    const pinned = this.selected();
    const holdsPin = pinned !== null && pinned >= turn.start && pinned < turn.end;
    const folder = { start: turn.start, end: turn.end, folded: this.folds.get(key) ?? (foldedAtFirst(turn) && !holdsPin) };
    folder.set = (folded) => {
      folder.folded = folded;
      this.folds.set(key, folded);
      draw();
    };
    const draw = () => {
      body.hidden = folder.folded;
      start.hidden = !folder.folded;
      button.textContent = folder.folded ? "open" : "fold";
      button.setAttribute("aria-expanded", String(!folder.folded));
      button.setAttribute("aria-label", `${button.textContent} the reply of the ${speakerOf(turn)}`);
    };
    button.addEventListener("click", () => folder.set(!folder.folded));
    head.append(button);
    body.before(start);
    this.folders.push(folder);
    draw();
  }

  /** Open all replies of the environment; fold them where all are open. */
  foldAll() {
    const folded = !this.folders.some((folder) => folder.folded);
    for (const folder of this.folders) folder.set(folded);
  }

  /** To the first token of the policy's next turn, or its previous one. */
  nextTurn(by) {
    const own = (this.record?.tokens ? this.record.turns : []).filter((turn) => turn.own && turn.end > turn.start);
    if (!own.length) return;
    const at = this.cursor ?? this.selected();
    const here = at === null ? -1 : own.findLastIndex((turn) => turn.start <= at);
    const next = at === null ? (by > 0 ? 0 : own.length - 1) : Math.min(Math.max(here + by, 0), own.length - 1);
    this.jump(own[next].start);
  }

  /** The measures that can colour what is shown. */
  offered() {
    return this.record?.tokens ? measuresOf(this.record) : [];
  }

  measure() {
    const offered = this.offered();
    return offered.find((one) => one.id === this.model.get("colour")) ?? offered[0] ?? null;
  }

  /** One scale for all records on the slider, so that colours are comparable between iterations. */
  maxOf(measure) {
    if (!this.maxima.has(measure.id)) {
      const told = [...this.packed.keys()].filter((i) => this.packed[i].tokens);
      this.maxima.set(measure.id, sharedMax(told.map((i) => this.recordAt(i)), measure.id));
    }
    return this.maxima.get(measure.id);
  }

  /** Colour the tokens, and update everything that depends on the measure. */
  paint() {
    const measure = this.measure();
    this.values = measure && valuesOf(this.record, measure);
    this.max = measure ? this.maxOf(measure) : 0;
    this.drawControls(measure);
    if (this.values) {
      this.spanAt.forEach((span, i) => {
        const heat = isOwn(this.record, i) ? heatClass(this.values[i], this.max) : "vpd-tl-masked";
        span.vpdHeat = heat ? ` ${heat}` : "";
        span.className = `vpd-tok${span.vpdBase}${span.vpdHeat}`;
      });
    }
    this.found = this.values ? largestSpans(this.values, this.max) : [];
    if (this.byPlace) this.found.sort((a, b) => a.start - b.start);
    this.drawSpans(measure);
    this.drawProfile(measure);
    this.paintXray();
    this.showToken();
  }

  drawControls(measure) {
    if (!this.record) {
      this.controls.replaceChildren();
      return;
    }
    if (!measure) {
      const why = "No per-token numbers for this rollout: a run records them for the first rollouts of each iteration only (record_tokens).";
      this.controls.replaceChildren(element("span", "vpd-caps", why));
      return;
    }
    const items = this.offered().map((one) => ({ id: one.id, name: one.name, title: one.about }));
    const xray = element("button", "vpd-button", this.xrayShown() ? "Hide the prompts" : "X-ray both prompts");
    xray.type = "button";
    xray.tabIndex = -1;
    xray.setAttribute("aria-pressed", String(this.xrayShown()));
    xray.hidden = Object.keys(this.record.contexts).length === 0;
    xray.addEventListener("click", () => this.toggleXray());
    const why = element("button", "vpd-button", "Why this push");
    why.type = "button";
    why.tabIndex = -1; // W does the same
    why.hidden = !this.explains();
    why.setAttribute("aria-pressed", String(this.model.get("why") !== null));
    why.addEventListener("click", () => this.toggleWhy());
    const right = element("span", "vpd-tools vpd-tl-right-tools");
    right.append(why, xray);
    this.controls.replaceChildren(choice(items, measure.id, (id) => this.tell({ colour: id })), heatKey(measure, this.max), right);
    this.controls.title = measure.about;
  }

  drawSpans(measure) {
    this.spans.hidden = this.found.length < 2;
    if (this.spans.hidden) return;
    const order = choice(
      [{ id: "size", name: "largest first" }, { id: "place", name: "in order" }], this.byPlace ? "place" : "size",
      (id) => this.sortSpans(id === "place"),
    );
    const chips = this.found.map((span) => {
      const text = this.record.tokens.slice(span.start, span.end).join("");
      const chip = element("button", "vpd-tl-chip");
      chip.type = "button";
      chip.tabIndex = -1;
      chip.title = span.end - span.start === 1 ? `token ${span.end}` : `tokens ${span.start + 1} to ${span.end}`;
      const heat = heatClass(span.sum, this.max);
      chip.append(element("span", `vpd-tok vpd-tl-chip-text ${heat}`, tokenLabel(text, 18)));
      chip.append(element("span", "vpd-num", brief(span.sum, measure.signed)));
      chip.addEventListener("click", () => this.jump(span.peak, true));
      return chip;
    });
    this.spans.replaceChildren(element("span", "vpd-caps", "spans"), order, ...chips);
  }

  sortSpans(byPlace) {
    this.byPlace = byPlace;
    this.found.sort(byPlace ? (a, b) => a.start - b.start : (a, b) => Math.abs(b.sum) - Math.abs(a.sum));
    this.drawSpans(this.measure());
  }

  /** The measure along the whole response, with the current position; a short response shows its tokens too. */
  drawProfile(measure) {
    this.profile.hidden = !this.values || this.values.length < 2;
    const width = Math.floor(this.profile.clientWidth); // 0 as long as it is hidden
    this.marks = null;
    if (this.profile.hidden || width === 0) return;
    const n = this.values.length;
    const wide = n * 34 <= width;
    const step = Math.min(wide ? 76 : 26, width / n);
    const height = wide ? 132 : 46;
    const [top, bottom] = wide ? [18, height - 20] : [2, height];
    const base = measure.signed ? (top + bottom) / 2 : bottom;
    const reach = (measure.signed ? (bottom - top) / 2 : bottom - top) - (wide && measure.signed ? 14 : 0);
    const svg = shape("svg", { width, height, class: "vpd-chart", "aria-hidden": "true" });
    const columns = Math.min(n, Math.max(1, Math.floor(width / 1.5)));
    for (const [start, end] of maskedRuns(this.record)) {
      const x = (start * step).toFixed(1);
      svg.append(shape("rect", { x, y: 0, width: ((end - start) * step).toFixed(1), height: wide ? bottom : height, class: "vpd-tl-gap" }));
    }
    const paths = { up: "", down: "" };
    for (let column = 0; column < columns; column++) {
      const [start, end] = [Math.floor((column * n) / columns), Math.floor(((column + 1) * n) / columns)];
      let value = 0; // the largest of the column's tokens: a peak must not vanish
      for (let i = start; i < end; i++) if (Math.abs(this.values[i]) > Math.abs(value)) value = this.values[i];
      if (value === 0 || Number.isNaN(value) || this.max === 0) continue;
      const tip = base - Math.sign(value) * Math.max(1, reach * Math.min(1, Math.abs(value) / this.max));
      const x = (((start + end) / 2) * step).toFixed(1);
      paths[value > 0 ? "up" : "down"] += `M${x} ${base}V${tip.toFixed(1)}`;
      const label = wide && Math.abs(value) >= 0.02 * this.max ? fitted(value, step - 3, measure.signed) : "";
      if (label) svg.append(shape("text", { x, y: value > 0 ? tip - 5 : tip + 13, class: "vpd-middle vpd-tl-number" }, label));
    }
    svg.append(shape("path", { d: `M0 ${base + 0.5}H${n * step}`, class: "vpd-frame" }));
    const bar = Math.max(1, Math.min(step - 1.5, step * 0.62 + 2, 34));
    for (const [way, d] of Object.entries(paths)) {
      if (d) svg.append(shape("path", { d, class: `vpd-tl-bars ${way === "up" ? "vpd-orange" : "vpd-blue"}`, "stroke-width": bar }));
    }
    if (wide) {
      const fits = Math.floor(step / 7.5);
      this.record.tokens.forEach((token, i) => {
        const label = shape("text", { x: (i + 0.5) * step, y: height - 5, class: "vpd-middle vpd-tl-under" }, tokenLabel(token, fits));
        svg.append(label);
      });
    }
    this.marks = shape("g", {});
    svg.append(this.marks);
    this.markOf = (i) =>
      wide
        ? shape("rect", { x: (i * step + 1).toFixed(1), y: 1, width: (step - 2).toFixed(1), height: height - 2, rx: 3 })
        : shape("path", { d: `M${((i + 0.5) * step).toFixed(1)} 0V${height}` });
    const at = (event) => {
      const i = Math.floor((event.clientX - svg.getBoundingClientRect().left) / step);
      return i >= 0 && i < n ? i : null;
    };
    svg.addEventListener("click", (event) => at(event) !== null && this.jump(at(event), true));
    svg.addEventListener("pointermove", (event) => this.moveTo(at(event)));
    svg.addEventListener("pointerleave", () => this.moveTo(null));
    this.profile.replaceChildren(svg);
  }

  // -- the current token --

  selected() {
    const selected = this.model.get("selected");
    return selected !== null && this.record?.tokens && selected >= 0 && selected < this.record.tokens.length ? selected : null;
  }

  showToken() {
    const pinned = this.selected();
    for (const [name, i] of [["vpd-tl-pinned", pinned], ["vpd-tl-at", this.cursor]]) {
      for (const span of this.root.querySelectorAll(`.${name}`)) span.classList.remove(name);
      if (i === null) continue;
      this.spanAt[i]?.classList.add(name);
      for (const span of this.twins?.[i] ?? []) span.classList.add(name);
    }
    this.followXray();
    if (this.marks) {
      const mark = (i, name) => {
        if (i === null) return [];
        const node = this.markOf(i);
        node.setAttribute("class", name);
        return [node];
      };
      this.marks.replaceChildren(...mark(pinned, "vpd-tl-pin-line"), ...mark(this.cursor, "vpd-tl-at-line"));
    }
    this.drawCard(pinned);
    const i = this.cursor ?? pinned;
    this.status.textContent = i === null ? this.summary() : this.sentence(i, i === pinned);
  }

  summary() {
    if (!this.record) return "";
    const turns = this.record.turns.length ? "T next turn, O open or fold replies, " : "";
    const keys = `← → token, Enter pins, C colour, N next span, ${turns}[ ] rollout, ${this.explains() ? "W why, M method, " : ""}X prompts`;
    return this.record.tokens ? `${this.counts()}. ${keys}.` : "Text only.";
  }

  sentence(i, pinned) {
    const { record } = this;
    const measure = this.measure();
    const parts = [`token ${i + 1} of ${record.tokens.length} “${tokenLabel(record.tokens[i])}”${pinned ? ", pinned" : ""}`];
    const turn = this.turnAt(i);
    if (turn) parts.push(speakerOf(turn));
    if (!isOwn(record, i)) return [...parts, MASKED].join(" · ");
    if (measure) parts.push(`${measure.name} ${brief(this.values[i], measure.signed)} ${measure.unit}`.trim());
    if (record.student_logp) parts.push(`π ${percent(Math.exp(record.student_logp[i]))}`);
    if (record.teacher_logp) parts.push(`q ${percent(Math.exp(record.teacher_logp[i]))}`);
    return `${parts.join(" · ")}`;
  }

  turnAt(i) {
    return this.record.turns.find((turn) => i >= turn.start && i < turn.end) ?? null;
  }

  /** The first token of the policy. */
  firstOwn() {
    const n = this.record?.tokens?.length ?? 0;
    return n ? ownTokenFrom(this.record, -1, 1) : null;
  }

  /** The token to show before one is selected, and why it; the spans themselves may be sorted by position. */
  resting() {
    const size = (span) => Math.abs(this.values[span.peak]);
    if (!this.found?.length) return [this.firstOwn(), ""];
    return [this.found.reduce((a, b) => (size(b) > size(a) ? b : a)).peak, "largest"];
  }

  drawCard(pinned) {
    const [rest, why] = this.resting();
    const i = this.cursor ?? pinned ?? rest;
    this.card.hidden = i === null || !this.values;
    this.drawWhy(i);
    if (this.card.hidden) return;
    const { record } = this;
    const head = element("div", "vpd-tl-card-head");
    head.append(element("span", "vpd-tl-token", tokenLabel(record.tokens[i])));
    head.append(element("span", "vpd-caps vpd-num", `token ${i + 1} of ${record.tokens.length}`));
    if (i === pinned) head.append(element("span", "vpd-mark", "pinned"));
    else if (this.cursor === null && why) head.append(element("span", "vpd-mark", why));
    const before = record.tokens.slice(Math.max(0, i - 12), i).join("");
    const after = element("div", "vpd-tl-before", before ? `after “…${tokenLabel(before.slice(-44), 60)}”` : "the first token");
    const turn = this.turnAt(i);
    const parts = [head, after];
    if (turn) parts.push(element("div", "vpd-caps vpd-tl-turn-of", `${speakerOf(turn)}${turn.about ? `; ${ABOUT}` : ""}`));
    if (!isOwn(record, i)) {
      this.card.replaceChildren(...parts, element("div", "vpd-tl-unread", `Not the policy's token. It is read as context; ${MASKED}.`));
      return;
    }
    if (Object.keys(record.tops).length) parts.push(this.bars(i));
    parts.push(this.figures(i));
    this.card.replaceChildren(...parts);
  }

  // -- why this push --

  drawWhy(i) {
    const method = this.model.get("why");
    this.reason.hidden = this.card.hidden || method === null;
    if (this.reason.hidden) return;
    const scrolled = [...this.reason.querySelectorAll(".vpd-math")].map((box) => box.scrollLeft);
    this.reason.replaceChildren(
      ...(isOwn(this.record, i)
        ? whyPanel(this.record, i, method, (name) => this.tell({ why: name }))
        : [element("div", "vpd-tl-why-line", `Why this push: ${MASKED}.`)]),
    );
    this.reason.querySelectorAll(".vpd-math").forEach((box, place) => (box.scrollLeft = scrolled[place] ?? 0));
  }

  /** Whether the response was learned from, so that a loss has pushed its tokens. */
  explains() {
    return true;
  }

  toggleWhy() {
    if (this.explains()) this.tell({ why: this.model.get("why") === null ? "" : null });
  }

  nextMethod(by) {
    const own = this.record?.meta.settings?.method;
    if (this.model.get("why") === null || !own) return;
    const names = [...new Set([own, ...Object.keys(LOSSES)])];
    const at = names.indexOf(this.model.get("why") || own);
    this.tell({ why: names[(at + by + names.length) % names.length] });
  }

  bars(i) {
    const { record } = this;
    const two = Boolean(record.tops.teacher || record.teacher_logp);
    const { rows, rest } = distributionsAt(record, i);
    const table = element("div", `vpd-tl-bars-table${two ? "" : " vpd-tl-one"}`);
    const line = (row, className) => {
      const cells = [element("span", "vpd-tl-share vpd-num", row.student === null ? "" : percent(row.student))];
      cells.push(barOf("student", row.student), element("span", "vpd-tl-word", row.label));
      if (two) cells.push(barOf("teacher", row.teacher), element("span", "vpd-tl-share vpd-tl-right vpd-num", row.teacher === null ? "" : percent(row.teacher)));
      const node = element("div", `vpd-tl-row ${className}`);
      node.append(...cells);
      return node;
    };
    const header = element("div", "vpd-tl-row vpd-tl-sides");
    header.append(element("span", "vpd-tl-side-student", "student π"));
    if (two) header.append(element("span", "vpd-tl-side-teacher", "teacher q"));
    table.append(header);
    for (const row of rows) table.append(line({ ...row, label: tokenLabel(row.word, 14) }, row.written ? "vpd-tl-written" : ""));
    table.append(line({ ...rest, label: "all others" }, "vpd-tl-rest"));
    return table;
  }

  figures(i) {
    const { record } = this;
    const has = (name) => record[name] !== null && record[name] !== undefined;
    const ratio = has("teacher_logp") && has("student_logp") ? record.teacher_logp[i] - record.student_logp[i] : NaN;
    const rank = (side) => {
      const value = record[`${side}_rank`]?.[i];
      return Number.isFinite(value) ? String(value) : record.tops[side] ? `> ${record.tops[side].k}` : "–";
    };
    const all = [
      ["log π", has("student_logp") && brief(record.student_logp[i])],
      ["log q", has("teacher_logp") && brief(record.teacher_logp[i])],
      ["log q/π", Number.isFinite(ratio) && brief(ratio)],
      ["β log q/π", Number.isFinite(ratio) && has("beta") && brief(record.beta * ratio)],
      ["KL", has("kl") && brief(record.kl[i])],
      ["divergence", has("divergence") && brief(record.divergence[i])],
      ["entropy π", has("student_entropy") && brief(record.student_entropy[i])],
      ["entropy q", has("teacher_entropy") && brief(record.teacher_entropy[i])],
      ["rank in π", has("student_rank") && rank("student")],
      ["rank in q", has("teacher_rank") && rank("teacher")],
      ...Object.entries(record.weights).map(([name, values]) => [clean(name, 24), brief(values[i])]),
    ];
    const grid = element("div", "vpd-tl-figures");
    for (const [name, value] of all) {
      if (!value) continue;
      const cell = element("span", "vpd-tl-figure");
      cell.append(element("span", "vpd-label", name), " ", element("span", "vpd-num", value));
      grid.append(cell);
    }
    return grid;
  }

  // -- both prompts --

  /** Short prompts are shown initially: beside the card there is room under a short response. */
  xrayShown() {
    const { student = [], teacher = [] } = this.record?.contexts ?? {};
    return this.xray ?? (this.isShort() && student.length + teacher.length > 0 && student.length + teacher.length <= 400);
  }

  isShort() {
    return Boolean(this.record?.tokens) && this.record.tokens.length <= SHORT;
  }

  toggleXray() {
    this.xray = !this.xrayShown();
    this.drawXray();
    this.paint();
  }

  drawXray() {
    this.twins = null;
    if (this.isShort() !== this.column.contains(this.under)) {
      if (this.isShort()) this.column.append(this.under);
      else this.status.before(this.under);
    }
    this.under.hidden = !this.record || !this.xrayShown() || Object.keys(this.record.contexts).length === 0;
    if (this.under.hidden) {
      this.under.replaceChildren();
      return;
    }
    const { student = [], teacher = [] } = this.record.contexts;
    const both = this.record.contexts.student && this.record.contexts.teacher;
    const { head, tail } = both ? sharedEnds(student, teacher) : { head: Infinity, tail: 0 };
    this.twins = {};
    this.under.replaceChildren(
      ...[["student", student], ["teacher", teacher]]
        .filter(([side]) => this.record.contexts[side])
        .map(([side, context]) => this.xraySide(side, context, head, context.length - tail)),
    );
    this.followed = null;
  }

  xraySide(side, context, head, tail) {
    const { meta, tokens } = this.record;
    const box = element("section", `vpd-tl-side vpd-tl-${side}`);
    const name = element("div", "vpd-tl-side-head");
    name.append(sideKey(side, `the ${side}'s prompt`));
    name.append(element("span", "vpd-caps vpd-num", `${counted(context.length, "token")}, then the response's ${tokens.length}`));
    if (side === "teacher" && meta.truncated) name.append(element("span", "vpd-mark vpd-tl-warn", `${meta.truncated} truncated`));
    const text = scroller("vpd-tl-exact");
    const parts = [[0, Math.min(head, context.length), ""], [head, tail, " vpd-tl-own"], [Math.max(head, tail), context.length, ""]];
    for (const [start, end, className] of parts) {
      if (end <= start) continue;
      // Negative indices: not tokens of the response.
      const run = element("span", `vpd-tl-run${className}`);
      for (const block of tokenBlocks(context.slice(start, end), -1e9)) run.append(...block.childNodes);
      text.append(run);
    }
    const divide = element("div", "vpd-tl-divide");
    const response = scroller("vpd-tl-exact vpd-tl-response");
    box.append(name, text, divide, response);
    box.vpdParts = { divide, response, offset: context.length };
    return box;
  }

  /** The response under each prompt: the part around the current token, the same in both. */
  followXray() {
    if (this.under.hidden || !this.record?.tokens) return;
    const i = this.cursor ?? this.selected() ?? this.resting()[0] ?? 0;
    const n = this.record.tokens.length;
    const start = n <= 160 ? 0 : Math.max(0, Math.min(n - 120, Math.floor(i / 40) * 40 - 40));
    const end = n <= 160 ? n : Math.min(n, start + 120);
    for (const box of this.under.children) {
      const { divide, response, offset } = box.vpdParts;
      const place = `response token ${i + 1} is at position ${offset + i + 1}`;
      divide.textContent = place;
      if (this.followed === start) continue;
      const spans = tokenBlocks(this.record.tokens.slice(start, end), start).flatMap((block) => [...block.childNodes]);
      const dots = (there) => (there ? [element("span", "vpd-caps", " … ")] : []);
      response.replaceChildren(...dots(start > 0), ...spans, ...dots(end < n));
    }
    if (this.followed !== start) {
      this.twins = {};
      for (const span of this.under.querySelectorAll(".vpd-tl-response .vpd-tok")) {
        (this.twins[span.vpdAt] ??= []).push(span);
      }
      this.followed = start;
      this.paintXray();
    }
    for (const span of this.twins[i] ?? []) span.classList.add(this.cursor === null ? "vpd-tl-pinned" : "vpd-tl-at");
  }

  paintXray() {
    for (const [i, spans] of Object.entries(this.twins ?? {})) {
      for (const span of spans) span.className = `vpd-tok${span.vpdBase}${this.spanAt[i]?.vpdHeat ?? ""}`;
    }
  }

  // -- pointer and keys --

  onPointer(event) {
    const at = event.target.vpdAt;
    if (at === undefined || at < 0) return;
    this.moveTo(at);
  }

  onClick(event) {
    const at = event.target.vpdAt;
    if (at === undefined || at < 0 || copying(this.root)) return;
    this.pin(at);
  }

  pin(i) {
    this.tell({ selected: i === this.selected() ? null : i });
  }

  moveTo(i) {
    if (i === this.cursor || !this.record?.tokens) return;
    this.cursor = i;
    this.showToken();
  }

  /** Move to token `i` and scroll it into view; `pin` pins it. */
  jump(i, pin = false) {
    const folder = this.folders.find((one) => i >= one.start && i < one.end);
    if (folder?.folded) folder.set(false);
    if (this.spanAt[i]) reveal(this.stage, this.spanAt[i], 48);
    if (!pin) this.moveTo(i);
    else if (i !== this.selected()) this.tell({ selected: i });
  }

  nextSpan(by) {
    if (!this.found?.length) return;
    const at = this.cursor ?? this.selected();
    const current = this.found.findIndex((span) => at !== null && at >= span.start && at < span.end);
    const next = current < 0 ? (by > 0 ? 0 : this.found.length - 1) : (current + by + this.found.length) % this.found.length;
    this.jump(this.found[next].peak);
  }

  nextColour(by) {
    const offered = this.offered().map((one) => one.id);
    const at = offered.indexOf(this.measure()?.id);
    if (at >= 0) this.tell({ colour: offered[(at + by + offered.length) % offered.length] });
  }

  /** The token on the line above or below that is visually nearest. */
  lineFrom(i, by) {
    const here = this.spanAt[i].getBoundingClientRect();
    const x = (here.left + here.right) / 2;
    let best = i;
    let line = null;
    for (let j = i + by; j >= 0 && j < this.spanAt.length; j += by) {
      if (!isOwn(this.record, j)) continue;
      const rect = this.spanAt[j].getBoundingClientRect();
      if (Math.abs(rect.top - here.top) < 6) continue;
      if (line === null) line = rect.top;
      if (Math.abs(rect.top - line) >= 6) break;
      const distance = (one) => Math.abs((one.left + one.right) / 2 - x);
      if (best === i || distance(rect) < distance(this.spanAt[best].getBoundingClientRect())) best = j;
    }
    return best;
  }

  onKey(event) {
    const n = this.spanAt.length;
    const from = this.cursor ?? this.selected();
    // Keys walk over the policy's own tokens; the environment's are for the pointer.
    const by = (count) => () => n && this.jump(from === null ? this.firstOwn() : ownTokenFrom(this.record, from, count));
    const line = (way) => () => n && this.jump(from === null ? this.firstOwn() : this.lineFrom(from, way));
    takeKeys(
      event,
      {
        ArrowLeft: by(-1), ArrowRight: by(1), ArrowUp: line(-1), ArrowDown: line(1), PageUp: by(-50), PageDown: by(50),
        Home: () => n && this.jump(this.firstOwn()), End: () => n && this.jump(ownTokenFrom(this.record, n, -1)),
        t: () => this.nextTurn(1), T: () => this.nextTurn(-1), o: () => this.foldAll(),
        Enter: () => from !== null && this.pin(from), " ": () => from !== null && this.pin(from),
        Escape: () => (this.cursor === null ? this.tell({ selected: null }) : this.moveTo(null)),
        n: () => this.nextSpan(1), N: () => this.nextSpan(-1), c: () => this.nextColour(1), C: () => this.nextColour(-1),
        s: () => this.sortSpans(!this.byPlace), w: () => this.toggleWhy(), m: () => this.nextMethod(1), M: () => this.nextMethod(-1), x: () => this.toggleXray(), "[": () => this.step(-1), "]": () => this.step(1),
      },
      () => this.cursor !== null || this.selected() !== null,
    );
  }
}

function sideKey(side, name) {
  const key = element("span", "vpd-key");
  key.append(element("i", `vpd-data vpd-tl-swatch vpd-tl-${side}-fill`), name);
  return key;
}

function barOf(side, share) {
  const track = element("span", `vpd-tl-bar vpd-tl-bar-${side}`);
  if (share !== null) {
    const bar = element("i", `vpd-data vpd-tl-${side}-fill`);
    bar.style.width = `${(100 * share).toFixed(2)}%`;
    track.append(bar);
  }
  return track;
}

export default widgetOf(TokenLens);
