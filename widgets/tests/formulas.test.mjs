// Formulas as trees: symbols, numbers and value come from one tree. Their agreement with autograd is tested in
// tests/study/test_anatomy.py.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { LOSSES, explained, leavesOf, mathOf, turnsOf, valueOf } = await load("mathematics", "formulas", "token_lens");

const settings = {
  method: "grpo", steps: 9, temperature: 1, alpha: 1, support: "full", is_clip: 0, clip_low: 0.2, clip_high: 0.28, kl_coef: 0,
  nsr_weight: 2, rl_weight: 1, opd_weight: 0.5, reweight_alpha: 1, reweight_steps: 0, reweight_clip: 0.2, sdar_weight: 0.01,
  sdar_gate: "difference", sdar_sharpness: 5, distil_local: true, distil_future: true, distil_discount: 1, opsd_clip: 1,
};
const record = (fields = {}) => {
  const meta = { settings, step: 1, success: false, signal: true, advantage: -0.5, token_weight: 0.1, heard_weight: 0.2, ...fields };
  const numbers = { student_logp: [-1], teacher_logp: [-3], sampled_logp: [-1], alpha_divergence: [0.25], alpha_divergence_push: [-0.5] };
  return { meta, tokens: ["x"], turns: turnsOf(meta), ...numbers };
};
const flat = (math) => math.slice(1).map((part) => (typeof part === "string" ? part : flat(part))).join("").replaceAll("\u2062", "");

test("a product's sums and negative numbers stand in brackets, in symbols and in numbers", () => {
  const { loss } = explained(record(), 0, "reshape");
  assert.equal(flat(mathOf(loss, false)), "−min(ρt(λAA+λDdt),clip(ρt,1−ε,1+ε′)(λAA+λDdt))");
  assert.equal(flat(mathOf(loss, true)), "−min(1·(1·(−0.5)+0.5·(−2)),clip(1,0.8,1.28)·(1·(−0.5)+0.5·(−2)))");
  assert.equal(valueOf(loss), 1.5);
});

test("terms are listed once, with what they are", () => {
  const { loss, push } = explained(record(), 0, "nsr");
  const terms = leavesOf(loss, push);
  assert.equal(new Set(terms.map((term) => flat(["mrow", term.symbol]))).size, terms.length);
  assert.ok(terms.every((term) => term.about));
  assert.equal(valueOf(loss), 2);
  assert.ok(Math.abs(valueOf(push) + 2 * (1 - Math.exp(-1))) < 1e-12);
});

test("a token outside the support has the recorded gradient", () => {
  const { push } = explained(record(), 0, "sdpo"); // π (d + D) would be −0.644
  assert.equal(valueOf(push), -0.5);
});

test("a token that the feedback is not about has no part in the distillation", () => {
  const silent = record({ signal: false, heard_weight: null });
  const found = explained(silent, 0, "joint");
  assert.equal(valueOf(found.push), valueOf(explained(silent, 0, "grpo").push));
  assert.equal(explained(silent, 0, "sdpo").weight, 0);
});

test("every method has a formula or says why it has none here; an unknown one is named", () => {
  for (const [name, { of, why }] of Object.entries(LOSSES)) assert.ok(of || why, name);
  assert.match(explained(record(), 0, "mine").why, /formula of mine is not known/);
});
