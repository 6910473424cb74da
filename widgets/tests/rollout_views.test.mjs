// The pure functions of the scatter, of rollouts side by side, and of files that the reader saves.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { csvOf, fileName, firstDifference, insideBrush, pointsOf, sameProblem } = await load("query", "rollout_views", "rollout_table");
const { alarmsOf } = await load("em_timeline");

const rows = [
  { step: 1, group: 0, problem_id: "a", kl: 0.5, length: 3 },
  { step: 1, group: 1, problem_id: "b", kl: null, length: 4 },
  { step: 2, group: 0, problem_id: "a", kl: 0.1, length: 9 },
];

test("points have both numbers", () => {
  assert.deepEqual(pointsOf(rows, [2, 1, 0], "length", "kl"), [{ place: 2, x: 9, y: 0.1 }, { place: 0, x: 3, y: 0.5 }]);
});

test("a brush takes its borders in, and rows without a number out", () => {
  const inside = (brush) => rows.filter((row) => insideBrush(row, brush, "length", "kl")).length;
  assert.equal(inside(null), 3);
  assert.equal(inside([[3, 9], [0.1, 0.5]]), 2);
  assert.equal(inside([[3.1, 9], [0, 1]]), 1);
});

test("texts begin to differ at a word", () => {
  assert.equal(firstDifference("sefa blocks 6", "sefa blond 6"), 5);
  assert.equal(firstDifference("same", "same"), -1);
  assert.equal(firstDifference("", "x"), 0);
  assert.equal(firstDifference("one two", "one two three"), 4);
});

test("rollouts of one problem in all iterations", () => assert.deepEqual(sameProblem(rows, 2), [0, 2]));

test("warnings are runs of iterations by kind", () => {
  const told = [["a: x"], ["a: y", "b"], [], ["a: z"]].map((warnings, step) => ({ step, warnings }));
  assert.deepEqual(alarmsOf([...told, { step: 4 }]), [
    { name: "a", spans: [{ first: 0, last: 1 }, { first: 3, last: 3 }] },
    { name: "b", spans: [{ first: 1, last: 1 }] },
  ]);
});

test("no cell of a saved table is a formula", () => {
  const saved = csvOf(["a", "b"], [{ a: '=HYPERLINK("x")', b: -1.5 }, { a: "+1", b: null }, { a: 'say "hi"', b: ["x"] }]);
  assert.equal(saved, '"a","b"\r\n"\'=HYPERLINK(""x"")",-1.5\r\n"\'+1",\r\n"say ""hi""","[""x""]"\r\n');
});

test("names of files hold letters of any script and no path", () => {
  assert.equal(fileName("../runs/x: 3", "csv"), "runs_x_3.csv");
  assert.equal(fileName("лес", "svg"), "лес.svg");
  assert.equal(fileName("\u202e//", "svg"), "vpdlab.svg");
});
