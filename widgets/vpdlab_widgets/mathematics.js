// Formulas as trees that give symbols, numbers and value alike, set as MathML, which browsers draw themselves.
// Plain ES module between shared.js and the module of a widget that has formulas.

const PRODUCT = 2; // how tightly a part binds: a sum inside a product needs brackets

// Leaves are numbers with a symbol; the rest combine them.

const idOf = (name) => ["mi", name];
const textOf = (text) => ["mtext", text];
const operatorOf = (text) => ["mo", text];
const sub = (name, below) => ["msub", idOf(name), idOf(below)];

/** A number with its symbol (a MathML node as nested lists) and what it is, in words. */
const leaf = (symbol, value, about) => ({ kind: "leaf", symbol, value, about });
const times = (...of) => (of.length === 1 ? of[0] : { kind: "times", of });
const plus = (...of) => (of.length === 1 ? of[0] : { kind: "plus", of });
const negative = (of) => ({ kind: "negative", of });
const smaller = (...of) => ({ kind: "smaller", of });
const called = (symbol, compute, ...of) => ({ kind: "called", symbol, compute, of });
const constant = (value) => leaf(["mn", numberText(value)], value, "");

/** The value of a tree. */
export function valueOf(tree) {
  if (tree.kind === "leaf") return tree.value;
  if (tree.kind === "called") return tree.compute;
  if (tree.kind === "negative") return -valueOf(tree.of);
  const values = tree.of.map(valueOf);
  if (tree.kind === "smaller") return Math.min(...values);
  if (tree.kind === "times") return values.reduce((product, value) => product * value, 1);
  return values.reduce((sum, value) => sum + value, 0);
}

/** A tree as MathML (nested lists): with its symbols, or with numbers in their place. */
export function mathOf(tree, numbers, binding = 0) {
  if (tree.kind === "leaf") return numbers && tree.about ? numberOfTree(tree.value, binding) : tree.symbol;
  if (tree.kind === "negative") return bracketed(["mrow", operatorOf("−"), mathOf(tree.of, numbers, PRODUCT)], binding > 0);
  if (tree.kind === "times") return ["mrow", ...joined(tree.of.map((one) => mathOf(one, numbers, PRODUCT)), operatorOf(numbers ? "·" : "\u2062"))];
  if (tree.kind === "plus") return bracketed(["mrow", ...summed(tree.of, numbers)], binding >= PRODUCT);
  const head = tree.kind === "smaller" ? textOf("min") : tree.symbol;
  return ["mrow", head, operatorOf("("), ...joined(tree.of.map((one) => mathOf(one, numbers)), operatorOf(",")), operatorOf(")")];
}

function summed(parts, numbers) {
  return parts.flatMap((one, i) => {
    if (i === 0) return [mathOf(one, numbers)];
    return one.kind === "negative" ? [operatorOf("−"), mathOf(one.of, numbers, PRODUCT)] : [operatorOf("+"), mathOf(one, numbers, 1)];
  });
}

const joined = (parts, between) => parts.flatMap((part, i) => (i ? [between, part] : [part]));
const bracketed = (math, needed) => (needed ? ["mrow", operatorOf("("), math, operatorOf(")")] : math);
const numberText = (value) => brief(value).replace(/e(−?)(\d+)$/, " × 10^$1$2");

function numberOfTree(value, binding) {
  const found = numberText(Math.abs(value)).split(" × 10^");
  const size = found.length === 1
    ? ["mn", found[0]]
    : ["mrow", ["mn", found[0]], operatorOf("×"), ["msup", ["mn", "10"], ["mn", found[1]]]];
  return value < 0 ? bracketed(["mrow", operatorOf("−"), size], binding > 0) : size;
}

/** The leaves of trees that have a meaning in words, each symbol once. */
export function leavesOf(...trees) {
  const found = new Map();
  const walk = (tree) => {
    if (tree.kind === "leaf") tree.about && found.set(JSON.stringify(tree.symbol), tree);
    else (Array.isArray(tree.of) ? tree.of : [tree.of]).forEach(walk);
  };
  trees.forEach(walk);
  return [...found.values()];
}

/** Nested lists as MathML elements. */
export function mathElement([name, ...children]) {
  const node = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
  for (const child of children) node.append(typeof child === "string" ? child : mathElement(child));
  return node;
}

/** An equation in two lines: symbols, then numbers and the result. */
function equation(title, symbol, same, tree) {
  const box = element("div", "vpd-equation");
  const equal = operatorOf("=");
  const value = valueOf(tree);
  const plain = tree.kind === "leaf" ? [] : [equal, mathOf(tree, true)];
  const rows = [
    ["mtr", ["mtd", symbol], ["mtd", equal], ["mtd", ["mrow", ...(same ? [same, equal] : []), mathOf(tree, false)]]],
    ["mtr", ["mtd"], ["mtd", equal], ["mtd", ["mrow", ...plain.slice(1), ...(plain.length ? [equal] : []), ["mrow", numberOfTree(value, 0)]]]],
  ];
  box.append(element("div", "vpd-caps vpd-num", `${title}: ${brief(value)}`), scroller("vpd-math"));
  const math = mathElement(["math", ["mtable", ...rows]]);
  math.setAttribute("display", "block");
  math.firstChild.setAttribute("displaystyle", "true"); // fractions at full size
  box.lastChild.append(math);
  return box;
}
