// What LensHistory makes of records: which response and run each belongs to, when a token flips, what the map shows.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { choiceAt, flipsOf, leaning, logpOf, momentText, movement, responsesOf, rowsOf } = await load(
  "mathematics", "formulas", "token_lens", "lens_history",
);

/** A record of one token "a", where each side gives the words these probabilities. */
function point(student, teacher = null, { tokens = ["a"], written = {} } = {}) {
  const words = [...new Set([...Object.keys(student), ...Object.keys(teacher ?? {})])];
  const top = (given) => ({
    k: Object.keys(given).length,
    ids: Int32Array.from(Object.keys(given), (word) => words.indexOf(word)),
    logp: Float32Array.from(Object.values(given), Math.log),
  });
  const logp = (given, side) => Float32Array.of(Math.log(given?.a ?? written[side] ?? 0.01));
  return {
    tokens, words, mask: null, tops: { student: top(student), ...(teacher && { teacher: top(teacher) }) },
    student_logp: logp(student, "student"), teacher_logp: teacher && logp(teacher, "teacher"),
  };
}

test("records are sorted into responses and runs, points in order, the later of two at the same point", () => {
  const packed = [
    { response: 0, run: 0, step: 5 }, { response: 0, run: 0, step: 0 }, { response: 1, run: 0, step: 0 },
    { response: 0, run: 1, step: 0 }, { response: 0, run: 0, step: 5 },
  ];
  const [one, two] = responsesOf(packed);
  assert.deepEqual([...one.runs], [[0, [1, 4]], [1, [3]]]);
  assert.deepEqual([...two.runs], [[0, [2]]]);
  assert.deepEqual([one.first, two.first], [0, 2]);
  assert.deepEqual(responsesOf([]), []);
});

test("a side has settled on a token that leads by a tenth, wherever it stands in the list", () => {
  assert.equal(choiceAt(point({ a: 0.3, b: 0.6 }), "student", 0).word, "b");
  assert.equal(choiceAt(point({ a: 0.5, b: 0.45 }), "student", 0), null);
  assert.equal(choiceAt(point({ a: 0.9 }), "student", 0).word, "a");
  assert.equal(choiceAt(point({ a: 0.9 }), "teacher", 0), null); // no list
});

test("a token flips where a side settles on another one, and only there", () => {
  const points = [point({ a: 0.5, b: 0.45 }), point({ a: 0.2, b: 0.7 }), point({ a: 0.5, b: 0.45 }), point({ a: 0.8, b: 0.1 })];
  assert.deepEqual(
    flipsOf(points, 0).map(({ at, side, from, to, on }) => [at, side, from, to, on]),
    [[1, "student", null, "b", false], [3, "student", "b", "a", true]], // not undecided at 2
  );
  assert.deepEqual(flipsOf([point({ a: 0.8, b: 0.1 }), point({ a: 0.8, b: 0.1 })], 0), []);
});

test("student and teacher change places, by more than a margin", () => {
  const at = (student, teacher) => point({ a: student, b: 1 - student }, { a: teacher, b: 1 - teacher });
  const places = (...points) => flipsOf(points, 0).filter(({ kind }) => kind === "places").map(({ at: place, on }) => [place, on]);
  assert.deepEqual(places(at(0.6, 0.9), at(0.9, 0.6)), [[1, false]]);
  assert.deepEqual(places(at(0.9, 0.6), at(0.75, 0.75), at(0.6, 0.9)), [[2, true]]);
  assert.deepEqual(places(at(0.75, 0.76), at(0.76, 0.75)), []); // within the margin
  assert.equal(leaning(point({ a: 0.5 }), 0), 0); // no teacher
});

test("moments are told in words", () => {
  assert.equal(momentText({ kind: "choice", side: "student", on: true, from: null, to: " 4" }), "π settles on “·4”");
  assert.equal(momentText({ kind: "choice", side: "teacher", on: false, from: "a", to: "b" }), "q turns from “a” to “b”");
  assert.equal(momentText({ kind: "places", side: "teacher", on: true }), "q overtakes π");
});

test("the log-probability of another token comes from the list, and is nothing where that lacks it", () => {
  const record = point({ a: 0.25, b: 0.5 });
  assert.ok(Math.abs(logpOf(record, "student", 0, "b") - Math.log(0.5)) < 1e-6);
  assert.ok(Math.abs(logpOf(record, "student", 0, "a") - Math.log(0.25)) < 1e-6);
  assert.equal(logpOf(record, "student", 0, "c"), null);
  assert.equal(logpOf(record, "teacher", 0, "b"), null);
});

test("the map shows all tokens of the policy, or those that move most, in their order", () => {
  const record = (values) => ({ tokens: values.map(String), mask: Int32Array.of(0, 1, 1, 1), student_logp: Float32Array.from(values), teacher_logp: null });
  const points = [record([-9, -1, -2, -3]), record([-1, -1.5, -2, -4])];
  assert.deepEqual(rowsOf(points), [1, 2, 3]);
  assert.deepEqual(rowsOf(points, 2), [1, 3]);
  assert.equal(movement(points, 3), 1);
  assert.equal(movement(points, 2), 0);
});
