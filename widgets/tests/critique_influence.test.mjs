// The pure functions of CritiqueInfluence.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { cellsOf, lackingLine, matrixMax, rowsOf, strongest, sumOf, unpackInfluence } = await load("critique_influence");

const floats = (...values) => new DataView(new Float32Array(values).buffer);
const packed = () => ({
  meta: { sentences: ["One. ", "Two."], part: "critique" },
  tokens: { text: new DataView(new TextEncoder().encode("abc").buffer), ends: new DataView(new Int32Array([1, 3]).buffer) },
  numbers: { total: floats(1, 2), empty_logp: floats(-2, -4), student_logp: floats(-1.5, -4), total_kl: floats(0.5, 0.25), gap: floats(0.5, 1), logp: floats(-1, -2) },
  matrices: { drop: floats(0.25, 0.5, 0.25, 0.5), drop_kl: floats(0, 1, 2, 3) },
  variants: [{ name: "shuffled", text: "Two. One.", delta: floats(0.5, -3), kl: floats(1, 1) }],
});

test("matrices come back a row a sentence", () => {
  const record = unpackInfluence(packed());
  assert.deepEqual(record.tokens, ["a", "bc"]);
  assert.deepEqual(record.matrices.drop_kl.map((row) => [...row]), [[0, 1], [2, 3]]);
  assert.equal(unpackInfluence({}), null);
});

test("rows: sentences, the whole, the gap, variants", () => {
  const record = unpackInfluence(packed());
  const rows = rowsOf(record, "delta");
  assert.deepEqual(rows.map((row) => row.kind), ["sentence", "sentence", "whole", "gap", "variant", "without", "without"]);
  const values = [[0.25, 0.5], [0.25, 0.5], [1, 2], [0.5, 1], [0.5, 5], null, [0.5, 0]];
  assert.deepEqual(rows.map((row) => row.values && [...row.values]), values);
  const against = ["against the critique without it", "against no critique", "the baseline"];
  assert.deepEqual([0, 2, 5].map((i) => rows[i].against), against);
  assert.equal(rows[2].text, "the whole critique");
});

test("against another baseline only whole texts change", () => {
  const record = unpackInfluence(packed());
  const rows = rowsOf(record, "delta", "shuffled");
  assert.deepEqual(rows.map((row) => row.values && [...row.values]), [[0.25, 0.5], [0.25, 0.5], [0.5, -3], [0.5, 1], null, [-0.5, -5], [0, -5]]);
  assert.equal(rows[2].against, "against shuffled");
  assert.deepEqual(rowsOf(record, "delta", "gone"), rowsOf(record, "delta"));
  assert.deepEqual(rowsOf(record, "kl", "plain").map((row) => row.kind).slice(-1), ["variant"]);
});

test("what a measure does not have is null, never zero", () => {
  const record = unpackInfluence(packed());
  const kl = rowsOf(record, "kl");
  assert.deepEqual([...kl[1].values], [2, 3]);
  assert.equal(kl[3].values, null); // KL does not add up
  assert.equal(rowsOf(record, "shapley")[0].values, null);
});

test("the scale is that of single sentences, but nothing small looks large beside the whole", () => {
  const rows = (sentence, whole) => [{ kind: "sentence", values: [sentence] }, { kind: "whole", values: [whole] }];
  assert.equal(matrixMax(rows(-0.5, 2)), 0.5);
  assert.ok(Math.abs(matrixMax(rows(0.001, 2)) - 0.2) < 1e-12);
  assert.equal(matrixMax([{ kind: "gap", values: null }]), 0);
});

test("many tokens share cells, each in exactly one", () => {
  assert.deepEqual(cellsOf(3, 10), [[0, 1], [1, 2], [2, 3]]);
  const cells = cellsOf(1000, 300);
  assert.equal(cells.length, 300);
  assert.equal(cells[0][0], 0);
  assert.equal(cells.at(-1)[1], 1000);
  for (let i = 1; i < cells.length; i++) assert.equal(cells[i][0], cells[i - 1][1]);
});

test("a shared cell shows its strongest token", () => {
  assert.equal(strongest([0.1, -0.9, 0.3], 0, 3), -0.9);
  assert.equal(strongest([NaN, 0, 0.2], 0, 2), 0);
  assert.ok(Number.isNaN(strongest([NaN], 0, 1)));
  assert.equal(sumOf([1, NaN, 2]), 3);
});

test("words that the model lacks are one line, without those deleted since", () => {
  assert.equal(lackingLine(["flurb", "grüße"], "Try flurb, grüße!"), "not in this model's vocabulary: flurb, grüße");
  assert.equal(lackingLine(["flurb", "grue"], "Try grue, flurbs."), "not in this model's vocabulary: grue");
  assert.equal(lackingLine([], "Try flurb."), "");
  assert.equal(lackingLine(["flurb"], ""), "");
  const many = Array.from({ length: 10 }, (_, i) => "w".repeat(i + 1));
  assert.ok(lackingLine(many, many.join(" ")).endsWith("wwwwwwww and 2 more"));
});
