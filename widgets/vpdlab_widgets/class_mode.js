// ClassMode: the notebook around it as a lesson. Plain ES module; shared.js is prepended to it.

const QUESTION = /(^|[^\w])Predict\s*:/;
const ANSWER = /^\s*answer/i;
const PAGES = ".jp-NotebookPanel, .jp-Notebook, main";
const FOLDED = 40; // pixels: a lower cell is a line of folded code that showed nothing
const TYPING = "input, textarea, select, [contenteditable=true], .cm-editor, .vpd:not(.vpd-cm)";

// ---- pure functions, tested in node ----

/**
 * Indices of the cells whose output answers a question: the code cells after a text cell that asks one, up to the next
 * text cell. `cells` are {code, text}.
 */
export function answersOf(cells) {
  const found = [];
  let asked = false;
  cells.forEach(({ code, text }, i) => {
    if (!code) asked = QUESTION.test(text);
    else if (asked) found.push(i);
  });
  return found;
}

/** The index of the stop before or after a place: `tops` are the distances of all stops from the top of the view. */
export function nextStop(tops, by, slack = 12) {
  if (by > 0) return tops.findIndex((top) => top > slack);
  return tops.findLastIndex((top) => top < -slack);
}

// ---- the view ----

class ClassMode extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-cm");
    this.began = new Map(); // a running cell's input -> when it began
    this.seen = new WeakSet(); // outputs that were asked for
    this.bar = element("div", "vpd-tools vpd-cm-bar");
    this.makeHome(this.bar, "toolbar");
    this.bar.setAttribute("aria-label", "class mode");
    this.status = statusLine("vpd-aside");
    this.card = element("div", "vpd-view vpd-cm-over");
    this.root.append(this.bar);
    this.hear("change:on", () => this.schedule());
    this.hear("change:notation", () => this.schedule());
    this.listen(document, "keydown", (event) => this.onPageKey(event), { capture: true });
    this.listen(document, "click", (event) => this.onPageClick(event), { capture: true });
    this.observer = new MutationObserver(() => this.scan());
    this.watch(this.root);
    this.draw();
  }

  /** The notebook around the bar; null while the bar is not in the page. */
  page() {
    return this.root.closest(PAGES);
  }

  on() {
    return Boolean(this.model.get("on")) && this.page() !== null;
  }

  draw() {
    this.width = Math.floor(this.root.clientWidth);
    this.drawBar();
    const page = this.page();
    if (page !== this.held) {
      this.observer.disconnect();
      this.held?.classList.remove("vpd-class");
      this.held = page;
      // Outputs come later, and a prompt of [*] is a cell that runs.
      if (page) this.observer.observe(page, { childList: true, characterData: true, subtree: true });
    }
    page?.classList.toggle("vpd-class", this.on());
    this.scan();
    this.drawCard(this.on() && this.card.isConnected);
  }

  drawBar() {
    const on = this.on();
    const button = (name, title, act, pressed = null) => {
      const node = element("button", "vpd-button", name);
      Object.assign(node, { type: "button", tabIndex: -1, title });
      if (pressed !== null) node.setAttribute("aria-pressed", String(pressed));
      node.addEventListener("click", act);
      return node;
    };
    const parts = [button("Class mode", "large type, folded code, covered answers", () => this.tell({ on: !on }), on)];
    if (on) {
      parts.push(
        button("◀ previous", "Page Up", () => this.step(-1)), button("next ▶", "Page Down", () => this.step(1)),
        button("answer", "A", () => this.answer()), button("notation", "?", () => this.drawCard(!this.card.isConnected)),
        button("all code", "O", () => this.toggleCode()),
        element("span", "vpd-hint", "Page Up, Page Down · A answer · ? notation · O code · Esc closes"),
      );
    }
    this.bar.replaceChildren(...parts);
    if (on) this.root.append(this.status);
    else this.status.remove();
  }

  cells() {
    return [...(this.held?.querySelectorAll(".jp-Cell") ?? [])];
  }

  /** Cover the answers that nobody asked for, and take the time of cells. */
  scan() {
    const on = this.on();
    const cells = this.cells();
    const kinds = cells.map((cell) => ({ code: cell.classList.contains("jp-CodeCell"), text: cell.classList.contains("jp-CodeCell") ? "" : cell.textContent }));
    const covered = new Set(on ? answersOf(kinds).map((i) => outputOf(cells[i])).filter((node) => node && !this.seen.has(node)) : []);
    for (const cell of cells) {
      const output = outputOf(cell);
      // A class is set only where it changes, since setting it would call the observer again.
      if (output && output.classList.contains("vpd-class-covered") !== covered.has(output)) output.classList.toggle("vpd-class-covered", covered.has(output));
      this.time(cell);
    }
    for (const details of this.answers()) {
      if (on && !this.seen.has(details)) details.open = false;
      if (on) this.seen.add(details);
    }
  }

  answers() {
    const all = [...(this.held?.querySelectorAll(".jp-MarkdownCell details") ?? [])];
    return all.filter((one) => ANSWER.test(one.querySelector("summary")?.textContent ?? ""));
  }

  time(cell) {
    const input = cell.querySelector(".jp-Cell-inputWrapper");
    const prompt = input?.querySelector(".jp-InputPrompt")?.textContent ?? "";
    if (prompt.includes("*")) {
      if (!this.began.has(input)) this.began.set(input, performance.now());
    } else if (this.began.has(input)) {
      input.dataset.vpdTime = ` · ${duration((performance.now() - this.began.get(input)) / 1000)}`;
      this.began.delete(input);
    }
  }

  // -- what the keys and buttons do --

  /** The nearest place to look at, before or after the one at the top of the view. */
  step(by) {
    const stops = this.cells().filter((cell) => cell.offsetHeight > FOLDED);
    const { top } = this.view();
    const i = nextStop(stops.map((cell) => cell.getBoundingClientRect().top - top), by);
    if (i < 0) return;
    stops[i].scrollIntoView({ block: "start" });
    // JupyterLab's own choice of a cell follows, so that Shift+Enter runs what is seen.
    stops[i].querySelector(".jp-InputPrompt, .jp-Collapser")?.dispatchEvent(new MouseEvent("mousedown", { bubbles: true, button: 0 }));
    for (const cell of stops) cell.classList.toggle("vpd-class-at", cell === stops[i]);
    this.status.textContent = clean(stops[i].innerText, 80); // without what is folded or covered
  }

  /** Top and bottom of what is in sight. */
  view() {
    const box = this.held?.querySelector(".jp-WindowedPanel-outer") ?? this.held?.closest(".jp-WindowedPanel-outer");
    return box ? box.getBoundingClientRect() : { top: 0, bottom: innerHeight };
  }

  /** Unfold the first answer in sight, or just below its question: one further down is the answer to what nobody read. */
  answer() {
    const hidden = [...(this.held?.querySelectorAll(".vpd-class-covered") ?? []), ...this.answers().filter((one) => !one.open)];
    const { top, bottom } = this.view();
    const near = (box) => box.bottom > top && box.top < bottom + (bottom - top) / 2;
    const below = hidden.filter((node) => near(node.getBoundingClientRect())).sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top);
    if (below.length) this.unfold(below[0]);
  }

  unfold(node) {
    this.seen.add(node);
    if (node.tagName === "DETAILS") node.open = true;
    node.classList.remove("vpd-class-covered");
    node.scrollIntoView({ block: "nearest" });
  }

  toggleCode() {
    const inputs = [...(this.held?.querySelectorAll(".jp-CodeCell .jp-Cell-inputWrapper") ?? [])];
    const folded = [...(this.held?.querySelectorAll("details.vpd-code") ?? [])];
    const open = inputs.some((one) => !one.classList.contains("vpd-class-open")) || folded.some((one) => !one.open);
    for (const one of inputs) one.classList.toggle("vpd-class-open", open);
    for (const one of folded) one.open = open;
  }

  drawCard(shown) {
    if (!shown) return this.card.remove();
    const box = element("aside", "vpd vpd-cm-card");
    box.setAttribute("role", "dialog");
    box.setAttribute("aria-label", "notation");
    const list = element("dl", "vpd-cm-list");
    for (const { symbol, name, meaning } of this.model.get("notation") ?? []) {
      const said = element("dd");
      if (name) said.append(element("b", "", clean(name, 60)), ": ");
      said.append(clean(meaning, 200));
      list.append(element("dt", "", clean(symbol, 20)), said);
    }
    const close = element("button", "vpd-button", "close (Esc)");
    close.type = "button";
    close.addEventListener("click", () => this.drawCard(false));
    box.append(element("div", "vpd-title", "Notation"), list, close);
    this.card.replaceChildren(box);
    document.body.append(this.card);
  }

  onPageKey(event) {
    if (!this.on() || !visibleNow(this.held) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.(TYPING)) return;
    const act = {
      PageDown: () => this.step(1), PageUp: () => this.step(-1), a: () => this.answer(), A: () => this.answer(),
      "?": () => this.drawCard(!this.card.isConnected), o: () => this.toggleCode(), O: () => this.toggleCode(),
      Escape: this.card.isConnected ? () => this.drawCard(false) : null,
    }[event.key];
    if (!act) return;
    act();
    event.preventDefault();
    event.stopImmediatePropagation(); // in JupyterLab, A would add a cell
  }

  onPageClick(event) {
    if (!this.on()) return;
    const cover = event.target.closest?.(".vpd-class-covered");
    if (cover && this.held.contains(cover)) return this.unfold(cover);
    const input = event.target.closest?.(".jp-Cell-inputWrapper");
    if (input && event.target === input && this.held.contains(input)) input.classList.toggle("vpd-class-open");
  }

  onKey() {}

  moveTo() {}

  destroy() {
    super.destroy();
    this.observer.disconnect();
    this.card.remove();
    this.held?.classList.remove("vpd-class");
    for (const node of this.held?.querySelectorAll(".vpd-class-covered") ?? []) node.classList.remove("vpd-class-covered");
  }
}

function outputOf(cell) {
  return cell.querySelector(".jp-Cell-outputWrapper");
}

/** Whether a notebook is the one in sight: JupyterLab hides the others. */
function visibleNow(page) {
  return page !== null && page.getClientRects().length > 0;
}

export default widgetOf(ClassMode);
