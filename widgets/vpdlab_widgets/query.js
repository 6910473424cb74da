// Queries over rollouts: terms such as `kl>0.5 outcome=wrong source:sibling`, and text. The same as query.py, which
// describes them. Pure, tested in node.

const NAMES = {
  outcome: "success", iteration: "step", problem: "prompt", response: "text", tokens: "length",
  implicit: "implicit_reward", feedback: "critique", id: "problem_id", alarm: "alarms",
};
export const NUMBERS = ["step", "turns", "length", "kl", "reward", "implicit_reward", "group", "index", "truncated"];
const ANSWERS = ["success", "signal", "finished"];
const TEXTS = ["prompt", "text", "parsed", "answer", "critique", "demonstration", "source", "reason", "problem_id"];
const LISTS = ["turn_texts", "alarms"];
const WORDS = { right: true, yes: true, true: true, wrong: false, no: false, false: false };
const COMPARE = {
  "=": (a, b) => a === b, "!=": (a, b) => a !== b, "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b,
  ">=": (a, b) => a >= b, ":": (a, b) => a.includes(b),
};
const TERM = /(?<!\S)([a-z_]+)(<=|>=|!=|<|>|=|:)("[^"]*"|\S+)(?!\S)/g;
const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/;

/** The terms of a query, and the rest of it as text in lower case. */
export function parseQuery(query) {
  const terms = [];
  const rest = query.replace(TERM, (whole, name, operator, value) => {
    const term = termOf(name, operator, value.replace(/^"|"$/g, "").trim().toLowerCase());
    if (term) terms.push(term);
    return term ? "" : whole;
  });
  return { terms, text: wordsIn(rest).replace(/^"(.*)"$/, "$1") };
}

function termOf(name, operator, value) {
  const key = Object.hasOwn(NAMES, name) ? NAMES[name] : name;
  const equal = operator === "=" || operator === "!=";
  if (value === "none" && equal && [...NUMBERS, ...ANSWERS, ...TEXTS].includes(key)) return { key, operator, value: null };
  if (NUMBERS.includes(key)) return operator !== ":" && NUMBER.test(value) ? { key, operator, value: Number(value) } : null;
  if (ANSWERS.includes(key)) return equal && Object.hasOwn(WORDS, value) ? { key, operator, value: WORDS[value] } : null;
  if (![...TEXTS, ...LISTS].includes(key) || !value) return null;
  return equal || operator === ":" ? { key, operator, value } : null;
}

function compares(value, operator, wanted) {
  const missing = value === null || value === undefined;
  if (wanted === null || missing) return wanted === null && missing === (operator === "=");
  return COMPARE[operator](typeof wanted === "string" ? String(value).trim().toLowerCase() : value, wanted);
}

function wordsIn(text) {
  return text.split(/\s+/).filter(Boolean).join(" ").toLowerCase();
}

/** Whether a row has all terms, and the text in one of its own texts. */
export function fitsQuery(row, { terms, text }) {
  const holds = ({ key, operator, value }) =>
    Array.isArray(row[key]) ? row[key].some((one) => compares(one, operator, value)) : compares(row[key], operator, value);
  if (!terms.every(holds)) return false;
  if (!text) return true;
  const said = [...TEXTS.map((key) => row[key]), ...(row.turn_texts ?? [])];
  return said.some((one) => typeof one === "string" && wordsIn(one).includes(text));
}
