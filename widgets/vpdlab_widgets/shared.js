// Code shared by all widgets. `LabWidget` prepends this text to each widget's own module, so that the two form one plain
// ES module without imports; names must therefore be unique across this file and any one widget.

// ---- numbers, axes, paths: pure, tested in node ----

/** A number that can be drawn, or null. */
export function numberOf(row, key) {
  const value = row[key];
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** The distance between ticks: 1, 2 or 5 times a power of ten, `count` intervals at most. */
export function niceStep(span, count, integer = false) {
  if (!(span > 0)) return 1;
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= raw * (1 - 1e-9));
  const step = factor * power;
  return integer ? Math.max(1, Math.round(step)) : step;
}

/** Multiples of `step` inside [low, high]. */
export function ticks(low, high, step) {
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const decimals = Math.max(0, Math.min(12, -Math.floor(Math.log10(step)) + 1));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toFixed(decimals)));
}

/** The axis of one panel: a domain that ends on ticks. Null values are ignored. */
export function axisOf(values, { zero = false, floor = -Infinity, ceiling = Infinity, count = 3 } = {}) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  // A rate's axis ends at 1 and a length's starts at 0, unless the data lie beyond.
  const [lowest, highest] = [Math.min(floor, low), Math.max(ceiling, high)];
  const bounded = (value) => Math.min(Math.max(value, lowest), highest);
  if (zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  if (high - low < 1e-12 * Math.max(1, Math.abs(high))) {
    const room = Math.abs(high) * 0.1 || 1; // a flat line still needs an axis
    [low, high] = [bounded(low - room), bounded(high + room)];
  }
  const step = niceStep(high - low, count);
  const domain = [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step].map(bounded);
  return { domain, step, ticks: ticks(domain[0], domain[1], step) };
}

/** A linear map from a domain to a range; `invert` is its inverse. */
export function scaleOf([d0, d1], [r0, r1]) {
  const slope = d1 === d0 ? 0 : (r1 - r0) / (d1 - d0);
  const scale = (value) => r0 + (value - d0) * slope;
  scale.invert = (position) => (slope === 0 ? d0 : d0 + (position - r0) / slope);
  return scale;
}

/** An SVG path; null in `ys` is a gap, and a point alone between gaps is drawn as a dot (round line caps). */
export function pathOf(xs, ys) {
  let path = "";
  let open = false;
  for (let i = 0; i < ys.length; i++) {
    if (ys[i] === null) {
      open = false;
      continue;
    }
    const point = `${xs[i].toFixed(1)} ${ys[i].toFixed(1)}`;
    const alone = !open && (i + 1 >= ys.length || ys[i + 1] === null);
    path += alone ? `M${point}h0` : `${open ? "L" : "M"}${point}`;
    open = true;
  }
  return path;
}

/** Indices to draw: per bucket its first, lowest, highest and last value and its first gap, so no peak is lost. */
export function thin(values, buckets) {
  const n = values.length;
  if (n <= 4 * buckets) return values.map((_, i) => i);
  const kept = [];
  for (let bucket = 0; bucket < buckets; bucket++) {
    const start = Math.floor((bucket * n) / buckets);
    const end = Math.floor(((bucket + 1) * n) / buckets);
    const chosen = new Set([start, end - 1]);
    let low = -1;
    let high = -1;
    let gap = -1;
    for (let i = start; i < end; i++) {
      if (values[i] === null) {
        if (gap < 0) gap = i;
        continue;
      }
      if (low < 0 || values[i] < values[low]) low = i;
      if (high < 0 || values[i] > values[high]) high = i;
    }
    for (const i of [low, high, gap]) if (i >= 0) chosen.add(i);
    kept.push(...[...chosen].sort((a, b) => a - b));
  }
  return kept;
}

/** The index of the value nearest to `target` in an ascending list. */
export function nearest(sorted, target) {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < target) low = middle + 1;
    else high = middle;
  }
  return low > 0 && target - sorted[low - 1] <= sorted[low] - target ? low - 1 : low;
}

/** A tick's label, with as many decimals as its step needs. */
export function tickLabel(value, step) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (step < 1e-4 || size >= 1e7) return sign + size.toExponential(1).replace("e+", "e").replace(".0e", "e");
  if (step >= 1000 && size >= 10000) return `${sign}${Number((size / 1000).toPrecision(6))}k`;
  return sign + size.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

/** A value as a readout shows it: a count in full, another number in three significant digits, a dash for null. */
export function valueLabel(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return clean(String(value), 60);
  return Number.isInteger(value) ? String(value).replace("-", "−") : brief(value);
}

/** A noun with its count: one token, two tokens. */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

export function bounds(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** The classes of colour: 0 is none, `LEVELS` the strongest; see the heat classes in base.css. */
export const LEVELS = 8;

/** The colour class of a value: up (orange) for positive, down (blue, underlined) for negative, none without data. */
export function heatClass(value, max) {
  if (!Number.isFinite(value)) return "vpd-nodata";
  const level = max > 0 ? Math.round(LEVELS * Math.min(1, Math.abs(value) / max)) : 0;
  return level === 0 ? "" : `vpd-${value > 0 ? "up" : "down"}${level}`;
}

/** The magnitude drawn in the strongest colour: a high quantile, so that one outlier does not make all else pale. */
export function scaleMax(values, share = 0.99) {
  const sizes = [];
  for (const value of values) if (Number.isFinite(value) && value !== 0) sizes.push(Math.abs(value));
  if (sizes.length === 0) return 0;
  sizes.sort((a, b) => a - b);
  return sizes[Math.min(sizes.length - 1, Math.ceil(share * sizes.length) - 1)];
}

/** A probability in percent, in at most three significant digits. */
export function percent(p) {
  if (!Number.isFinite(p)) return "–";
  if (p >= 0.9995) return "100 %";
  if (p >= 0.0995) return `${(100 * p).toFixed(1)} %`;
  if (p >= 0.001) return `${(100 * p).toFixed(2)} %`;
  if (p >= 1e-6) return `${Number((100 * p).toPrecision(2))} %`; // 0.037 %: a share of a percent reads as such
  return p > 0 ? `${(100 * p).toExponential(1).replace("e-", "e−")} %` : "0 %";
}

/** A number in at most three significant digits, with a true minus sign, and a plus sign on request. */
export function brief(value, signed = false) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? size.toExponential(1).replace("e-", "e−").replace("e+", "e") : String(Number(size.toPrecision(3)));
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
}

/** A number as a label of at most `width` pixels in the size of a chart's text: fewer digits where needed, else nothing. */
export function fitted(value, width, signed = false) {
  const fits = [brief(value, signed), brief(Number(value.toPrecision(1)), signed)].find((text) => text.length * 6.6 <= width);
  return fits ?? "";
}

/** A duration in human-readable form. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 6000) return `${Number((seconds / 60).toPrecision(3))} min`;
  return `${Number((seconds / 3600).toPrecision(3))} h`;
}

// ---- untrusted text ----

// Control characters, marks that change direction, invisible characters, and tag characters that encode hidden text.
const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udfff]/g;

/** Text on one line without control and direction-changing characters, of bounded length. */
export function clean(text, limit = 400) {
  const safe = String(text ?? "").replace(STEERING, " ").replace(/[\t\n]/g, " ");
  return safe.length > limit ? `${safe.slice(0, limit - 1)}…` : safe;
}

/** Text of any length with its line breaks. Each control character becomes a visible mark of the same length. */
export function visible(text) {
  return String(text ?? "").replace(STEERING, (found) => {
    if (found.length > 1) return "\ufffd\ufffd";
    const code = found.charCodeAt(0);
    return code < 32 ? String.fromCharCode(0x2400 + code) : code === 127 ? "\u2421" : "\ufffd";
  });
}

/** A token on one line, with visible white space. */
export function tokenLabel(token, limit = 40) {
  const marked = visible(token).replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "·");
  const label = /^ +$/.test(token) ? "·".repeat(token.length) : marked;
  return label.length > limit ? `${label.slice(0, limit - 1)}…` : label;
}

/** Tokens per block: more siblings than that make the layout of a notebook quadratic in their number. */
const CHUNK = 400;

/** Where chunks of at most `limit` tokens end: after a line break where there is one in the chunk's second half. */
export function chunkEnds(tokens, limit = CHUNK) {
  const ends = [];
  for (let start = 0; start < tokens.length; start = ends.at(-1)) {
    let end = Math.min(start + limit, tokens.length);
    if (end < tokens.length) {
      let at = end;
      while (at > start + limit / 2 && !tokens[at - 1].includes("\n")) at--;
      if (at > start + limit / 2) end = at;
    }
    ends.push(end);
  }
  return ends;
}

const MOST_WORDS = 8;

/** One line about the words of a text that the model does not know; "" if it knows all of them. */
export function lackingLine(unknown, text) {
  const typed = new Set(text.match(/\p{L}+/gu) ?? []);
  const words = unknown.filter((word) => typed.has(word)).map((word) => clean(word, 40));
  if (!words.length) return "";
  const more = words.length > MOST_WORDS ? ` and ${words.length - MOST_WORDS} more` : "";
  return `not in this model's vocabulary: ${words.slice(0, MOST_WORDS).join(", ")}${more}`;
}

// ---- bytes: what vpdlab_widgets/pack.py wrote ----

/** A typed array of a DataView's bytes; copied, since a message may hold them at any offset. */
export function unpackNumbers(view, Type = Float32Array) {
  if (!view) return null;
  const start = view.byteOffset ?? 0;
  return new Type((view.buffer ?? view).slice(start, start + view.byteLength));
}

/** A list of texts from one text and where each of them ends. */
export function unpackTexts(packed) {
  if (!packed) return null;
  const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(packed.text);
  const ends = unpackNumbers(packed.ends, Int32Array);
  let start = 0;
  return Array.from(ends, (end) => whole.slice(start, (start = end)));
}

// ---- episodes ----

const POLICY = "assistant";
const ABOUT = "the feedback is about this turn";

/**
 * The turns of a record with `turn_roles`, `turn_texts` and, where it has tokens, `turn_ends`; none for a single response.
 * `number` counts the policy's own turns from 1; `about` marks the one that the feedback is about.
 */
export function turnsOf(record) {
  let number = 0;
  let start = 0;
  return (record.turn_roles ?? []).map((role, i) => {
    const own = role === POLICY;
    if (own) number += 1;
    const turn = { role, own, text: record.turn_texts[i], start, end: record.turn_ends?.[i] ?? 0, number: own ? number : null };
    start = turn.end;
    return { ...turn, about: own && number === record.feedback_turn };
  });
}

/** Who speaks in a turn. */
export function speakerOf(turn) {
  return turn.own ? `policy, turn ${turn.number}` : `environment, as ${clean(turn.role, 40)}`;
}

/** Where a rollout is in its run: "iteration 3 · rollout 2". `place` counts it where the record has no index. */
export function placeLabel(record, place = null) {
  const index = record.index ?? place;
  const step = record.has_step === false ? null : (record.step ?? null); // of rollouts from elsewhere, nothing's number
  return [step === null ? "" : `iteration ${step}`, index === null ? "" : `rollout ${index + 1}`].filter(Boolean).join(" · ");
}

// ---- elements ----

export function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

export function shape(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** The room below a plot for the labels of its axis and their name. */
export const UNDER = 36;

/** The room left of a plot for the labels of some axes. */
export function labelRoom(...axes) {
  return Math.max(32, ...axes.flatMap(({ ticks: all, step }) => all.map((tick) => tickLabel(tick, step).length * 6.6 + 14)));
}

/**
 * Grid, frame and labels of a plot that goes from `left` to `right` and down to `height`. `axis` is the vertical one and `y`
 * its scale; `across` are the vertical lines, [x, label] each, labelled only where `under` names their axis.
 *
 * Returns the labels below, {text, x, half}: half the width of each.
 */
export function drawAxes(svg, { left, right, height, axis, y, across, under = "" }) {
  const line = (d, kind) => svg.append(shape("path", { d, class: `vpd-${kind}` }));
  line(across.map(([x]) => `M${x.toFixed(1)} 0V${height}`).join(""), "grid");
  for (const tick of axis.ticks) {
    const zero = tick === 0 && axis.domain[0] < 0;
    line(`M${left} ${y(tick)}H${right}`, zero ? "zero" : "grid");
    svg.append(shape("text", { x: left - 8, y: y(tick), dy: "0.34em", class: "vpd-end" }, tickLabel(tick, axis.step)));
  }
  line(`M${left} 0V${height}H${right}`, "frame");
  if (!under) return [];
  svg.append(shape("text", { x: (left + right) / 2, y: height + 32, class: "vpd-axis vpd-middle" }, under));
  return across.map(([x, label]) => {
    const text = shape("text", { x, y: height + 16, class: "vpd-middle" }, label);
    line(`M${x} ${height}v4`, "frame");
    svg.append(text);
    return { text, x, half: label.length * 3.4 };
  });
}

/** A line that screen readers announce when it changes. */
export function statusLine(className) {
  const line = element("div", className);
  line.setAttribute("role", "status");
  return line;
}

/** A scrollable box. Browsers would make it a tab stop, but each widget has one already. */
export function scroller(className, text = "") {
  const node = element("div", className, text);
  node.tabIndex = -1;
  return node;
}

/** Invisible blocks are not laid out: the height that the page assumes for a block of this many characters. */
export function expectHeight(block, characters) {
  block.style.containIntrinsicBlockSize = `auto ${Math.max(1, Math.ceil(characters / 90)) * 24}px`;
}

/** A row of buttons, one of them selected; `items` are {id, name, title}. */
export function choice(items, chosen, onChoose) {
  const group = element("span", "vpd-choice");
  group.setAttribute("role", "group");
  for (const { id, name, title = "" } of items) {
    const button = element("button", "vpd-option", name);
    button.type = "button";
    button.tabIndex = -1; // one tab stop a widget: its stage, whose keys do the same
    button.title = title;
    button.setAttribute("aria-pressed", String(id === chosen));
    button.addEventListener("click", () => onChoose(id));
    group.append(button);
  }
  return group;
}

/** The colours from none to the strongest, with what the ends mean. */
export function heatKey(measure, max) {
  const key = element("span", "vpd-heatkey");
  const levels = measure.signed ? [-8, -6, -4, -2, 0, 2, 4, 6, 8] : [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const strip = element("span", "vpd-heatstrip");
  for (const level of levels) strip.append(element("i", `vpd-tok ${heatClass(level, LEVELS)}`));
  const low = measure.signed ? `${measure.ends[0]} −${brief(max)}` : "0";
  const high = measure.signed ? `+${brief(max)} ${measure.ends[1]}` : `${brief(max)}${measure.unit ? ` ${measure.unit}` : ""} or more`;
  key.append(element("span", "vpd-num", low), strip, element("span", "vpd-num", high));
  return key;
}

// ---- drawings that the reader saves ----

const PAINT = [
  "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "stroke-opacity",
  "opacity", "font-family", "font-size", "font-weight", "text-anchor", "visibility",
];

/** A copy of a drawing's content that needs no style sheet. */
function painted(svg) {
  const from = [...svg.querySelectorAll("*")];
  const copy = svg.cloneNode(true);
  [...copy.querySelectorAll("*")].forEach((node, i) => {
    const paint = getComputedStyle(from[i]);
    for (const name of PAINT) node.setAttribute(name, paint.getPropertyValue(name));
    for (const name of ["class", "style"]) node.removeAttribute(name);
  });
  return [...copy.childNodes];
}

/** The heading above a drawing: its name and the keys, where they are on the screen. */
function paintedHead(head) {
  const frame = head.getBoundingClientRect();
  const group = shape("g", {});
  const named = [...head.querySelectorAll(".vpd-name, .vpd-key")];
  for (const node of named.length ? named : [head]) {
    const words = document.createRange();
    words.selectNodeContents(node);
    const [box, style, swatch] = [words.getBoundingClientRect(), getComputedStyle(node), node.querySelector("svg")];
    const at = swatch?.getBoundingClientRect();
    if (swatch) {
      const mark = shape("g", { transform: `translate(${at.left - frame.left} ${at.top - frame.top})` });
      mark.append(...painted(swatch));
      group.append(mark);
    }
    const where = { x: (at ? at.right + 4 : box.left) - frame.left, y: box.top - frame.top + 0.75 * box.height };
    const font = { fill: style.color, "font-family": style.fontFamily, "font-size": style.fontSize, "font-weight": style.fontWeight };
    group.append(shape("text", { ...where, ...font }, node.textContent.trim()));
  }
  return group;
}

/** Drawings with the headings above them as one SVG. `parts` are {head, svg}. */
export function svgText(parts, background) {
  const width = Math.max(...parts.map(({ svg }) => Number(svg.getAttribute("width"))));
  const whole = shape("svg", { xmlns: "http://www.w3.org/2000/svg", width });
  whole.append(shape("rect", { width: "100%", height: "100%", fill: background }));
  let top = 0;
  const put = (nodes, height) => {
    const group = shape("g", { transform: `translate(0 ${top})` });
    group.append(...nodes);
    whole.append(group);
    top += height;
  };
  for (const { head, svg } of parts) {
    if (head) put([paintedHead(head)], head.getBoundingClientRect().height);
    put(painted(svg), Number(svg.getAttribute("height")));
  }
  whole.setAttribute("height", top);
  return new XMLSerializer().serializeToString(whole);
}

/** An SVG as a PNG of twice its size. */
export async function pngOf(svg) {
  const image = Object.assign(new Image(), { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}` });
  await image.decode();
  const canvas = element("canvas");
  Object.assign(canvas, { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** Save the drawings of a stage, each with the heading before it, as "svg" or "png". */
export async function saveDrawing(title, kind, stage) {
  const parts = [...stage.querySelectorAll("svg.vpd-chart")].map((svg) => ({ head: svg.previousElementSibling, svg }));
  const drawing = svgText(parts, getComputedStyle(stage).getPropertyValue("--vpd-bg") || "white");
  if (kind === "svg") saveFile(fileName(title, kind), drawing, "image/svg+xml");
  else saveFile(fileName(title, kind), await pngOf(drawing));
}

/** The buttons of a widget's corner: files of its rows, and of the drawings of a stage if it has one. */
export function saveCorner(title, rows, stage = null) {
  const tables = { CSV: () => saveRows(title(), "csv", rows()), JSON: () => saveRows(title(), "json", rows()) };
  const pictures = { SVG: () => saveDrawing(title(), "svg", stage), PNG: () => saveDrawing(title(), "png", stage) };
  return saveButtons(stage ? { ...pictures, ...tables } : tables);
}

/** Scroll `node` into view within `box` only: the notebook around it must not move. */
export function reveal(box, node, margin = 24) {
  const [frame, at] = [box.getBoundingClientRect(), node.getBoundingClientRect()];
  if (at.top < frame.top + margin) box.scrollTop -= frame.top + margin - at.top;
  else if (at.bottom > frame.bottom - margin) box.scrollTop += at.bottom - frame.bottom + margin;
}

/** Keyboard commands of a tab stop. Plain keys do not propagate: a `b` that reached the notebook would add a cell. */
export function takeKeys(event, actions, canLeave = () => true) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
  if (event.key === "Escape" && !canLeave()) return; // nothing to leave: the notebook may have it
  if (event.key === "Enter" && event.shiftKey) return; // runs the notebook's next cell
  event.stopPropagation();
  const respond = actions[event.key];
  if (!respond) return;
  respond(event);
  event.preventDefault();
}

/** Whether text in `node` is being selected for copying: then a click does not select anything. */
export function copying(node) {
  const selection = getSelection();
  return Boolean(selection && selection.toString() && selection.anchorNode && node.contains(selection.anchorNode));
}

/**
 * The base of every view: a root element, listeners that end with it, one redraw per frame, resize handling.
 * A widget extends it, builds its elements in `constructor`, calls `makeHome` for its tab stop, and draws in `draw()`.
 */
export class LabView {
  constructor(model, el, className) {
    this.model = model;
    this.frame = 0;
    this.width = 0;
    this.root = element("div", `vpd ${className}`);
    el.append(this.root);
    this.events = new AbortController();
    this.handlers = [];
    // A pressed button is redrawn and loses the focus; keys typed next must not reach the notebook,
    // where a plain x cuts a cell. So the focus moves to the widget's tab stop.
    this.listen(this.root, "click", (event) => event.target.closest?.("button") && this.home?.focus({ preventScroll: true }));
    this.listen(this.root, "keydown", (event) => takeKeys(event, {}, () => false));
    this.resize = new ResizeObserver(() => {
      if (Math.floor(this.measured.clientWidth) !== this.width) this.schedule();
    });
    this.tied = [];
    this.tie();
  }

  /**
   * Linked widgets follow each other through the kernel. Where it has ended, or the notebook was opened again, nobody
   * passes changes on, and one widget would show another rollout than the other: then this view does.
   */
  async tie() {
    const manager = this.model.widget_manager; // an offline page has none, and ties its widgets itself
    for (const { source, model, target } of manager ? (this.model.get("links") ?? []) : []) {
      if (!manager.has_model?.(model)) continue; // its cell was not run, or has another one now
      const other = await manager.get_model(model);
      if (this.events.signal.aborted) return;
      const give = () => other.comm_live || other.set(target, this.model.get(source));
      const take = () => other.comm_live || this.model.set(source, other.get(target));
      const tell = () => this.root.classList.toggle("vpd-alone", !other.comm_live);
      this.hear(`change:${source}`, give);
      for (const [name, handler] of [[`change:${target}`, take], ["comm_live_update", tell]]) {
        other.on(name, handler);
        this.tied.push(() => other.off(name, handler));
      }
      tell();
    }
  }

  /** Call `handler` for an event of `node` until the view is destroyed. */
  listen(node, name, handler, options = {}) {
    node.addEventListener(name, handler, { ...options, signal: this.events.signal });
  }

  /** Make `node` the widget's tab stop: keys go to `onKey`, and the cursor goes when the focus does. */
  makeHome(node, role, description = "") {
    this.home = node;
    node.tabIndex = 0;
    node.setAttribute("role", role);
    if (description) node.setAttribute("aria-roledescription", description);
    this.listen(node, "keydown", (event) => this.onKey(event));
    this.listen(node, "blur", () => this.moveTo(null, null));
  }

  /** Call `handler` for an event of the model ("change:rows", "msg:custom") until the view is destroyed. */
  hear(name, handler) {
    this.handlers.push([name, handler]);
    this.model.on(name, handler);
  }

  /** Redraw whenever the width of `node` changes. */
  watch(node) {
    this.measured = node;
    this.resize.observe(node);
  }

  schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  /** Set traits and send them to Python. */
  tell(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.events.abort();
    this.resize.disconnect();
    for (const [name, handler] of this.handlers) this.model.off(name, handler);
    for (const untie of this.tied) untie();
  }
}

/** The default export of a widget's module: views of one class. */
export function widgetOf(View) {
  return {
    render({ model, el }) {
      const view = new View(model, el);
      return () => view.destroy();
    },
  };
}

