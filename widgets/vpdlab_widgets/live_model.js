// LiveModel: student and teacher answer in this browser. Plain ES module; shared.js and live_engine.js are prepended to it.

const AUTHORS = ["student", "teacher"];
const WAIT = 150; // milliseconds without a key before the model answers
const TOP = 12; // tokens asked of each distribution
const SHOWN = 9; // of them in the card, each with its digit as a key
const COLOURS = [
  { id: "probability", name: "probability", title: "the probability of the token by whoever wrote it" },
  { id: "ratio", name: "log q/π", title: "orange: the teacher finds the token likelier; blue: less likely" },
  { id: "kl", name: "KL", title: "how far both distributions are apart at the token" },
];

// ---- pure functions ----

/** A prompt from its pieces (vpdlab/prompts/pieces.py). */
export function filledPrompt(pieces, side, fields) {
  const part = (piece) => {
    if (typeof piece === "string") return piece;
    if (piece.field) return fields[piece.field] ?? "";
    const text = fields[piece.section];
    return text ? pieces.sections[piece.section].map((one) => (typeof one === "string" ? one : text)).join("") : "";
  };
  return pieces[side][fields.system ? "system" : "plain"].map(part).join("");
}

/** Both prompts. Without any feedback the teacher reads what the student reads, as in training. */
export function bothPrompts(pieces, tokenizer, texts) {
  const data = Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, tokenizer.plain(text.toWellFormed?.() ?? text)]));
  const fields = { problem: data.problem, system: data.system, solution: data.demonstration, feedback: data.critique };
  const told = Boolean(fields.solution || fields.feedback);
  return { student: filledPrompt(pieces, "student", fields), teacher: filledPrompt(pieces, told ? "teacher" : "student", fields) };
}

/** What an answer begins with once `ids` are forced at `position` of what was written. */
export function forcedAt(kept, written, position, ids) {
  const before = written.slice(0, position);
  const forced = (kept?.forced ?? []).filter((at) => at < position);
  return { ids: [...before, ...ids], forced: [...forced, ...ids.map((_, i) => position + i)] };
}

/** The class of a token's probability: 0 is none, 8 certain. */
export function shareClass(p) {
  const level = Math.round(LEVELS * p);
  return level > 0 ? `vpd-lm-p${level}` : "";
}

// ---- the desk of this page: one worker for all views of this module ----

let hall = null;

/** Where requests go: a worker, or this thread where the page may have none. Weights are loaded once by their checksum. */
function deskOf() {
  if (hall) return hall;
  const views = new Map();
  const loaded = new Set();
  const waiting = []; // what a worker that never starts has not heard
  const hear = (message) => views.get(message.view)?.(message);
  let send = (message) => waiting.push(message);
  const here = () => {
    if (send === local) return;
    send = local;
    for (const message of waiting.splice(0)) send(message);
  };
  const local = openDesk(hear);
  try {
    const url = URL.createObjectURL(new Blob([`${LIVE_ENGINE}\nconst desk = openDesk((message) => postMessage(message));\nonmessage = ({ data }) => desk(data);\npostMessage({ kind: "ready" });`], { type: "text/javascript" }));
    const worker = new Worker(url);
    worker.onerror = (event) => {
      event.preventDefault();
      here();
    };
    worker.onmessage = ({ data }) => {
      if (data.kind !== "ready") return hear(data);
      URL.revokeObjectURL(url);
      worker.onerror = null;
      send = (message) => worker.postMessage(message);
      for (const message of waiting.splice(0)) send(message);
    };
  } catch {
    here(); // no worker may be made from a text here: the model is small enough for this thread
  }
  hall = {
    load(name, shape, { shapes, bytes }) {
      if (loaded.has(name)) return;
      loaded.add(name);
      send({ kind: "load", name, shape, shapes, bytes: unpackNumbers(bytes, Uint8Array) });
    },
    enter(view, listener) {
      views.set(view, listener);
    },
    run: (message) => send({ kind: "run", ...message }),
    leave(view) {
      views.delete(view);
      send({ kind: "leave", view });
    },
  };
  return hall;
}

let viewCount = 0;

// ---- the view ----

class LiveModel extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-lm");
    this.view = ++viewCount;
    this.number = 0;
    this.written = { student: [], teacher: [] };
    this.cursor = null; // {answer, token} under the pointer or the keys
    this.past = []; // earlier `kept`, for undo
    this.build();
    this.hear("change:packed", () => this.takeModel());
    this.hear("change:index", () => this.takeExample());
    for (const name of ["problem", "system", "critique", "demonstration", "temperature", "seed", "length", "kept"]) this.hear(`change:${name}`, () => this.ask());
    for (const name of ["selected", "colour", "title", "examples"]) this.hear(`change:${name}`, () => this.schedule());
    this.desk = deskOf();
    this.desk.enter(this.view, (message) => this.receive(message));
    this.watch(this.root);
    this.takeModel();
  }

  build() {
    this.head = element("div", "vpd-head");
    this.controls = element("div", "vpd-tools vpd-lm-controls");
    this.examples = element("select", "vpd-field vpd-lm-examples");
    this.heat = element("input", "vpd-lm-heat");
    Object.assign(this.heat, { type: "range", min: "0", max: "2", step: "0.05" });
    this.heatValue = element("output", "vpd-num vpd-lm-value");
    this.again = this.button("Draw again (R)", "the next seed", () => this.tell({ seed: this.model.get("seed") + 1 }));
    this.seed = element("input", "vpd-field vpd-lm-seed");
    Object.assign(this.seed, { type: "number", step: "1" });
    this.colours = element("span");
    const labelled = (text, ...nodes) => {
      const label = element("label", "vpd-lm-label");
      label.append(element("span", "vpd-caps", text), ...nodes);
      return label;
    };
    this.exampleLabel = labelled("example", this.examples);
    this.controls.append(this.exampleLabel, labelled("temperature", this.heat, this.heatValue), labelled("seed", this.seed), this.again, this.colours);
    this.fields = {};
    this.lacking = {};
    const box = (name, title) => {
      const node = element("div", "vpd-lm-box");
      const words = element("textarea", "vpd-field vpd-lm-words");
      Object.assign(words, { rows: 2, maxLength: 20000, spellcheck: false });
      this.fields[name] = words;
      this.lacking[name] = element("div", "vpd-lm-lacking");
      this.lacking[name].setAttribute("aria-live", "polite");
      node.append(labelled(title, words), this.lacking[name]);
      this.listen(words, "input", () => this.typed(name));
      this.listen(words, "keydown", (event) => {
        event.stopPropagation(); // letters belong to the text, not to the notebook
        if (event.key === "Escape") this.stage.focus();
      });
      return node;
    };
    this.inputs = element("div", "vpd-lm-two");
    this.solution = box("demonstration", "a correct solution that the teacher reads");
    this.inputs.append(box("problem", "problem, which both read"), box("critique", "critique, which the teacher reads as well"), this.solution);
    this.expected = element("span", "vpd-lm-expected");
    this.stage = element("div", "vpd-lm-two vpd-lm-stage");
    this.makeHome(this.stage, "group", "answers");
    this.stage.setAttribute(
      "aria-label",
      "Answers of student and teacher. Left and right arrows select a token, up and down the other answer, digits 1 to 9 force the token " +
        "with that number in the list, Enter keeps the answer up to the token, R draws again, U takes the last forced token back, E edits the critique, Escape leaves.",
    );
    this.columns = Object.fromEntries(AUTHORS.map((side) => [side, this.column(side)]));
    this.stage.append(...AUTHORS.map((side) => this.columns[side].node));
    this.card = element("div", "vpd-box vpd-lm-card");
    this.prompts = element("details", "vpd-lm-prompts");
    this.status = statusLine("vpd-status vpd-lm-status");
    this.root.append(this.head, this.controls, this.inputs, this.stage, this.card, this.prompts, this.status);
    this.listen(this.examples, "change", () => this.tell({ index: Number(this.examples.value) }));
    this.listen(this.heat, "input", () => this.tell({ temperature: Number(this.heat.value) }));
    this.listen(this.seed, "change", () => this.tell({ seed: Math.trunc(Number(this.seed.value)) || 0 }));
    for (const node of [this.examples, this.heat, this.seed]) this.listen(node, "keydown", (event) => event.stopPropagation());
    this.listen(this.stage, "pointermove", (event) => this.point(event.target));
    this.listen(this.stage, "click", (event) => copying(this.root) || this.pick(event.target));
  }

  button(name, title, act) {
    const node = element("button", "vpd-button", name);
    Object.assign(node, { type: "button", title, tabIndex: -1 });
    this.listen(node, "click", act);
    return node;
  }

  column(side) {
    const node = element("div", `vpd-lm-column vpd-lm-${side}`);
    const head = element("div", "vpd-lm-who");
    const about = side === "student" ? "student π reads the problem" : "teacher q also reads the feedback";
    const figures = element("span", "vpd-caps vpd-num");
    head.append(element("span", "vpd-name", about), figures);
    const text = element("div", "vpd-lm-text");
    node.append(head, text);
    return { node, text, figures };
  }

  // -- data --

  takeModel() {
    const packed = this.model.get("packed");
    this.packed = packed?.shape ? packed : null;
    if (!this.packed) return this.schedule();
    this.tokenizer = new Tokenizer(JSON.parse(packed.tokenizer));
    for (const [name, one] of Object.entries(packed.sets)) this.desk.load(name, packed.shape, one);
    this.ask();
  }

  texts() {
    return Object.fromEntries(["problem", "system", "critique", "demonstration"].map((name) => [name, this.model.get(name) ?? ""]));
  }

  takeExample() {
    const one = (this.model.get("examples") ?? [])[this.model.get("index")];
    if (!one) return;
    this.past = [];
    this.tell({ kept: {}, selected: null, ...Object.fromEntries(Object.keys(this.texts()).map((name) => [name, one[name] ?? ""])) });
  }

  typed(name) {
    clearTimeout(this.typing);
    this.drawLacking();
    this.typing = setTimeout(() => {
      if (name === "problem") this.past = [];
      this.tell({ [name]: this.fields[name].value, ...(name === "problem" ? { kept: {} } : {}) });
    }, WAIT);
  }

  /** Ask the model anew, once for all changes of a moment. */
  ask() {
    this.due = true;
    this.schedule();
  }

  request() {
    this.due = false;
    const { packed, tokenizer } = this;
    const kept = this.model.get("kept") ?? {};
    this.rendered = bothPrompts(packed.prompts, tokenizer, this.texts());
    this.promptIds = Object.fromEntries(AUTHORS.map((side) => [side, tokenizer.encode(this.rendered[side])]));
    this.written = { student: [], teacher: [] };
    this.trouble = "";
    this.seconds = null;
    this.number++;
    const longest = Math.max(...AUTHORS.map((side) => this.promptIds[side].length));
    const room = packed.shape.positions - longest;
    if (room < 1) {
      this.trouble = `a prompt has ${longest} tokens, and the model takes ${packed.shape.positions} with its answer`;
      return;
    }
    this.desk.run({
      view: this.view, number: this.number, weights: packed.weights, prompts: this.promptIds, ends: packed.ends, top: TOP,
      kept: Object.fromEntries(AUTHORS.map((side) => [side, kept[side]?.ids ?? []])),
      temperature: this.model.get("temperature"), seed: this.model.get("seed"), most: Math.min(this.model.get("length"), room),
    });
  }

  receive(message) {
    if (message.number !== this.number) return;
    if (message.kind === "failed") this.trouble = message.reason;
    if (message.kind === "token") this.written[message.answer].push(message);
    if (message.kind === "done") {
      this.seconds = message.seconds;
      this.finished = message.finished;
      this.tell({ answers: Object.fromEntries(AUTHORS.map((side) => [side, this.answer(side)])) });
    }
    this.schedule();
  }

  answer(side) {
    const all = this.written[side];
    const ids = all.map(({ token }) => token);
    const of = (name) => all.map((one) => one[name]);
    return {
      text: this.tokenizer.decode(ids, false).trim(), tokens: ids.map((id) => this.tokenizer.decode([id])), ids,
      student_logp: of("student_logp"), teacher_logp: of("teacher_logp"), kl: of("kl"), finished: this.finished[side],
    };
  }

  // -- drawing --

  draw() {
    this.width = Math.floor(this.root.clientWidth);
    if (this.due && this.packed) this.request();
    this.drawHead();
    this.drawControls();
    if (!this.packed) return this.status.replaceChildren("No model");
    this.drawLacking();
    for (const side of AUTHORS) this.drawAnswer(side);
    this.drawCard();
    this.drawPrompts();
    this.say();
  }

  drawHead() {
    const parts = [element("div", "vpd-title", clean(this.model.get("title")) || "Live model")];
    if (this.packed) {
      parts.push(element("span", "vpd-badge", `${clean(this.packed.name, 60)}, ${this.packed.parameters.toLocaleString("en")} parameters, in this browser`));
      for (const line of this.packed.notes) parts.push(element("span", "vpd-caps", clean(line, 200)));
    }
    this.head.replaceChildren(...parts);
  }

  drawControls() {
    const examples = this.model.get("examples") ?? [];
    this.exampleLabel.hidden = !examples.length;
    if (this.listed !== examples) {
      this.listed = examples;
      this.examples.replaceChildren(
        ...examples.map((one, i) => {
          const option = element("option", "", clean(one.problem, 60) || `example ${i + 1}`);
          option.value = String(i);
          return option;
        }),
      );
    }
    this.examples.value = String(this.model.get("index") ?? "");
    const heat = this.model.get("temperature");
    if (document.activeElement !== this.heat) this.heat.value = String(heat);
    this.heatValue.textContent = heat > 0 ? brief(heat) : "0, greedy";
    if (document.activeElement !== this.seed) this.seed.value = String(this.model.get("seed"));
    for (const [name, words] of Object.entries(this.fields)) if (document.activeElement !== words) words.value = this.model.get(name) ?? "";
    this.solution.hidden = !this.model.get("demonstration") && !examples.some((one) => one.demonstration);
    const chosen = this.model.get("colour");
    if (this.drawnColour !== chosen) {
      this.drawnColour = chosen;
      this.colours.replaceChildren(choice(COLOURS, chosen, (id) => this.tell({ colour: id })));
    }
  }

  drawLacking() {
    for (const [name, line] of Object.entries(this.lacking)) {
      const text = this.fields[name].value;
      line.textContent = this.packed?.closed ? lackingLine(this.tokenizer.unknownWords(text), text) : "";
      line.hidden = !line.textContent;
    }
  }

  shade(side, one, max) {
    const colour = this.model.get("colour");
    if (colour === "probability") return shareClass(Math.exp(one[`${side}_logp`]));
    return heatClass(colour === "kl" ? one.kl : one.teacher_logp - one.student_logp, max);
  }

  drawAnswer(side) {
    const { text, figures } = this.columns[side];
    const all = this.written[side];
    const forced = new Set(this.model.get("kept")?.[side]?.forced ?? []);
    const colour = this.model.get("colour");
    const values = AUTHORS.flatMap((who) => this.written[who].map((one) => (colour === "kl" ? one.kl : one.teacher_logp - one.student_logp)));
    const max = Math.max(0.1, scaleMax(values, 1));
    const at = this.place();
    const pinned = this.model.get("selected");
    text.replaceChildren(
      ...all.map((one, i) => {
        const token = this.tokenizer.decode([one.token]);
        const ends = this.packed.ends.includes(one.token);
        const span = element("span", `vpd-tok ${this.shade(side, one, max)}`, ends ? "end" : visible(token));
        span.classList.toggle("vpd-lm-end", ends);
        span.classList.toggle("vpd-lm-forced", forced.has(i));
        span.classList.toggle("vpd-lm-at", at?.answer === side && at.token === i);
        span.classList.toggle("vpd-lm-pinned", pinned?.answer === side && pinned.token === i);
        span.vpdPlace = { answer: side, token: i };
        return span;
      }),
    );
    const sum = (name) => all.reduce((total, one) => total + one[name], 0);
    figures.textContent = all.length ? `log π ${brief(sum("student_logp"))}, log q ${brief(sum("teacher_logp"))}` : "";
  }

  /** The token that the card shows: under the cursor, selected, or where both disagree most. */
  place() {
    const known = (one) => one && this.written[one.answer]?.[one.token] && one;
    return known(this.cursor) ?? known(this.model.get("selected")) ?? null;
  }

  shownPlace() {
    const place = this.place();
    if (place) return place;
    const all = this.written.student;
    return all.length ? { answer: "student", token: all.reduce((best, one, i) => (one.kl > all[best].kl ? i : best), 0) } : null;
  }

  rowsAt(place) {
    const one = this.written[place.answer][place.token];
    const rows = one.top.slice(0, SHOWN);
    const own = one.top.find(([id]) => id === one.token);
    return rows.includes(own) ? rows : [...rows.slice(0, -1), own];
  }

  drawCard() {
    const place = this.shownPlace();
    this.card.hidden = !place;
    if (!place) return;
    const one = this.written[place.answer][place.token];
    const key = JSON.stringify([this.number, place, one.token, this.model.get("kept"), this.past.length]);
    if (key === this.cardKey) return;
    this.cardKey = key;
    const head = element("div", "vpd-lm-card-head");
    const kept = this.model.get("kept")?.[place.answer];
    const forced = kept?.forced?.includes(place.token);
    head.append(element("span", "vpd-name", `${place.answer}, token ${place.token + 1}: “${tokenLabel(this.tokenizer.decode([one.token]))}”`));
    if (forced) head.append(element("span", "vpd-mark", "forced"));
    const figures = [["log π", one.student_logp], ["log q", one.teacher_logp], ["log q/π", one.teacher_logp - one.student_logp], ["KL", one.kl], ["entropy π", one.student_entropy], ["entropy q", one.teacher_entropy]];
    for (const [name, value] of figures) {
      const cell = element("span", "vpd-lm-figure");
      cell.append(element("span", "vpd-label", name), " ", element("span", "vpd-num", brief(value)));
      head.append(cell);
    }
    const table = element("div", "vpd-lm-rows");
    this.rowsAt(place).forEach(([id, student, teacher], i) => table.append(this.row(place, id, student, teacher, i + 1, id === one.token)));
    this.card.replaceChildren(head, element("div", "vpd-caps", "Click a token, or press its number: the answer continues from it."), table, this.forceLine(place));
  }

  row(place, id, student, teacher, number, own) {
    const node = this.button("", `force this token at place ${place.token + 1} of the ${place.answer}'s answer`, () => this.force(place, [id]));
    node.className = `vpd-lm-row${own ? " vpd-lm-own" : ""}`;
    const bar = (side, logp) => {
      const track = element("span", `vpd-lm-bar vpd-lm-${side}`);
      const fill = element("i", "vpd-data");
      fill.style.width = `${(100 * Math.exp(logp)).toFixed(2)}%`;
      track.append(fill);
      return track;
    };
    const label = tokenLabel(this.tokenizer.decode([id]), 18);
    node.append(
      element("kbd", "", String(number)), element("span", "vpd-num vpd-lm-share", percent(Math.exp(student))), bar("student", student),
      element("span", "vpd-lm-word", label), bar("teacher", teacher), element("span", "vpd-num vpd-lm-share", percent(Math.exp(teacher))),
    );
    node.setAttribute("aria-label", `force “${label}”: student ${percent(Math.exp(student))}, teacher ${percent(Math.exp(teacher))}`);
    return node;
  }

  forceLine(place) {
    const line = element("form", "vpd-tools vpd-lm-other");
    const words = element("input", "vpd-field");
    Object.assign(words, { type: "text", maxLength: 200, placeholder: "other words", spellcheck: false });
    words.setAttribute("aria-label", `other words to force at token ${place.token + 1} of the ${place.answer}'s answer`);
    words.addEventListener("keydown", (event) => event.stopPropagation());
    const submit = element("button", "vpd-button", "Force these");
    submit.type = "submit";
    line.append(words, submit);
    line.addEventListener("submit", (event) => {
      event.preventDefault(); // the page goes nowhere
      const ids = this.tokenizer.encode(this.tokenizer.plain(words.value));
      if (ids.length) this.force(place, ids);
    });
    const undo = this.button("Take back (U)", "undo the last forced token", () => this.undo());
    undo.disabled = !this.past.length;
    line.append(undo);
    return line;
  }

  drawPrompts() {
    if (!this.rendered || this.prompts.vpdNumber === this.number) return;
    this.prompts.vpdNumber = this.number;
    const node = (side) => {
      const box = element("div", `vpd-lm-column vpd-lm-${side}`);
      box.append(element("div", "vpd-caps", `${side}: ${counted(this.promptIds[side].length, "token")}`), element("div", "vpd-lm-prompt", visible(this.rendered[side])));
      return box;
    };
    const two = element("div", "vpd-lm-two");
    two.append(...AUTHORS.map(node));
    this.prompts.replaceChildren(element("summary", "", "both prompts, as the model reads them"), two);
  }

  say() {
    const texts = this.texts();
    const example = (this.model.get("examples") ?? [])[this.model.get("index")];
    const answer = example?.answer && example.problem === texts.problem ? ` Right: ${clean(example.answer, 80)}.` : "";
    const silent = texts.critique || texts.demonstration ? "" : " No feedback: the teacher reads what the student reads.";
    const count = (side) => `${side} ${counted(this.written[side].length, "token")}`;
    const done = this.seconds === null ? "answering" : `${AUTHORS.map(count).join(", ")} in ${Math.round(1000 * this.seconds)} ms`;
    this.status.textContent = this.trouble ? `No answer: ${clean(this.trouble)}` : `${done}.${answer}${silent}`;
    this.status.classList.toggle("vpd-lm-trouble", Boolean(this.trouble));
  }

  // -- forcing, pointer and keys --

  force(place, ids) {
    const kept = this.model.get("kept") ?? {};
    const written = this.written[place.answer].map(({ token }) => token);
    this.past.push(kept);
    this.cursor = null;
    this.tell({ kept: { ...kept, [place.answer]: forcedAt(kept[place.answer], written, place.token, ids) }, selected: place });
  }

  undo() {
    if (this.past.length) this.tell({ kept: this.past.pop() });
  }

  point(target) {
    if (target.vpdPlace) this.moveTo(target.vpdPlace.answer, target.vpdPlace.token);
  }

  pick(target) {
    const place = target.vpdPlace;
    if (!place) return;
    const now = this.model.get("selected");
    this.cursor = null;
    this.tell({ selected: now?.answer === place.answer && now.token === place.token ? null : place });
  }

  moveTo(answer, token) {
    if (this.cursor?.answer === answer && this.cursor?.token === token) return;
    if (answer === null && !this.cursor) return;
    this.cursor = answer === null ? null : { answer, token };
    this.schedule();
  }

  onKey(event) {
    if (!this.packed || event.target !== this.stage) return;
    const place = this.shownPlace();
    const within = (side, token) => Math.min(Math.max(token, 0), this.written[side].length - 1);
    const to = (token) => this.tell({ selected: { answer: place.answer, token: within(place.answer, token) } });
    const across = (by) => () => place && to(this.place() ? place.token + by : place.token);
    const over = (side) => () => place && this.written[side].length && this.tell({ selected: { answer: side, token: within(side, place.token) } });
    const digits = Object.fromEntries(
      (place ? this.rowsAt(place) : []).map(([id], i) => [String(i + 1), () => this.force(place, [id])]),
    );
    takeKeys(
      event,
      {
        ...digits, ArrowLeft: across(-1), ArrowRight: across(1), Home: () => place && to(0), End: () => place && to(Infinity), ArrowUp: over("student"), ArrowDown: over("teacher"),
        Enter: () => place && this.force(place, [this.written[place.answer][place.token].token]),
        r: () => this.tell({ seed: this.model.get("seed") + 1 }), u: () => this.undo(), e: () => this.fields.critique.focus(),
        Escape: () => this.tell({ selected: null }),
      },
      () => this.model.get("selected") !== null,
    );
  }

  destroy() {
    clearTimeout(this.typing);
    this.desk.leave(this.view);
    super.destroy();
  }
}

export default widgetOf(LiveModel);
