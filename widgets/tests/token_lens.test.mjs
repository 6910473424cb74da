// The pure functions of TokenLens, and of what it shares with the others.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const lens = await load("mathematics", "formulas", "token_lens");
const { brief, chunkEnds, clean, counted, distributionsAt, fitted, heatClass, largestSpans, measuresOf, percent, rankChange } = lens;
const { foldedAtFirst, isOwn, ownTokenFrom, placeLabel, turnsOf, valuesOf } = lens;
const { scaleMax, sharedEnds, tokenLabel, unpackNumbers, unpackRecord, unpackTexts, visible } = lens;

const floats = (...values) => new DataView(new Float32Array(values).buffer);
const integers = (...values) => new DataView(new Int32Array(values).buffer);
const texts = (...items) => {
  let end = 0;
  const bytes = new TextEncoder().encode(items.join(""));
  return { text: new DataView(bytes.buffer), ends: integers(...items.map((item) => (end += item.length))) };
};
const packed = (extra = {}) => ({
  meta: { beta: 0.5 },
  tokens: texts("6", "é😀"),
  numbers: { student_logp: floats(Math.log(0.5), -1), teacher_logp: floats(Math.log(0.25), -3), kl: floats(0.1, NaN) },
  weights: { gate: floats(-1, 0.5) },
  words: texts("6", "5"),
  tops: {
    student: { k: 2, ids: integers(0, 1, 1, -1), logp: floats(Math.log(0.5), Math.log(0.25), Math.log(0.7), NaN) },
    teacher: { k: 2, ids: integers(1, 0, 1, 0), logp: floats(Math.log(0.625), Math.log(0.25), Math.log(0.6), Math.log(0.1)) },
  },
  ...extra,
});

test("bytes become the numbers and texts that they were, at any offset of a message", () => {
  const message = new Uint8Array(11);
  message.set(new Uint8Array(new Float32Array([1.5, -2]).buffer), 3);
  assert.deepEqual([...unpackNumbers(new DataView(message.buffer, 3, 8))], [1.5, -2]);
  assert.deepEqual(unpackTexts(texts("a", "", "😀b")), ["a", "", "😀b"]);
  assert.deepEqual(unpackTexts(texts("\ufeffa")), ["\ufeffa"]); // a mark at the start is a character as any other
  assert.equal(unpackNumbers(undefined), null);
});

test("only measures that a record has numbers for are offered", () => {
  const ids = (record) => measuresOf(unpackRecord(record)).map((one) => one.id);
  assert.deepEqual(ids(packed()), ["kl", "ratio", "reward", "surprise", "gate"]);
  assert.deepEqual(ids(packed({ meta: {} })), ["kl", "ratio", "surprise", "gate"]);
  assert.deepEqual(ids(packed({ numbers: { student_logp: floats(-1, -2) }, weights: {} })), ["surprise"]);
});

test("a token's part in the implicit reward is β times the log ratio", () => {
  const record = unpackRecord(packed());
  const reward = measuresOf(record).find((one) => one.id === "reward");
  assert.ok(Math.abs(reward.of(record, 0) - 0.5 * Math.log(0.5)) < 1e-6);
  assert.ok(measuresOf(record).find((one) => one.id === "gate").signed);
});

test("a token outside a list counts as just behind it; outside both there is no change", () => {
  const tops = { student: { k: 10 }, teacher: { k: 10 } };
  const record = { tops, student_rank: [3, NaN, NaN, 1], teacher_rank: [1, 2, NaN, NaN] };
  assert.deepEqual([0, 1, 3].map((i) => rankChange(record, i)), [2, 9, -10]);
  assert.ok(Number.isNaN(rankChange(record, 2)));
});

const masked = () => unpackRecord(packed({ mask: integers(1, 0), numbers: { kl: floats(0.1, 9) } }));

test("a token that the policy did not write has no value in any measure", () => {
  const record = masked();
  const [kl] = measuresOf(record);
  assert.deepEqual([...valuesOf(record, kl)].map(Number.isNaN), [false, true]);
  assert.deepEqual([0, 1].map((i) => isOwn(record, i)), [true, false]);
  assert.ok(isOwn(unpackRecord(packed()), 1)); // without a mask all are its own
});

test("steps go from own token to own token and stop at the last", () => {
  const record = { tokens: [..."abcdef"], mask: Int32Array.from([1, 0, 0, 1, 1, 0]) };
  assert.deepEqual([ownTokenFrom(record, -1, 1), ownTokenFrom(record, 0, 1), ownTokenFrom(record, 0, 2)], [0, 3, 4]);
  assert.deepEqual([ownTokenFrom(record, 4, 1), ownTokenFrom(record, 4, 50), ownTokenFrom(record, 4, -50)], [4, 4, 0]);
  assert.deepEqual([ownTokenFrom(record, 2, 1), ownTokenFrom(record, 6, -1)], [3, 4]);
});

test("turns are numbered for the policy alone, and one of them is the feedback's", () => {
  const meta = { turn_roles: ["assistant", "tool", "assistant"], turn_texts: ["a", "b", "c"], turn_ends: [2, 5, 6], feedback_turn: 2 };
  const turns = turnsOf(meta);
  assert.deepEqual(turns.map(({ start, end, number, about }) => [start, end, number, about]), [
    [0, 2, 1, false], [2, 5, null, false], [5, 6, 2, true],
  ]);
  assert.deepEqual(turnsOf({}), []);
  assert.deepEqual(turns.map(foldedAtFirst), [false, true, false]);
  const reply = { own: false, role: "user", start: 0, end: 80 };
  assert.deepEqual([reply, { ...reply, end: 81 }].map((turn) => foldedAtFirst({ ...turn, text: "" })), [false, true]);
  assert.ok(foldedAtFirst({ ...reply, text: "x".repeat(401) }));
  assert.ok(!foldedAtFirst({ ...reply, own: true, text: "x".repeat(401) }));
});

test("both distributions by their larger probability, the mass of all others exact", () => {
  const { rows, rest } = distributionsAt(unpackRecord(packed()), 0);
  assert.deepEqual(rows.map((row) => [row.word, row.written]), [["5", false], ["6", true]]);
  assert.ok(Math.abs(rows[0].student - 0.25) < 1e-6 && Math.abs(rows[0].teacher - 0.625) < 1e-6);
  assert.ok(Math.abs(rest.student - 0.25) < 1e-6 && Math.abs(rest.teacher - 0.125) < 1e-6);
});

test("the written token is among the rows even where no list has it, with its exact probability", () => {
  const { rows } = distributionsAt(unpackRecord(packed()), 1, 2);
  const mine = rows.find((row) => row.written);
  assert.equal(mine.word, "é😀");
  assert.ok(Math.abs(mine.student - Math.exp(-1)) < 1e-6 && Math.abs(mine.teacher - Math.exp(-3)) < 1e-6);
});

test("without a teacher the student's list stands alone", () => {
  const alone = packed();
  delete alone.numbers.teacher_logp;
  delete alone.tops.teacher;
  const { rows, rest } = distributionsAt(unpackRecord(alone), 0);
  assert.equal(rows[0].teacher, null);
  assert.equal(rest.teacher, null);
});

test("chunks end at line breaks where they can, and never grow over the limit", () => {
  const words = Array(1000).fill(" a");
  assert.deepEqual(chunkEnds(words, 400), [400, 800, 1000]);
  words[299] = "\n";
  assert.deepEqual(chunkEnds(words, 400), [300, 700, 1000]);
  words[299] = " a";
  words[100] = "\n"; // too early: half a chunk would be wasted
  assert.deepEqual(chunkEnds(words, 400)[0], 400);
  assert.deepEqual(chunkEnds([]), []);
});

test("spans are runs of one sign, the largest sum first", () => {
  const spans = largestSpans([0, 0.5, 0.6, -0.9, NaN, 0.3, 0.1], 1);
  assert.deepEqual(spans.map(({ start, end }) => [start, end]), [[1, 3], [3, 4], [5, 6]]);
  assert.deepEqual(spans.map(({ peak }) => peak), [2, 3, 5]);
  assert.deepEqual(largestSpans([0, 0], 0), []);
});

test("colour classes: sign, strength, nothing, no data", () => {
  assert.equal(heatClass(1, 1), "vpd-up8");
  assert.equal(heatClass(-0.5, 1), "vpd-down4");
  assert.equal(heatClass(9, 1), "vpd-up8");
  assert.equal(heatClass(0.01, 1), "");
  assert.equal(heatClass(NaN, 1), "vpd-nodata");
  assert.equal(heatClass(3, 0), "");
});

test("one outlier does not make all else pale", () => {
  const values = Array.from({ length: 200 }, (_, i) => (i === 0 ? 100 : 1));
  assert.equal(scaleMax(values), 1);
  assert.equal(scaleMax([0, NaN]), 0);
  assert.equal(scaleMax([-3]), 3);
});

test("what two prompts share", () => {
  assert.deepEqual(sharedEnds(["u", "x", "a"], ["u", "x", "c", "c", "a"]), { head: 2, tail: 1 });
  assert.deepEqual(sharedEnds(["u"], ["u"]), { head: 1, tail: 0 });
  assert.deepEqual(sharedEnds([], ["u"]), { head: 0, tail: 0 });
});

test("hostile text is shown unit for unit, marked, never steering", () => {
  assert.equal(visible("a\u202eb"), "a\ufffdb");
  assert.equal(visible("\u001b[31mred"), "␛[31mred");
  assert.equal(visible("a\nb\tc\r"), "a\nb\tc␍");
  assert.equal(visible("\u{e0041}").length, 2);
  assert.equal(visible("<script>"), "<script>");
  assert.equal(visible("👩\u200d🔬"), "👩\u200d🔬"); // the joiner of an emoji steers nothing
  assert.equal(clean("a\u061c\u2066b\ufeff"), "a  b ");
  assert.equal(tokenLabel(" the\n"), "·the⏎");
  assert.equal(tokenLabel("  "), "··");
  assert.equal(tokenLabel("x".repeat(100_000)).length, 40);
});

test("figures", () => {
  assert.equal(percent(0.456), "45.6 %");
  assert.equal(percent(0.0123), "1.23 %");
  assert.equal(percent(1.7e-5), "0.0017 %");
  assert.equal(percent(3.7e-4), "0.037 %");
  assert.equal(percent(1.7e-8), "1.7e−6 %");
  assert.equal(percent(NaN), "–");
  assert.equal(percent(0.99996), "100 %");
  assert.equal(percent(0.9994), "99.9 %");
  assert.equal(brief(-0.0612), "−0.0612");
  assert.equal(brief(0.5, true), "+0.5");
  assert.equal(brief(0), "0");
  assert.equal(brief(1234.5), "1230");
  assert.equal(fitted(-0.0612, 60), "−0.0612");
  assert.equal(fitted(-0.0612, 40), "−0.06");
  assert.equal(fitted(-5.4836e-6, 34), "");
  assert.deepEqual([counted(1, "token"), counted(0, "token")], ["1 token", "0 tokens"]);
});

test("where a rollout is", () => {
  assert.equal(placeLabel({ step: 3, index: 1 }), "iteration 3 · rollout 2");
  assert.equal(placeLabel({ step: 3, index: null }, 4), "iteration 3 · rollout 5");
  assert.equal(placeLabel({ step: 1, index: 0, has_step: false }), "rollout 1");
  assert.equal(placeLabel({ step: 0 }), "iteration 0");
  assert.equal(placeLabel({}), "");
});
