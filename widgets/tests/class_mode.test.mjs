// The pure functions of ClassMode.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { answersOf, nextStop } = await load("class_mode");

const text = (words) => ({ code: false, text: words });
const code = { code: true, text: "" };

test("the output after a question is its answer, up to the next text", () => {
  assert.deepEqual(answersOf([text("Predict: up or down?"), code, code, text("As seen."), code]), [1, 2]);
  assert.deepEqual(answersOf([code, text("It predicts: nothing. Unpredict: no."), code]), []);
  assert.deepEqual(answersOf([text("## Two\nPredict : which?"), text("By the way."), code]), []);
});

test("the next stop is below the top of the view, the previous one above it", () => {
  const tops = [-900, -300, 0, 250, 800];
  assert.equal(nextStop(tops, 1), 3);
  assert.equal(nextStop(tops, -1), 1);
  assert.equal(nextStop([0], 1), -1);
  assert.equal(nextStop([0], -1), -1);
});
