// LensPair: two token lenses of the same problem and iteration. token_lens.js, and what it needs, is prepended.

const SIDES_OF = ["left", "right"];
const MOST_CELLS = 4e6; // of the alignment's table; longer texts are matched at their ends alone

/**
 * The tokens of two responses that match, in order and as many as possible: `to[i]` is the token of `b` that is the i-th
 * of `a`, or −1; `from` the other way; `first` the first place at which they differ, or −1.
 */
export function aligned(a, b) {
  const to = new Int32Array(a.length).fill(-1);
  const from = new Int32Array(b.length).fill(-1);
  const match = (i, j) => {
    to[i] = j;
    from[j] = i;
  };
  const { head, tail } = sharedEnds(a, b);
  for (let i = 0; i < head; i++) match(i, i);
  for (let i = 1; i <= tail; i++) match(a.length - i, b.length - i);
  const [n, m] = [a.length - head - tail, b.length - head - tail];
  if (n > 0 && m > 0 && n * m <= MOST_CELLS) longestCommon(a, b, head, n, m, match);
  return { to, from, first: a.length === b.length && head === a.length ? -1 : head };
}

/** Match a longest common subsequence of the middle parts, from `head` on, `n` and `m` tokens long. */
function longestCommon(a, b, head, n, m, match) {
  const rows = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1)); // row i: what is left from i on
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      rows[i][j] = a[head + i] === b[head + j] ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
    }
  }
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (a[head + i] === b[head + j]) match(head + i++, head + j++);
    else if (rows[i + 1][j] >= rows[i][j + 1]) i += 1;
    else j += 1;
  }
}

/** The token on the other side of token `i`: its match, or where it would stand between its neighbours' matches. */
export function beside(matches, i, count) {
  if (i === null || count === 0) return null;
  if (matches[i] >= 0) return matches[i];
  let before = i - 1;
  while (before >= 0 && matches[before] < 0) before -= 1;
  let after = i + 1;
  while (after < matches.length && matches[after] < 0) after += 1;
  const start = before >= 0 ? matches[before] : -1;
  const end = after < matches.length ? matches[after] : count;
  return Math.max(0, Math.min(start + (i - before), end - 1, count - 1));
}

/** The model of one side: the pair's own, with this side's records, name and token. */
function sideModel(model, place, otherToken) {
  const side = SIDES_OF[place];
  const named = { packed: `${side}_packed`, title: "names" };
  const events = (name) => name.replace(/^change:(.*)$/, (_, key) => `change:${named[key] ?? key}`);
  return {
    get(name) {
      if (name === "links") return [];
      if (name === "title") return model.get("names")[place];
      if (name === "selected") return model.get("selected")[place] ?? null;
      return model.get(named[name] ?? name);
    },
    set(name, value) {
      if (name !== "selected") return model.set(name, value);
      const pair = value === null ? [] : [value, otherToken(place, value)];
      return model.set("selected", place === 0 ? pair : pair.reverse());
    },
    on: (name, handler) => model.on(events(name), handler),
    off: (name, handler) => model.off(events(name), handler),
    save_changes: () => model.save_changes(),
  };
}

/** A lens that tells the pair where its cursor is, shares its scale, and marks what the other response does not have. */
class PairedLens extends TokenLens {
  /** Where `partner`, the other lens, and `pair` are known. */
  join(pair, place, partner) {
    Object.assign(this, { pair, place, partner });
  }

  moveTo(i) {
    super.moveTo(i);
    if (this.pair && !this.following) this.pair.follow(this.place, i);
  }

  /** Show the token beside the other lens's cursor. */
  follow(i) {
    this.following = true;
    if (i === null) this.moveTo(null);
    else this.jump(i);
    this.following = false;
  }

  resting() {
    const first = this.pair?.alignment()?.first ?? -1;
    return first >= 0 && first < this.record.tokens.length && isOwn(this.record, first) ? [first, "first difference"] : super.resting();
  }

  /** Measures that both responses have: two colours on one scale would mislead. */
  offered() {
    const own = super.offered();
    if (!this.partner?.record?.tokens) return own;
    const both = new Set(measuresOf(this.partner.record).map((one) => one.id));
    return own.filter((one) => both.has(one.id));
  }

  maxOf(measure) {
    const own = super.maxOf(measure);
    return this.partner ? Math.max(own, TokenLens.prototype.maxOf.call(this.partner, measure)) : own;
  }

  paint() {
    super.paint();
    const matches = this.pair?.matchesOf(this.place);
    this.spanAt.forEach((span, i) => span.classList.toggle("vpd-lp-alone", Boolean(matches) && matches[i] < 0));
    const first = this.pair?.alignment()?.first ?? -1;
    if (first >= 0) this.spanAt[first]?.classList.add("vpd-lp-first");
  }
}

class LensPair extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-lp");
    this.head = element("div", "vpd-head");
    this.tools = element("div", "vpd-lp-tools");
    this.columns = element("div", "vpd-lp-columns");
    this.note = statusLine("vpd-lp-note");
    this.root.append(this.head, this.tools, this.columns, this.note);
    const models = [0, 1].map((place) => sideModel(model, place, (from, i) => this.tokenBeside(from, i)));
    this.lenses = models.map((one) => {
      const column = element("div", "vpd-lp-column");
      this.columns.append(column);
      return new PairedLens(one, column);
    });
    const [left, right] = this.lenses;
    left.join(this, 0, right);
    right.join(this, 1, left);
    this.tools.append(left.steps, left.controls); // those of the left lens are for both
    right.steps.remove();
    right.controls.remove();
    this.lead = 0;
    this.lenses.forEach((lens, place) => {
      for (const name of ["pointerenter", "focusin", "wheel"]) this.listen(lens.root, name, () => (this.lead = place), { passive: true });
      this.listen(lens.stage, "scroll", () => this.scrollAlong(place), { passive: true });
    });
    for (const name of ["left_packed", "right_packed", "index", "names", "title"]) this.hear(`change:${name}`, () => this.schedule());
    this.watch(this.root);
    this.draw();
  }

  draw() {
    this.width = Math.floor(this.root.clientWidth);
    this.head.replaceChildren(element("div", "vpd-title", clean(this.model.get("title")) || this.model.get("names").map((name) => clean(name, 60)).join(" and ")));
    for (const lens of this.lenses) {
      lens.draw(); // a new pair first: the alignment is that of what both show
    }
    for (const lens of this.lenses) lens.paint();
    this.note.textContent = this.sentence();
  }

  sentence() {
    const records = this.lenses.map((lens) => lens.record);
    if (!records[0]?.tokens || !records[1]?.tokens) return "";
    const { to, first } = this.alignment();
    if (first < 0) return "The same response in both runs.";
    const shared = to.reduce((count, j) => count + (j >= 0), 0);
    const at = first < records[0].tokens.length ? `“${tokenLabel(records[0].tokens[first])}”` : "the end";
    const other = first < records[1].tokens.length ? `“${tokenLabel(records[1].tokens[first])}”` : "the end";
    return `First difference at token ${first + 1}: ${at} and ${other}; ${counted(shared, "token")} in common. Tokens that the other response does not have are underlined with dots.`;
  }

  /** The alignment of the pair that is shown; null where a side has no tokens. */
  alignment() {
    const [a, b] = this.lenses?.map((lens) => lens.record) ?? [];
    if (!a?.tokens || !b?.tokens) return null;
    if (this.of?.[0] !== a || this.of[1] !== b) {
      this.of = [a, b];
      this.found = aligned(a.tokens, b.tokens);
    }
    return this.found;
  }

  matchesOf(place) {
    const found = this.alignment();
    return found && (place === 0 ? found.to : found.from);
  }

  tokenBeside(place, i) {
    const matches = this.matchesOf(place);
    return matches ? beside(matches, i, this.lenses[1 - place].record.tokens.length) : null;
  }

  follow(place, i) {
    this.lenses[1 - place].follow(i === null ? null : this.tokenBeside(place, i));
  }

  /** Scroll the other text to the same share of its height; only the lens that the reader is in leads. */
  scrollAlong(place) {
    if (place !== this.lead) return;
    const [own, other] = [this.lenses[place].stage, this.lenses[1 - place].stage];
    const room = own.scrollHeight - own.clientHeight;
    if (room > 0) other.scrollTop = (own.scrollTop / room) * (other.scrollHeight - other.clientHeight);
  }

  destroy() {
    for (const lens of this.lenses) lens.destroy();
    super.destroy();
  }
}

export default widgetOf(LensPair);
