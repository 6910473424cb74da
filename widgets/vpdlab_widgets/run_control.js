// RunControl: a strip of buttons and fields for a run that trains. Plain ES module; shared.js is prepended to it.

const FIRST = ["lr", "beta", "e_every"]; // settings that come first; the others follow in the order of their declaration
const ENDED = ["complete", "stopped", "failed"];
const ARMED = 3000; // milliseconds in which a second press stops the run

// ---- pure functions, tested in node ----

/** The settings in the order of their fields. */
export function ordered(settings) {
  const place = ({ name }) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  return [...settings].map((one, i) => [one, i]).sort(([a, i], [b, j]) => place(a) - place(b) || i - j).map(([one]) => one);
}

/** A typed text as the value of a setting; null with the reason why it is none. */
export function valueOf(text, { whole, range = [] }) {
  const value = Number(text.trim().replace("−", "-").replace(",", "."));
  if (text.trim() === "" || !Number.isFinite(value)) return { value: null, why: "not a number" };
  if (whole && !Number.isInteger(value)) return { value: null, why: "not a whole number" };
  if (range.length === 2 && (value < range[0] || value > range[1])) return { value: null, why: `between ${short(range[0])} and ${short(range[1])}` };
  return { value, why: "" };
}

/** A setting's value as it is typed: all its digits, unlike `brief`. */
export function typed(value) {
  return typeof value === "number" ? String(value).replace("e-", "e-").replace("e+", "e") : String(value ?? "");
}

/** A bound of a range: 1000000000 as 1e9. */
function short(value) {
  return Math.abs(value) >= 1e5 ? value.toExponential(0).replace("e+", "e") : typed(value);
}

/** What may be asked of a run in a state. */
export function may({ state = "", step = 0, total = 0 }) {
  const ended = ENDED.includes(state) || state === "";
  return { go: !ended && state !== "stopping", paused: ["paused", "pausing"].includes(state), ended, left: Math.max(0, total - step) };
}

/** The line under the fields: the changes by iteration, newest last. */
export function changesByStep(changes) {
  const steps = new Map();
  for (const { step, setting, was, now } of changes) {
    if (!steps.has(step)) steps.set(step, []);
    steps.get(step).push(`${clean(setting, 40)} ${clean(typed(was), 40)} → ${clean(typed(now), 40)}`);
  }
  return [...steps].map(([step, words]) => ({ step, words: words.join(", ") }));
}

// ---- the view ----

class RunControl extends LabView {
  constructor(model, el) {
    super(model, el, "vpd-rx");
    this.armed = 0;
    this.fields = new Map();
    this.head = element("div", "vpd-head");
    this.title = element("div", "vpd-title");
    this.badge = element("span", "vpd-badge");
    this.count = element("span", "vpd-num");
    this.bar = element("div", "vpd-rx-bar");
    this.done = element("div", "vpd-rx-done");
    this.bar.append(this.done);
    this.head.append(this.title, this.badge, this.count);
    this.tools = element("div", "vpd-tools vpd-rx-tools");
    this.makeHome(this.tools, "toolbar");
    this.tools.setAttribute("aria-label", "run");
    this.buttons = {
      go: this.button("pause", "Space", () => this.toggle()),
      one: this.button("1 step", "S: one iteration, then pause", () => this.ask("step", { count: 1 })),
      ten: this.button("10 steps", "ten iterations, then pause", () => this.ask("step", { count: 10 })),
      save: this.button("checkpoint", "C: save a checkpoint before the next iteration", () => this.ask("save")),
      stop: this.button("stop", "Q twice: evaluate, save and end the run", () => this.stop()),
    };
    this.hint = element("span", "vpd-hint", "Space pause · S step · C checkpoint · E settings · Q stop");
    this.tools.append(...Object.values(this.buttons), this.hint);
    this.grid = element("div", "vpd-rx-grid");
    this.changes = element("div", "vpd-rx-changes");
    this.saved = element("div", "vpd-rx-saved");
    this.status = statusLine("vpd-rx-status");
    this.root.append(this.head, this.bar, this.tools, this.grid, this.status, this.changes, this.saved);
    for (const name of ["shown", "trouble", "live", "title"]) this.hear(`change:${name}`, () => this.schedule());
    this.hear("comm_live_update", () => this.schedule());
    this.watch(this.root);
    this.draw();
  }

  button(name, title, act) {
    const node = element("button", "vpd-button", name);
    Object.assign(node, { type: "button", tabIndex: -1, title });
    node.addEventListener("click", act);
    return node;
  }

  /** Whether a kernel hears what is asked here. */
  alive() {
    return Boolean(this.model.get("live")) && !this.model.offline && this.model.comm_live !== false;
  }

  draw() {
    this.width = Math.floor(this.root.clientWidth);
    const shown = this.model.get("shown") ?? {};
    const can = may(shown);
    const state = clean(shown.state || "no run", 20);
    this.title.textContent = clean(this.model.get("title")) || clean(shown.name) || "Run";
    this.badge.className = `vpd-badge vpd-rx-${state.replace(/[^a-z]/g, "")}`;
    this.badge.textContent = state;
    this.count.textContent = `iteration ${shown.step ?? 0} of ${shown.total ?? 0}`;
    this.done.style.width = `${shown.total ? Math.min(100, (100 * (shown.step ?? 0)) / shown.total) : 0}%`;
    this.tools.hidden = !this.alive() || can.ended;
    this.drawButtons(can);
    this.drawFields(shown, this.alive() && can.go);
    this.drawLines(shown, can);
  }

  drawButtons(can) {
    const { go, one, ten, save, stop } = this.buttons;
    go.textContent = can.paused ? "▶ go on" : "❚❚ pause";
    for (const button of [go, one, ten, save, stop]) button.disabled = !can.go;
    ten.hidden = can.left < 2;
    stop.textContent = this.armed ? "stop: sure?" : "■ stop";
    stop.classList.toggle("vpd-rx-armed", Boolean(this.armed));
  }

  /** A field per setting. It is made once: a redraw must not take what is being typed. */
  drawFields(shown, open) {
    const settings = ordered(shown.settings ?? []);
    const names = settings.map(({ name }) => name).join(" ");
    if (names !== this.names) {
      this.names = names;
      this.fields = new Map(settings.map((one) => [one.name, this.field(one)]));
      this.grid.replaceChildren(...[...this.fields.values()].map(({ box }) => box));
    }
    for (const one of settings) {
      const { box, input, note } = this.fields.get(one.name);
      const waiting = shown.pending?.[one.name];
      const text = typed(waiting ?? one.value);
      input.readOnly = !open;
      if (document.activeElement !== input && !box.classList.contains("vpd-rx-wrong")) input.value = text;
      box.classList.toggle("vpd-rx-pending", waiting !== undefined);
      box.classList.toggle("vpd-rx-changed", waiting === undefined && one.value !== one.begun);
      const was = one.value !== one.begun ? `began with ${typed(one.begun)}` : "";
      note.textContent = waiting !== undefined ? `now ${typed(one.value)}` : was;
    }
  }

  field(setting) {
    const box = element("label", "vpd-rx-field");
    const name = element("span", "vpd-rx-name", clean(setting.name, 40));
    const input = element("input", "vpd-field vpd-rx-input");
    const note = element("span", "vpd-caps vpd-rx-note");
    Object.assign(input, { type: "text", inputMode: "decimal", autocomplete: "off", spellcheck: false });
    input.setAttribute("aria-label", clean(setting.name, 40));
    box.title = clean(setting.text, 600);
    this.listen(input, "keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey) this.send(setting, input, box);
      if (event.key === "Escape") this.restore(input, box);
    });
    this.listen(input, "blur", () => this.schedule());
    box.append(name, input, note);
    return { box, input, note };
  }

  send(setting, input, box) {
    const { value, why } = valueOf(input.value, setting);
    box.classList.toggle("vpd-rx-wrong", value === null);
    this.fault = value === null ? `${clean(setting.name, 40)} is ${clean(input.value, 40) || "empty"}: ${why}` : "";
    if (value !== null && !input.readOnly) this.ask("change", { name: setting.name, value });
    this.schedule();
  }

  restore(input, box) {
    box.classList.remove("vpd-rx-wrong");
    this.fault = "";
    this.home.focus({ preventScroll: true });
    this.schedule();
  }

  drawLines(shown, can) {
    const trouble = this.fault || clean(this.model.get("trouble"), 300);
    const pending = Object.entries(shown.pending ?? {}).map(([name, value]) => `${clean(name, 40)} ${clean(typed(value), 40)}`);
    const reason = clean(shown.reason, 300);
    const next = pending.length ? `from the next iteration on: ${pending.join(", ")}` : "";
    this.status.textContent = trouble || next || (can.ended && reason ? reason : "");
    this.status.classList.toggle("vpd-rx-trouble", Boolean(trouble) || shown.state === "failed");
    this.changes.replaceChildren(
      ...changesByStep(shown.changes ?? []).map(({ step, words }) => {
        const mark = element("span", "vpd-mark vpd-rx-change");
        mark.append(element("span", "vpd-num", `after ${step}: `), words);
        return mark;
      }),
    );
    const steps = shown.saved ?? [];
    this.saved.textContent = steps.length ? `checkpoints of steps ${steps.join(", ")}; a branch: vpdlab train --from ${clean(shown.folder, 200)}@${steps.at(-1)}` : "";
  }

  // -- what is asked --

  ask(kind, more = {}) {
    if (this.alive()) this.model.send({ kind, ...more });
  }

  toggle() {
    const can = may(this.model.get("shown") ?? {});
    if (can.go) this.ask(can.paused || this.model.get("shown").state === "paused" ? "go_on" : "pause");
  }

  /** The first press arms the button, the second one stops the run. */
  stop() {
    if (!may(this.model.get("shown") ?? {}).go) return;
    clearTimeout(this.armed);
    if (this.armed) {
      this.armed = 0;
      this.ask("stop");
    } else {
      this.armed = setTimeout(() => {
        this.armed = 0;
        this.schedule();
      }, ARMED);
    }
    this.schedule();
  }

  onKey(event) {
    if (event.target !== this.home) return;
    const one = () => this.ask("step", { count: 1 });
    const save = () => this.ask("save");
    const edit = () => [...this.fields.values()][0]?.input.focus();
    takeKeys(
      event,
      {
        " ": () => this.toggle(), s: one, S: one, c: save, C: save, e: edit, E: edit, q: () => this.stop(), Q: () => this.stop(),
      },
      () => false,
    );
  }

  moveTo() {}

  destroy() {
    clearTimeout(this.armed);
    super.destroy();
  }
}

export default widgetOf(RunControl);
