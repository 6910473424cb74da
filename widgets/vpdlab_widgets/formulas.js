// The formula of each method at one token, with the token's numbers (trees of mathematics.js), and the panel of them.
// Plain ES module between mathematics.js and a widget's own; it computes from what a run records (vpdlab/study/anatomy.py).

const LARGEST = 20; // of a log-ratio, as in vpdlab/losses.py

// ---- the numbers of one token ----

const indicator = (condition, words) => leaf(["mrow", operatorOf("["), textOf(words), operatorOf("]")], Number(condition), `1 where ${words}, else 0`);
const clipped = (of, low, high) => called(textOf("clip"), Math.min(Math.max(valueOf(of), low.value), high.value), of, low, high);

/** Why a record cannot fill in formulas; "" where it can. */
export function lacking(record) {
  const { meta } = record;
  if (meta.token_weight === undefined || meta.token_weight === null) {
    return "This run does not say what each method's loss is made of: it was recorded by an earlier vpdlab, without advantages, weights and gradients of the divergences.";
  }
  if (!meta.settings) return "The formulas need the run's settings: lens_records(records, beta, config=run.config).";
  return "";
}

/** The leaves that the formulas share, at token `i`. */
function factsAt(record, i) {
  const { meta } = record;
  const at = (name) => record[name]?.[i] ?? NaN;
  const c = meta.settings;
  const student = at("student_logp");
  const heard = Boolean(meta.signal) && isHeard(record, i);
  const probability = leaf(sub("π", "y"), Math.exp(student), "the student's probability of this token");
  const facts = { record, i, c, at, heard, logp: student, teacher: heard ? at("teacher_logp") : NaN, pi: probability };
  const gap = Math.min(Math.max(student - at("sampled_logp"), -LARGEST), LARGEST);
  facts.rho = leaf(sub("ρ", "t"), Math.exp(gap), "importance weight: π over the policy that sampled the token");
  facts.advantage = leaf(idOf("A"), meta.advantage ?? NaN, `advantage: the reward against the mean of its group${c.advantage === "std" ? ", in standard deviations" : ""}`);
  facts.ratio = leaf(sub("d", "t"), heard ? facts.teacher - student : 0, "log q − log π of this token: what the teacher makes of it; 0 without feedback");
  facts.q = leaf(sub("q", "y"), Math.exp(facts.teacher), "the teacher's probability of this token");
  facts.logPi = leaf(["mrow", textOf("log"), sub("π", "y")], student, "the student's log-probability of this token");
  facts.others = leaf(["mrow", operatorOf("("), ["mn", "1"], operatorOf("−"), sub("π", "y"), operatorOf(")")], -Math.expm1(student), "the student's probability of all other tokens");
  facts.clip = [leaf(["mrow", ["mn", "1"], operatorOf("−"), ["mi", "ε"]], 1 - c.clip_low, "clip_low below 1"), leaf(["mrow", ["mn", "1"], operatorOf("+"), ["msup", idOf("ε"), operatorOf("′")]], 1 + c.clip_high, "clip_high above 1")];
  facts.share = heard ? meta.heard_weight / meta.token_weight : 0;
  return facts;
}

/** Whether the feedback is about the turn that token `i` belongs to. */
function isHeard(record, i) {
  const turn = record.turns.find((one) => i >= one.start && i < one.end);
  return !turn || !record.turns.some((one) => one.about) || turn.about;
}

/** The factor of a mean over the tokens with feedback, in a loss that is a mean over all tokens; none where both agree. */
function heardFactor(f) {
  const words = "tokens of the batch over those with feedback; 0 where this token has none";
  return Math.abs(f.share - 1) < 1e-9 ? [] : [leaf(["mfrac", idOf("N"), sub("N", "f")], f.share, words)];
}

/** The divergence of student and teacher times its truncated importance weight, and its push. */
function distilled(f, name, symbol, words) {
  const value = leaf(symbol, f.heard ? f.at(name) : 0, words);
  const weight = f.c.is_clip ? [leaf(sub("w", "t"), Math.min(f.rho.value, f.c.is_clip), "truncated importance weight: min(π / μ, is_clip)")] : [];
  return { loss: times(...weight, value), push: times(...weight, slopeOf(f, name, symbol, value)) };
}

/** Minus the gradient of a divergence on the logit of the sampled token: in closed form, or the recorded number. */
function slopeOf(f, name, symbol, value) {
  const known = f.at(`${name}_push`);
  const part = f.at(`${name}_part`);
  const recorded = leaf(["mrow", operatorOf("−"), ["mfrac", ["mrow", operatorOf("∂"), symbol], ["mrow", operatorOf("∂"), sub("z", "y")]]], known, "minus the gradient of the divergence on this token's logit, as recorded");
  if (!f.heard) return constant(0);
  const { support, alpha } = f.c;
  if (support === "sampled") return negative(times(negative(f.ratio), f.others));
  const toTeacher = plus(f.q, negative(f.pi));
  let closed = recorded;
  if (name === "cross_entropy" || (name === "alpha_divergence" && alpha === 0)) closed = toTeacher;
  else if (name === "clipped_kl") {
    const cut = indicator(f.q.value * f.ratio.value < f.c.opsd_clip, "not cut");
    const mass = leaf(sub("m", "t"), part, "the teacher's mass on all tokens whose terms are not cut");
    closed = plus(times(f.q, cut), negative(times(mass, f.pi)));
  } else if (alpha === 1) closed = times(f.pi, plus(f.ratio, value));
  else {
    const mixture = Math.log((1 - alpha) * f.pi.value + alpha * f.q.value);
    const toMixture = leaf(["mrow", textOf("log"), ["mfrac", sub("m", "y"), sub("π", "y")]], mixture - f.logp, "log of the mixture (1 − α) π + α q over π");
    closed = times(leaf(["mrow", ["mn", "1"], operatorOf("−"), idOf("α")], 1 - alpha, "1 less alpha"), f.pi, plus(toMixture, leaf(["mrow", textOf("KL"), operatorOf("("), idOf("π"), operatorOf("‖"), idOf("m"), operatorOf(")")], part, "divergence of the student and the mixture, on the support")));
  }
  // The closed forms are those of a token on the support: outside of it, or renormalised, the recorded number is shown.
  return Math.abs(valueOf(closed) - known) <= 0.01 * Math.abs(known) + 1e-7 ? closed : recorded;
}

/** PPO's clipped surrogate under an advantage, and its push. */
function surrogate(f, advantage) {
  const a = valueOf(advantage);
  const [low, high] = f.clip;
  const cut = (a > 0 && f.rho.value > high.value) || (a < 0 && f.rho.value < low.value) || Math.abs(f.logp - f.at("sampled_logp")) > LARGEST;
  return {
    loss: negative(smaller(times(f.rho, advantage), times(clipped(f.rho, low, high), advantage))),
    push: times(f.rho, advantage, indicator(!cut, "not clipped"), f.others),
  };
}

/** GRPO's loss, with the KL penalty where the run has one. */
function grpo(f) {
  const { loss, push } = surrogate(f, f.advantage);
  if (!f.c.kl_coef) return { loss, push };
  const reference = f.at("reference_logp");
  if (Number.isNaN(reference)) return { why: "the run's method has no reference policy: its KL penalty was not recorded" };
  const gap = Math.min(Math.max(reference - f.logp, -LARGEST), LARGEST);
  const kappa = leaf(idOf("κ"), f.c.kl_coef, "kl_coef");
  const odds = leaf(["mfrac", sub("π", "ref"), idOf("π")], Math.exp(gap), "the reference policy's probability over the student's");
  const logOdds = leaf(["mrow", textOf("log"), ["mfrac", sub("π", "ref"), idOf("π")]], gap, "its logarithm");
  const moves = Math.abs(reference - f.logp) <= LARGEST ? plus(odds, negative(constant(1))) : constant(0);
  return {
    loss: plus(loss, times(kappa, plus(odds, negative(constant(1)), negative(logOdds)))),
    push: plus(push, times(kappa, moves, f.others)),
  };
}

const weightSymbols = { rl: sub("λ", "A"), opd: sub("λ", "D") };

function byDivergence(f) {
  return distilled(f, "alpha_divergence", sub("D", "t"), divergenceWords(f.c));
}

function divergenceWords({ alpha, support, tail, top_k: most }) {
  const kind = alpha === 1 ? "KL(π‖q)" : alpha === 0 ? "KL(q‖π)" : `generalised Jensen-Shannon divergence, α ${brief(alpha)}`;
  const on = { full: "", topk: ` on the student's ${most} likeliest tokens${tail === "bucket" ? " and the rest" : ", renormalised"}`, sampled: " on the sampled token" };
  return `divergence of student and teacher: ${kind}${on[support] ?? ""}`;
}

function joint(f) {
  const [rl, opd] = [leaf(weightSymbols.rl, f.c.rl_weight, "rl_weight"), leaf(weightSymbols.opd, f.c.opd_weight, "opd_weight")];
  const [outcome, dense] = [grpo(f), byDivergence(f)];
  if (outcome.why) return outcome;
  const both = (key) => plus(times(opd, ...heardFactor(f), dense[key]), times(rl, outcome[key]));
  return { loss: both("loss"), push: both("push") };
}

function reshape(f) {
  const [rl, opd] = [leaf(weightSymbols.rl, f.c.rl_weight, "rl_weight"), leaf(weightSymbols.opd, f.c.opd_weight, "opd_weight")];
  return surrogate(f, plus(times(rl, f.advantage), times(opd, f.ratio)));
}

function reweight(f) {
  const { c, record } = f;
  const alpha = c.reweight_alpha * Math.max(0, 1 - (record.meta.step - 1) / (c.reweight_steps || c.steps));
  const share = leaf(idOf("a"), alpha, "the teacher's share, which decays over the run");
  const sign = Math.sign(f.advantage.value);
  const ratio = Math.exp(Math.min(Math.max(sign * f.ratio.value, -LARGEST), LARGEST));
  const agreement = leaf(["msup", idOf("e"), ["mrow", operatorOf("±"), sub("d", "t")]], ratio, `${sign < 0 ? "π over q" : "q over π"} of this token: the sign is the advantage's`);
  const [low, high] = [1 - c.reweight_clip, 1 + c.reweight_clip].map((value) => leaf(["mn", numberText(value)], value, ""));
  return surrogate(f, times(f.advantage, plus(plus(constant(1), negative(share)), times(share, clipped(agreement, low, high)))));
}

function sdar(f) {
  const { c } = f;
  const outcome = grpo(f);
  if (outcome.why) return outcome;
  const entropy = f.heard ? f.at("entropy_share") : 0;
  const scores = { difference: f.ratio.value, entropy, either: 1 - (1 - entropy) * (1 - f.ratio.value) };
  const words = { difference: "d", entropy: "the entropy's share of log V", either: "1 − (1 − entropy share)(1 − d)" };
  const score = scores[c.sdar_gate];
  const gate = leaf(sub("g", "t"), 1 / (1 + Math.exp(-c.sdar_sharpness * score)), `gate: sigmoid(${brief(c.sdar_sharpness)} × ${brief(score)}), of ${words[c.sdar_gate]}`);
  const weight = leaf(idOf("λ"), c.sdar_weight, "sdar_weight");
  return {
    loss: plus(outcome.loss, times(weight, ...heardFactor(f), gate, f.ratio)),
    push: plus(outcome.push, times(weight, ...heardFactor(f), gate, f.others)),
  };
}

function distil(f) {
  const { c } = f;
  const parts = distilled({ ...f, c: { ...c, is_clip: 0 } }, "cross_entropy", sub("H", "t"), "cross-entropy to the teacher at this token");
  const credit = leaf(sub("C", "t"), f.heard ? f.at("to_come") : 0, `credit to come: the cross-entropies of the later tokens${c.distil_discount === 1 ? "" : `, discounted by ${brief(c.distil_discount)}`}${c.distil_baseline && c.method === "distil" ? ", less the siblings' mean" : ""}`);
  const loss = [...(c.distil_local ? [parts.loss] : []), ...(c.distil_future ? [times(credit, f.logPi)] : [])];
  const push = [...(c.distil_local ? [parts.push] : []), ...(c.distil_future ? [negative(times(credit, f.others))] : [])];
  return { loss: loss.length ? plus(...loss) : constant(0), push: push.length ? plus(...push) : constant(0) };
}

function nsr(f) {
  const failure = indicator(!f.record.meta.success, "wrong");
  return surrogate(f, negative(times(leaf(idOf("ν"), f.c.nsr_weight, "nsr_weight"), failure)));
}

function rejection(f) {
  const success = indicator(f.record.meta.success, "right");
  return { loss: negative(times(success, f.logPi)), push: times(success, f.others) };
}

const OTHERS = "it learns from responses that the teacher sampled itself, so it has no loss at this token";
const BOTH = ["heard_weight", "all tokens with feedback"];
const ALL = ["token_weight", "all tokens"];

// Of each method: its formula at a token, the mean that it is part of, and whether it reads the teacher.
export const LOSSES = {
  vpd: { of: byDivergence, mean: BOTH, teacher: true, note: "The M-step's loss; before it, the E-step trains the teacher on the outcomes." },
  sdpo: { of: byDivergence, mean: BOTH, teacher: true },
  grpo: { of: grpo, mean: ALL },
  nsr: { of: nsr, mean: ALL },
  rft: { of: rejection, mean: ["success_weight", "all tokens of right responses"] },
  distil: { of: distil, mean: BOTH, teacher: true },
  joint: { of: joint, mean: ALL, teacher: true },
  reshape: { of: reshape, mean: ALL, teacher: true },
  reweight: { of: reweight, mean: ALL, teacher: true },
  sdar: { of: sdar, mean: ALL, teacher: true },
  opsd: {
    of: (f) => distilled(f, "clipped_kl", ["msubsup", idOf("D"), idOf("t"), textOf("cut")], `KL(q‖π) with each token's term cut at ${brief(f.c.opsd_clip)}`),
    mean: BOTH, teacher: true, note: "OPSD's teacher is the initial policy with the reference solution; here it is this run's own.",
  },
  rltf: { why: OTHERS },
  "pi-distill": { why: OTHERS },
};

/**
 * A method's loss and push (minus the gradient on the sampled token's logit) at token `i`, as trees, with the weight of
 * this token's term in the batch's loss and how that mean is described; or `why` there is none.
 */
export function explained(record, i, method) {
  const formula = LOSSES[method];
  if (!formula) return { why: `the formula of ${clean(method, 40)} is not known here` };
  if (formula.why) return { why: formula.why };
  const f = factsAt(record, i);
  if (formula.teacher && Boolean(record.meta.signal) && !record.alpha_divergence) {
    return { why: record.teacher_logp ? "the divergences were not recorded (record_telemetry is off)" : "this run's method has no teacher, so nothing of it was recorded" };
  }
  const { loss, push, why } = formula.of(f);
  if (why) return { why };
  const [name, words] = formula.mean;
  const missing = name === "heard_weight" && !f.heard;
  const weight = missing ? 0 : (record.meta[name] ?? 0);
  const scaled = f.c.temperature === 1 ? push : times(leaf(["mfrac", ["mn", "1"], idOf("τ")], 1 / f.c.temperature, "1 over the temperature"), push);
  return { loss, push: scaled, weight, mean: words, note: formula.note ?? "", part: weight !== 0 };
}

// ---- the panel ----

/** "Why this push": a method's loss and push at token `i`, term by term, and all methods side by side on that token. */
export function whyPanel(record, i, method, onChoose) {
  const head = element("div", "vpd-tl-why-head");
  head.append(element("span", "vpd-name", "Why this push"), element("span", "vpd-tl-why-token", tokenLabel(record.tokens[i])));
  const why = lacking(record);
  if (why) return [head, element("div", "vpd-tl-why-line", why)];
  const own = record.meta.settings.method;
  const names = [...new Set([own, ...Object.keys(LOSSES)])];
  const chosen = method || own;
  const items = names.map((name) => ({ id: name, name: clean(name, 24), title: name === own ? "the run's own method" : "" }));
  const buttons = choice(items, chosen, onChoose);
  head.append(buttons);
  const all = new Map(names.map((name) => [name, explained(record, i, name)]));
  const body = element("div", "vpd-tl-why-body");
  const table = sideBySide(record, all, chosen, own, onChoose);
  // A press would take the focus from the tokens, and with it the cursor: the panel would be redrawn before the click.
  for (const node of [buttons, table]) node.addEventListener("mousedown", (event) => event.preventDefault());
  body.append(formulaBox(all.get(chosen), chosen, own), table);
  return [head, body];
}

function formulaBox(found, method, own) {
  const box = element("div", "vpd-tl-why-formula");
  if (found.why) {
    box.append(element("div", "vpd-tl-why-line", `${clean(method, 40)}: ${found.why}.`));
    return box;
  }
  const slope = ["mrow", operatorOf("−"), ["mfrac", ["mrow", operatorOf("∂"), sub("ℓ", "t")], ["mrow", operatorOf("∂"), sub("z", "y")]]];
  box.append(equation("loss at this token", sub("ℓ", "t"), null, found.loss));
  box.append(equation("push on this token", sub("u", "y"), slope, found.push));
  box.append(element("div", "vpd-tl-why-line", sentenceOf(found, method, own)));
  const terms = element("table", "vpd-tl-terms");
  terms.setAttribute("aria-label", "terms of the formula");
  for (const { symbol, value, about } of leavesOf(found.loss, found.push)) {
    const row = element("tr");
    const name = element("th");
    name.scope = "row";
    name.append(mathElement(["math", symbol]));
    row.append(name, element("td", "vpd-num", brief(value)), element("td", "", about));
    terms.append(row);
  }
  box.append(terms);
  return box;
}

function sentenceOf(found, method, own) {
  const push = valueOf(found.push) * found.weight;
  const effect = push > 0 ? "The update makes this token more likely." : push < 0 ? "The update makes this token less likely." : "The update does not touch this token directly.";
  const part = found.part
    ? `Its term counts ${shareText(found.weight)} in the loss, a mean over ${found.mean}.`
    : `It has no part in the loss, a mean over ${found.mean}.`;
  const other = method === own ? "" : "Not this run's method: its formula on this run's numbers.";
  return [effect, part, found.note, other].filter(Boolean).join(" ");
}

const shareText = (weight) => `1/${Number((1 / weight).toPrecision(6))}`;

/** All methods on this token. The push is per token of the batch: weighed as in the loss, relative to a mean over all. */
function sideBySide(record, all, chosen, own, onChoose) {
  const table = element("table", "vpd-tl-methods");
  table.setAttribute("aria-label", "methods on this token");
  const header = element("tr");
  for (const [name, title] of [["method", ""], ["loss ℓ", ""], ["push u", ""], ["in the batch's mean", "the push, weighed as in the loss: 1 is a token of a mean over all tokens"]]) {
    const cell = element("th", "vpd-caps", name);
    cell.scope = "col";
    cell.title = title;
    header.append(cell);
  }
  table.append(header);
  const weighed = ({ push, weight }) => (valueOf(push) * weight) / record.meta.token_weight;
  const largest = Math.max(...[...all.values()].filter((one) => !one.why).map((one) => Math.abs(weighed(one)) || 0));
  for (const [name, found] of all) {
    const row = element("tr", name === chosen ? "vpd-tl-method-on" : "");
    const label = element("th", "", `${clean(name, 24)}${name === own ? " (this run)" : ""}`);
    label.scope = "row";
    row.append(label);
    if (found.why) {
      const cell = element("td", "vpd-caps", found.why);
      cell.colSpan = 3;
      row.append(cell);
    } else {
      const value = weighed(found);
      row.append(element("td", "vpd-num", brief(valueOf(found.loss), true)), element("td", "vpd-num", brief(valueOf(found.push), true)));
      row.append(pushCell(value, largest));
    }
    row.addEventListener("click", () => onChoose(name));
    table.append(row);
  }
  return table;
}

/** A push as a bar from the middle: up (orange) to the right, down (blue) to the left. */
function pushCell(value, largest) {
  const cell = element("td", "vpd-tl-push");
  const bar = element("i", `vpd-data ${value > 0 ? "vpd-tl-teacher-fill" : "vpd-tl-student-fill"}`);
  const size = largest > 0 ? (50 * Math.abs(value)) / largest : 0;
  bar.style.width = `${size.toFixed(2)}%`;
  bar.style.left = `${(value > 0 ? 50 : 50 - size).toFixed(2)}%`;
  const track = element("span", "vpd-tl-push-track");
  track.append(bar);
  cell.append(track, element("span", "vpd-num", brief(value, true)));
  return cell;
}
