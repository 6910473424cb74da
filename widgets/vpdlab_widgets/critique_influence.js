// CritiqueInfluence: sentences of the critique against tokens of the response.
// Plain ES module; shared.js is prepended to it.

const STRIP = 26; // height of a row of cells
const LEAST = 3; // width of a cell: more tokens than that allows share one
const PAUSE = 150; // milliseconds without a key before the words are looked up

const MEASURES = [
  {
    id: "delta", name: "leave-one-out", signed: true, unit: "nats", ends: ["makes the token less likely", "more likely"],
    about: "log q of the sampled token under the whole critique, minus log q without the sentence",
  },
  {
    id: "shapley", name: "Shapley", signed: true, unit: "nats", ends: ["makes the token less likely", "more likely"],
    about: "the effect of the whole critique, attributed to its sentences over all their orders; sums exactly",
  },
  {
    id: "kl", name: "KL", signed: false, unit: "nats",
    about: "how far the teacher's whole distribution moves when the sentence is omitted",
  },
];

// ---- pure functions, tested in node ----

/** A packed record (vpdlab_widgets/critique_influence.py) as typed arrays. */
export function unpackInfluence(packed) {
  if (!packed?.tokens) return null;
  const tokens = unpackTexts(packed.tokens);
  const n = tokens.length;
  const record = { meta: packed.meta, tokens, matrices: {}, numbers: {} };
  for (const [name, bytes] of Object.entries(packed.numbers)) record.numbers[name] = unpackNumbers(bytes);
  for (const [name, bytes] of Object.entries(packed.matrices)) {
    const all = unpackNumbers(bytes);
    record.matrices[name] = Array.from({ length: packed.meta.sentences.length }, (_, i) => all.subarray(i * n, (i + 1) * n));
  }
  record.variants = packed.variants.map((one) => ({ ...one, delta: unpackNumbers(one.delta), kl: unpackNumbers(one.kl) }));
  return record;
}

/** The texts that others can be compared with: {id, name, logp}, where log q (log π for the plain prompt) was scored. */
export function baselinesOf(record) {
  const { meta, numbers } = record;
  const part = meta.part ?? "critique";
  const all = [
    { id: "none", name: `no ${part}`, logp: numbers.empty_logp },
    { id: "plain", name: "plain prompt", logp: numbers.student_logp },
    { id: "whole", name: `the whole ${part}`, logp: numbers.logp },
    ...record.variants.map((one) => ({ id: one.name, name: one.name, logp: numbers.logp && minus(numbers.logp, one.delta) })),
  ];
  return all.filter(({ logp }) => logp);
}

/**
 * The rows of the matrix under a measure: sentences, the whole, the gap, variants, and the texts without a critique.
 * `values` is null where there are none; `against` says what a row is compared with. A text's row is its log q minus that
 * of the baseline, so that whole, variants and plain prompt are on one scale.
 */
export function rowsOf(record, measure, baseline = "none") {
  const { meta, matrices, numbers } = record;
  const part = meta.part ?? "critique";
  const known = baselinesOf(record);
  const base = known.find(({ id }) => id === baseline) ?? known[0];
  const effect = (id) => {
    const text = known.find((one) => one.id === id);
    return text && base && id !== base.id ? minus(text.logp, base.logp) : null;
  };
  const kl = measure === "kl";
  const against = (id) => (kl ? `against the whole ${part}` : base?.id === id ? "the baseline" : `against ${base?.name}`);
  const matrix = { delta: matrices.drop, shapley: matrices.shapley, kl: matrices.drop_kl }[measure];
  const left = measure === "shapley" ? `its share, over all orders, against no ${part}` : `against the ${part} without it`;
  const rows = meta.sentences.map((text, i) => ({ kind: "sentence", name: String(i + 1), text, values: matrix?.[i] ?? null, against: left }));
  rows.push({
    kind: "whole", name: "", text: `the whole ${part}`, values: (kl ? numbers.total_kl : effect("whole")) ?? null,
    against: kl ? `against no ${part}` : against("whole"),
  });
  const about = { delta: "the whole minus the sum of its sentences", shapley: "none: Shapley values sum exactly", kl: "KL is not additive" };
  rows.push({
    kind: "gap", name: "", text: `additivity gap (${about[measure]})`, values: measure === "delta" ? numbers.gap : null,
    against: measure === "delta" ? `against no ${part}` : "",
  });
  for (const one of record.variants) {
    rows.push({ kind: "variant", name: one.name, text: one.text, values: kl ? one.kl : effect(one.name), against: against(one.name) });
  }
  const without = [["none", `no ${part}`, "the teacher's prompt without it"], ["plain", "plain prompt", "the student π on the problem alone"]];
  for (const [id, name, text] of kl ? [] : without) {
    if (known.some((one) => one.id === id)) rows.push({ kind: "without", name, text, values: effect(id), against: against(id) });
  }
  return rows;
}

function minus(a, b) {
  return a.map((value, i) => value - b[i]);
}

/**
 * The magnitude drawn in the strongest colour: the largest of single sentences and variants, so that these can be
 * distinguished. The whole and the gap may exceed it; but beside them nothing small may look large: at least a tenth of
 * theirs.
 */
export function matrixMax(rows) {
  const largest = (...kinds) => scaleMax(rows.filter(({ kind }) => kinds.includes(kind)).flatMap(({ values }) => [...(values ?? [])]), 1);
  return Math.max(largest("sentence", "variant"), 0.1 * largest("whole", "gap", "without"));
}

/** Tokens in at most `most` cells: [start, end) each. */
export function cellsOf(count, most) {
  const cells = Math.min(count, Math.max(1, most));
  return Array.from({ length: cells }, (_, i) => [Math.floor((i * count) / cells), Math.floor(((i + 1) * count) / cells)]);
}

/** The value of a cell of several tokens: the one of largest magnitude; NaN if none is known. */
export function strongest(values, start, end) {
  let found = NaN;
  for (let i = start; i < end; i++) if (!(Math.abs(values[i]) <= Math.abs(found)) && !Number.isNaN(values[i])) found = values[i];
  return found;
}

/** Sum of the known values. */
export function sumOf(values) {
  let sum = 0;
  for (const value of values) if (Number.isFinite(value)) sum += value;
  return sum;
}

// ---- the view ----

class CritiqueInfluence extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-ci");
    this.cursor = { row: null, token: null };
    this.build();
    for (const name of ["packed", "edited", "own"]) this.hear(`change:${name}`, () => this.takeRecord());
    for (const name of ["measure", "baseline"]) this.hear(`change:${name}`, () => this.renew());
    for (const name of ["selected", "token"]) this.hear(`change:${name}`, () => this.follow());
    for (const name of ["busy", "trouble", "live"]) this.hear(`change:${name}`, () => this.drawEditor());
    this.hear("change:closed", () => this.askWords());
    this.hear("change:unknown", () => this.drawWords());
    this.hear("change:title", () => this.drawHead());
    this.watch(this.root);
    this.takeRecord();
    this.draw();
  }

  build() {
    this.head = element("div", "vpd-head");
    this.controls = element("div", "vpd-tools vpd-ci-controls");
    this.stage = element("div", "vpd-ci-stage");
    this.makeHome(this.stage, "group", "influence matrix");
    this.card = element("div", "vpd-box vpd-ci-card");
    this.editor = element("div", "vpd-ci-editor");
    this.words = element("textarea", "vpd-field vpd-ci-words");
    Object.assign(this.words, { tabIndex: -1, rows: 3, maxLength: 20000, spellcheck: false });
    this.words.setAttribute("aria-label", "your own text in place of the critique");
    this.button = element("button", "vpd-button", "Score this text");
    Object.assign(this.button, { type: "button", tabIndex: -1 });
    this.note = element("span", "vpd-caps");
    this.lacking = element("div", "vpd-ci-lacking");
    this.lacking.setAttribute("aria-live", "polite");
    this.status = statusLine("vpd-status vpd-ci-status");
    this.root.append(this.head, this.controls, this.stage, this.card, this.editor, this.status);
    this.listen(this.button, "click", () => this.submit());
    this.listen(this.words, "input", () => this.askWords());
    this.listen(this.words, "keydown", (event) => {
      event.stopPropagation(); // letters belong to the text, not to the notebook
      if (event.key === "Escape") this.stage.focus();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.submit();
    });
    this.listen(this.stage, "pointermove", (event) => this.onPointer(event));
    this.listen(this.stage, "pointerleave", () => this.moveTo(null, null));
    this.listen(this.stage, "click", (event) => this.onClick(event));
  }

  takeRecord() {
    const edited = this.model.get("own") ? unpackInfluence(this.model.get("edited")) : null;
    this.record = edited ?? unpackInfluence(this.model.get("packed"));
    this.isOwn = edited !== null;
    if (this.record && !this.words.value) this.words.value = this.record.meta.critique ?? "";
    this.askWords();
    this.cursor = { row: null, token: null };
    this.renew();
  }

  renew() {
    this.fresh = true;
    this.schedule();
  }

  measure() {
    const wanted = this.model.get("measure");
    const known = MEASURES.filter(({ id }) => id !== "shapley" || this.record?.matrices.shapley);
    return known.find(({ id }) => id === wanted) ?? known[0];
  }

  baseline() {
    const known = baselinesOf(this.record);
    return known.find(({ id }) => id === this.model.get("baseline")) ?? known[0];
  }

  draw() {
    const width = Math.floor(this.root.clientWidth);
    if (!this.fresh && width === this.width) return;
    this.fresh = false;
    this.width = width;
    this.drawHead();
    if (!this.record) {
      this.stage.replaceChildren(element("div", "vpd-empty", "No influence record"));
      return;
    }
    this.rows = rowsOf(this.record, this.measure().id, this.baseline()?.id);
    this.max = matrixMax(this.rows);
    this.drawControls();
    this.drawMatrix();
    this.drawEditor();
    this.follow();
  }

  drawHead() {
    const meta = this.record?.meta ?? {};
    const parts = [element("div", "vpd-title", clean(this.model.get("title")) || "Critique influence")];
    if (meta.success === true) parts.push(element("span", "vpd-badge vpd-right", "right"));
    if (meta.success === false) parts.push(element("span", "vpd-badge vpd-wrong", "wrong"));
    if (meta.step !== null && meta.step !== undefined) parts.push(element("span", "vpd-mark", `iteration ${meta.step}`));
    if (this.isOwn) parts.push(element("span", "vpd-mark vpd-ci-own", "your text"));
    for (const name of meta.cut ?? []) parts.push(element("span", "vpd-mark vpd-ci-warn", `${clean(name, 60)}: truncated`));
    if (meta.prompt) parts.push(element("span", "vpd-ci-problem", clean(meta.prompt, 300)));
    const rows = () => this.rows.map(({ kind, name, text, values }) => ({ kind, name, text, ...Object.fromEntries(Array.from(values ?? [], (value, i) => [`${i + 1} ${this.record.tokens[i]}`, value])) }));
    if (this.record) parts.push(saveCorner(() => this.model.get("title") || "influence", rows));
    this.head.replaceChildren(...parts);
  }

  drawControls() {
    const measure = this.measure();
    const items = MEASURES.filter(({ id }) => id !== "shapley" || this.record.matrices.shapley).map(({ id, name, about }) => ({
      id, name, title: about,
    }));
    const parts = [choice(items, measure.id, (id) => this.tell({ measure: id }))];
    if (this.model.get("edited")?.tokens) {
      const which = [{ id: "recorded", name: "recorded" }, { id: "own", name: "your text" }];
      parts.push(choice(which, this.isOwn ? "own" : "recorded", (id) => this.tell({ own: id === "own" })));
    }
    const known = baselinesOf(this.record).filter(({ id }) => id !== "whole");
    if (known.length > 1 && measure.id !== "kl") {
      const label = element("span", "vpd-caps", "whole texts against");
      label.title = "log q of the sampled token under a text, minus log q under this one (log π for the plain prompt)";
      parts.push(label, choice(known.map(({ id, name }) => ({ id, name: clean(name, 40) })), this.baseline().id, (id) => this.tell({ baseline: id })));
    }
    parts.push(heatKey(measure, this.max));
    if (this.record.meta.shapley_reason) {
      parts.push(element("span", "vpd-caps", `no Shapley values: ${clean(this.record.meta.shapley_reason)}`));
    }
    parts.push(element("span", "vpd-hint", `← → token · ↑ ↓ sentence · Enter pins · M measure · B baseline${this.isLive() ? " · E edit" : ""}`));
    this.controls.replaceChildren(...parts);
    this.controls.title = measure.about;
  }

  drawMatrix() {
    const { record } = this;
    const narrow = this.width < 760;
    const strip = Math.max(80, narrow ? this.width - 90 : Math.floor((this.width - 84 - 24) * 0.64));
    this.cells = cellsOf(record.tokens.length, Math.floor(strip / LEAST));
    this.cell = Math.min(54, strip / this.cells.length);
    this.stage.style.setProperty("--strip", `${narrow ? strip : Math.ceil(this.cell * this.cells.length) + 2}px`);
    this.stage.classList.toggle("vpd-ci-narrow", narrow);
    this.text = element("div", "vpd-ci-response");
    this.tokenSpans = record.tokens.map((token, i) => {
      const span = element("span", "vpd-tok", visible(token) || "∅");
      span.vpdToken = i;
      return span;
    });
    let start = 0;
    for (const end of chunkEnds(record.tokens)) {
      const block = element("div", "vpd-chunk");
      block.append(...this.tokenSpans.slice(start, end));
      expectHeight(block, block.textContent.length);
      this.text.append(block);
      start = end;
    }
    this.painted = null;
    const about = (this.about = element("div", "vpd-caps vpd-ci-shows"));
    const response = element("div", "vpd-ci-top");
    response.append(about, this.text);
    const table = element("div", "vpd-ci-table");
    const part = record.meta.part ?? "critique";
    const corner = element("div", "vpd-caps vpd-ci-said", `the ${part}, sentence by sentence`);
    this.sums = element("div", "vpd-caps vpd-ci-sum", "");
    table.append(corner, this.axis(), this.sums);
    this.lines = this.rows.map((row, i) => {
      const said = element("div", `vpd-ci-said vpd-ci-is-${row.kind}`);
      if (row.name) said.append(element("span", "vpd-ci-name", clean(row.name, 40)));
      const words = element("span", "vpd-ci-words-of");
      words.append(element("span", "vpd-ci-sentence", visible(row.text).trim().slice(0, 1200)));
      if (row.against) words.append(element("span", "vpd-caps vpd-ci-against", clean(row.against, 90)));
      said.append(words);
      const marks = shape("g", {});
      const svg = this.strip(row, marks);
      const sum = element("div", "vpd-ci-sum vpd-num");
      for (const node of [said, svg, sum]) node.vpdRow = i;
      table.append(said, svg, sum);
      return { said, sum, marks };
    });
    this.stage.replaceChildren(response, table);
    this.stage.setAttribute(
      "aria-label",
      `Influence of ${counted(record.meta.sentences.length, "sentence")} on ${counted(record.tokens.length, "token")}. Left and right arrows select ` +
        "a token, up and down a sentence, Enter pins, M changes the measure, B the baseline, E edits the critique, Escape leaves.",
    );
  }

  /** The tokens over their columns, vertical where columns are narrow. */
  axis() {
    const width = this.cell * this.cells.length;
    const flat = this.cell >= 30;
    const labelled = this.cell >= 11 && this.cells.length === this.record.tokens.length;
    const longest = Math.max(...this.record.tokens.map((token) => tokenLabel(token, 12).length));
    const height = !labelled || flat ? 18 : Math.min(96, longest * 7 + 8);
    const svg = shape("svg", { width, height, class: "vpd-chart vpd-ci-axis", "aria-hidden": "true" });
    this.labels = [];
    if (!labelled) {
      svg.append(shape("text", { x: 0, y: 13 }, "token 1"));
      svg.append(shape("text", { x: width, y: 13, class: "vpd-end" }, String(this.record.tokens.length)));
      return svg;
    }
    this.record.tokens.forEach((token, i) => {
      const x = (i + 0.5) * this.cell;
      const place = flat ? { x, y: 13, class: "vpd-middle" } : { transform: `translate(${x + 4} ${height - 3}) rotate(-90)` };
      const label = shape("text", place, tokenLabel(token, flat ? Math.floor(this.cell / 7.2) : 12));
      label.vpdToken = i;
      this.labels.push(label);
      svg.append(label);
    });
    return svg;
  }

  /** One row of cells: one path per colour, so that a matrix of thousands of cells is only a few elements. */
  strip(row, marks) {
    const svg = shape("svg", { width: this.cell * this.cells.length, height: STRIP, class: "vpd-chart vpd-ci-strip", "aria-hidden": "true" });
    const wide = this.cell * this.cells.length;
    svg.append(shape("rect", { x: 0, y: 1, width: wide, height: STRIP - 2, class: row.values ? "vpd-ci-back" : "vpd-ci-missing" }));
    const paths = new Map();
    if (row.values) {
      const gap = this.cell > 8 ? 1 : 0;
      this.cells.forEach(([start, end], i) => {
        const heat = heatClass(strongest(row.values, start, end), this.max);
        if (!heat) return;
        const d = `M${(i * this.cell).toFixed(2)} 1h${(this.cell - gap).toFixed(2)}v${STRIP - 2}h${-(this.cell - gap).toFixed(2)}z`;
        paths.set(heat, (paths.get(heat) ?? "") + d);
      });
    }
    for (const [heat, d] of paths) svg.append(shape("path", { d, class: `vpd-patch ${heat}` }));
    // The sign without colour: a line under tokens that the row makes less likely.
    const low = [...paths].filter(([heat]) => heat.startsWith("vpd-down"));
    for (const [, d] of low) {
      const under = d.replace(/M([\d.]+) 1h([\d.]+)v.*?z/g, `M$1 ${STRIP - 2}h$2`);
      svg.append(shape("path", { d: under, class: "vpd-ci-under" }));
    }
    if (row.values && this.cell >= 46) {
      row.values.forEach((value, i) => {
        if (Math.abs(value) < 0.05 * this.max) return;
        const label = fitted(Number(value.toPrecision(2)), this.cell - 2, this.measure().signed);
        svg.append(shape("text", { x: (i + 0.5) * this.cell, y: STRIP / 2 + 4, class: "vpd-middle vpd-ci-value" }, label));
      });
    }
    svg.append(marks);
    return svg;
  }

  // -- selection --

  chosen() {
    const row = this.cursor.row ?? this.model.get("selected");
    const token = this.cursor.token ?? this.model.get("token");
    const whole = this.rows.findIndex(({ kind }) => kind === "whole");
    return {
      row: row !== null && row >= 0 && row < this.rows.length ? row : whole,
      token: token !== null && token >= 0 && token < this.record.tokens.length ? token : null,
      rowChosen: row !== null,
    };
  }

  follow() {
    if (!this.record || !this.lines) return;
    const { row, token, rowChosen } = this.chosen();
    const shown = this.rows[row];
    const [pinnedRow, pinnedToken] = [this.model.get("selected"), this.model.get("token")];
    this.about.textContent = `the response, coloured by ${nameOf(shown)}`;
    if (this.painted !== row) {
      this.painted = row;
      this.tokenSpans.forEach((span, i) => {
        span.className = `vpd-tok ${shown.values ? heatClass(shown.values[i], this.max) : "vpd-nodata"}`;
      });
    }
    for (const [name, i] of [["vpd-ci-at", token], ["vpd-ci-pinned", pinnedToken]]) {
      for (const span of this.text.querySelectorAll(`.${name}`)) span.classList.remove(name);
      this.tokenSpans[i]?.classList.add(name);
    }
    const bin = (i) => this.cells.findIndex(([start, end]) => i >= start && i < end);
    this.sums.textContent = token === null ? "sum" : "at token";
    this.lines.forEach(({ said, sum, marks }, i) => {
      for (const name of ["vpd-ci-row-at", "vpd-at"]) said.classList.toggle(name, rowChosen && i === row);
      for (const name of ["vpd-ci-row-pinned", "vpd-chosen"]) said.classList.toggle(name, i === pinnedRow);
      const values = this.rows[i].values;
      const value = values === null ? NaN : token === null ? sumOf(values) : values[token];
      sum.textContent = values === null ? "–" : brief(value, this.measure().signed);
      const box = (at, name) => shape("rect", { x: (bin(at) * this.cell).toFixed(2), y: 0.5, width: this.cell.toFixed(2), height: STRIP - 1, class: name });
      marks.replaceChildren(
        ...(token === null ? [] : [box(token, `vpd-ci-column${i === row ? " vpd-ci-cross" : ""}`)]),
        ...(pinnedToken === null || pinnedToken === token || !this.record.tokens[pinnedToken] ? [] : [box(pinnedToken, "vpd-ci-column vpd-ci-kept")]),
      );
    });
    this.labels.forEach((label, i) => label.classList.toggle("vpd-ci-label-at", i === token));
    this.drawCard(row, token);
    this.status.textContent = this.sentence(row, token, rowChosen);
  }

  drawCard(row, token) {
    const { numbers, tokens } = this.record;
    const at = (name) => (token === null ? (numbers[name] ? sumOf(numbers[name]) : NaN) : (numbers[name]?.[token] ?? NaN));
    const cells = [
      ["log π, plain prompt", at("student_logp")],
      ["log q, no " + (this.record.meta.part ?? "critique"), at("empty_logp")],
      ["log q, whole " + (this.record.meta.part ?? "critique"), at("logp")],
      ["whole − none, log q", at("total")],
      ["additivity gap", at("gap")],
      ["KL(whole‖none)", at("total_kl")],
    ];
    const head = element("div", "vpd-ci-card-head");
    head.append(element("span", "vpd-name", token === null ? "the whole response" : `token ${token + 1} “${tokenLabel(tokens[token])}”`));
    const grid = element("div", "vpd-ci-figures");
    for (const [name, value] of cells) {
      const cell = element("span", "vpd-cell");
      cell.append(element("span", "vpd-label", name), " ", element("span", "vpd-num", brief(value)));
      grid.append(cell);
    }
    this.card.replaceChildren(head, grid);
  }

  sentence(row, token, rowChosen) {
    const { meta, tokens } = this.record;
    const measure = this.measure();
    if (token === null && !rowChosen) {
      const scored = meta.prompts ? `, ${counted(meta.prompts, "prompt")} scored` : "";
      return `${counted(meta.sentences.length, "sentence")}, ${counted(tokens.length, "token")}${scored}.`;
    }
    const { values, against, kind } = this.rows[row];
    const name = nameOf(this.rows[row]);
    if (values === null) return against === "the baseline" ? `${name}: the baseline` : `${name}: no values under ${measure.name}`;
    const what = kind === "sentence" ? name : `${name} ${against}`;
    if (token === null) return `${what}: ${brief(sumOf(values), measure.signed)} nats over the response`;
    return `${what} on token ${token + 1} “${tokenLabel(tokens[token])}”: ${brief(values[token], measure.signed)} nats`;
  }

  // -- the reader's own text --

  isLive() {
    return Boolean(this.model.get("live")) && !this.model.offline;
  }

  drawEditor() {
    this.editor.hidden = !this.isLive() || !this.record;
    if (this.editor.hidden) return;
    const busy = this.model.get("busy");
    if (busy || this.model.get("trouble")) this.sent = false;
    this.button.disabled = Boolean(busy) || this.sent === true;
    const waiting = "Waiting for the running cell to finish: the model is never used while it trains.";
    const note = { queued: waiting, working: "Scoring …" }[busy] ?? (this.sent ? waiting : "");
    this.note.textContent = note || clean(this.model.get("trouble")) || "Ctrl+Enter scores · Esc cancels";
    this.note.classList.toggle("vpd-ci-trouble", !note && Boolean(this.model.get("trouble")));
    if (this.editor.childElementCount === 0) {
      const label = element("div", "vpd-caps", "What effect would another text have? Edit it and score the same response again.");
      const bar = element("div", "vpd-tools");
      bar.append(this.button, this.note);
      this.editor.append(label, this.words, this.lacking, bar);
    }
  }

  /** Ask Python which of the words the model does not know, once the typing pauses. */
  askWords() {
    clearTimeout(this.asking);
    this.drawWords();
    if (!this.isLive() || !this.model.get("closed") || !this.words.value) return;
    this.asking = setTimeout(() => this.model.send({ kind: "words", text: this.words.value }), PAUSE);
  }

  /** The answer may be about the text of a moment ago: words that were deleted since are left out. */
  drawWords() {
    const known = this.model.get("closed") ? (this.model.get("unknown") ?? []) : [];
    this.lacking.textContent = lackingLine(known, this.words.value);
    this.lacking.hidden = !this.lacking.textContent;
  }

  destroy() {
    clearTimeout(this.asking);
    super.destroy();
  }

  submit() {
    if (this.button.disabled || this.editor.hidden) return;
    this.sent = true; // Python may hear of it only when the present cell has ended
    this.model.send({ kind: "rescore", text: this.words.value });
    this.drawEditor();
  }

  // -- pointer and keys --

  placeOf(event) {
    const target = event.target;
    if (target.vpdToken !== undefined) return { row: null, token: target.vpdToken };
    const holder = target.closest?.(".vpd-ci-said, .vpd-ci-strip, .vpd-ci-sum");
    const row = holder?.vpdRow ?? null;
    if (row === null || !holder.classList.contains("vpd-ci-strip")) return { row, token: null };
    const cell = Math.floor((event.clientX - holder.getBoundingClientRect().left) / this.cell);
    const bounds = this.cells[cell];
    if (!bounds) return { row, token: null };
    return { row, token: bounds[0] + Math.max(0, strongestAt(this.rows[row].values, ...bounds)) };
  }

  onPointer(event) {
    if (!this.record) return;
    const { row, token } = this.placeOf(event);
    this.moveTo(row, token);
  }

  onClick(event) {
    if (!this.record || copying(this.root)) return;
    const { row, token } = this.placeOf(event);
    if (row === null && token === null) return;
    this.pin(row, token);
  }

  /** Select; a second time deselects. */
  pin(row, token) {
    const now = [this.model.get("selected"), this.model.get("token")];
    const next = [row ?? now[0], token ?? now[1]];
    const same = next[0] === now[0] && next[1] === now[1];
    if (same) this.tell({ selected: row === null ? now[0] : null, token: token === null ? now[1] : null });
    else this.tell({ selected: next[0], token: next[1] });
  }

  moveTo(row, token) {
    if (row === this.cursor.row && token === this.cursor.token) return;
    this.cursor = { row, token };
    this.follow();
  }

  nextBaseline() {
    const ids = baselinesOf(this.record).map(({ id }) => id).filter((id) => id !== "whole");
    if (ids.length && this.measure().id !== "kl") this.tell({ baseline: ids[(ids.indexOf(this.baseline().id) + 1) % ids.length] });
  }

  onKey(event) {
    if (!this.record) return;
    const { row, token, rowChosen } = this.chosen();
    const [rows, tokens] = [this.rows.length, this.record.tokens.length];
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const across = (by) => () => this.moveTo(rowChosen ? row : this.cursor.row, token === null ? 0 : within(token + by, tokens));
    const down = (by) => () => this.moveTo(rowChosen ? within(row + by, rows) : 0, this.cursor.token ?? token);
    const offered = MEASURES.map(({ id }) => id).filter((id) => id !== "shapley" || this.record.matrices.shapley);
    const nothing = () =>
      this.cursor.row === null && this.cursor.token === null && this.model.get("selected") === null && this.model.get("token") === null;
    const leave = () => {
      if (this.cursor.row !== null || this.cursor.token !== null) this.moveTo(null, null);
      else this.tell({ selected: null, token: null });
    };
    takeKeys(
      event,
      {
        ArrowLeft: across(-1), ArrowRight: across(1), PageUp: across(-20), PageDown: across(20),
        Home: () => this.moveTo(this.cursor.row, 0), End: () => this.moveTo(this.cursor.row, tokens - 1),
        ArrowUp: down(-1), ArrowDown: down(1), Enter: () => this.pin(this.cursor.row, this.cursor.token),
        " ": () => this.pin(this.cursor.row, this.cursor.token), Escape: leave,
        m: () => this.tell({ measure: offered[(offered.indexOf(this.measure().id) + 1) % offered.length] }),
        b: () => this.nextBaseline(),
        e: () => this.editor.hidden || this.words.focus(),
        v: () => this.model.get("edited")?.tokens && this.tell({ own: !this.model.get("own") }),
      },
      () => !nothing(),
    );
  }
}

function nameOf(row) {
  if (row.kind === "sentence") return `sentence ${row.name}`;
  return row.kind === "variant" || row.kind === "without" ? clean(row.name, 60) : row.kind === "gap" ? "the additivity gap" : row.text;
}

function strongestAt(values, start, end) {
  if (!values) return 0;
  const value = strongest(values, start, end);
  for (let i = start; i < end; i++) if (values[i] === value) return i - start;
  return 0;
}

export default widgetOf(CritiqueInfluence);
