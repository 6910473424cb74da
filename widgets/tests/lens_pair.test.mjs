// The alignment of two responses in LensPair.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { aligned, beside } = await load("mathematics", "formulas", "token_lens", "lens_pair");

const split = (text) => text.split(" ");
const matches = (a, b) => [...aligned(split(a), split(b)).to];

test("equal responses match token by token", () => {
  const found = aligned(split("a b c"), split("a b c"));
  assert.deepEqual([...found.to], [0, 1, 2]);
  assert.equal(found.first, -1);
});

test("a token put in, left out or replaced leaves the others matched", () => {
  assert.deepEqual(matches("the answer is 6", "the right answer is 6"), [0, 2, 3, 4]);
  assert.deepEqual(matches("the right answer is 6", "the answer is 6"), [0, -1, 1, 2, 3]);
  assert.deepEqual(matches("it is 6 .", "it is 7 ."), [0, 1, -1, 3]);
  assert.equal(aligned(split("it is 6"), split("it is 7")).first, 2);
  assert.equal(aligned(split("it is"), split("it is 7")).first, 2); // the end of one
});

test("as many tokens match as can, in order, and both directions agree", () => {
  const [a, b] = [split("x a b c d e y"), split("x c d a b e z")];
  const { to, from } = aligned(a, b);
  assert.equal([...to].filter((j) => j >= 0).length, 4); // x, two of four, e
  to.forEach((j, i) => j >= 0 && assert.ok(a[i] === b[j] && from[j] === i));
  const known = [...to].filter((j) => j >= 0);
  assert.deepEqual(known, [...known].sort((p, q) => p - q));
});

test("texts that are too long for the table are matched at their ends", () => {
  const a = Array.from({ length: 3000 }, (_, i) => (i < 10 || i >= 2990 ? "same" : `a${i}`));
  const b = Array.from({ length: 3000 }, (_, i) => (i < 10 || i >= 2990 ? "same" : `b${i}`));
  const { to } = aligned(a, b);
  assert.equal([...to].filter((j) => j >= 0).length, 20);
});

test("a token without a match stands where it would be between its neighbours", () => {
  const { to } = aligned(split("a p q r b"), split("a s b"));
  assert.deepEqual([0, 1, 2, 3, 4].map((i) => beside(to, i, 3)), [0, 1, 1, 1, 2]);
  assert.equal(beside(Int32Array.of(-1, -1), 1, 5), 1);
  assert.equal(beside(Int32Array.of(-1, -1), 1, 1), 0);
  assert.equal(beside(to, null, 3), null);
  assert.equal(beside(Int32Array.of(-1), 0, 0), null);
});
