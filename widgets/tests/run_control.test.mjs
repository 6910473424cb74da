// The pure functions of RunControl.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { changesByStep, may, ordered, typed, valueOf } = await load("run_control");

test("the settings that are changed most come first", () => {
  const names = ["noise_drop", "beta", "alpha", "lr"].map((name) => ({ name }));
  assert.deepEqual(ordered(names).map(({ name }) => name), ["lr", "beta", "noise_drop", "alpha"]);
});

test("a typed text is a number in its range, or a reason", () => {
  const rate = { whole: false, range: [0, 1000] };
  assert.deepEqual(valueOf(" 5e-4 ", rate), { value: 5e-4, why: "" });
  assert.equal(valueOf("0,5", rate).value, 0.5);
  assert.equal(valueOf("", rate).why, "not a number");
  assert.equal(valueOf("1e999", rate).why, "not a number");
  assert.equal(valueOf("−1", rate).why, "between 0 and 1000");
  assert.equal(valueOf("2.5", { whole: true, range: [0, 1e9] }).why, "not a whole number");
  assert.equal(valueOf("-1", { whole: true, range: [0, 1e9] }).why, "between 0 and 1e9");
});

test("values keep all their digits", () => {
  assert.deepEqual([0.00012345678, 1e-7, 5, "x"].map(typed), ["0.00012345678", "1e-7", "5", "x"]);
});

test("what may be asked depends on the state", () => {
  assert.deepEqual(may({ state: "paused", step: 3, total: 5 }), { go: true, paused: true, ended: false, left: 2 });
  assert.deepEqual(may({ state: "complete", step: 5, total: 5 }), { go: false, paused: false, ended: true, left: 0 });
  assert.equal(may({ state: "stopping" }).go, false);
  assert.equal(may({}).ended, true);
});

test("changes of one iteration are one line", () => {
  const changes = [{ step: 1, setting: "lr", was: 0.1, now: 0.2 }, { step: 1, setting: "beta", was: 1, now: 2 }, { step: 4, setting: "lr", was: 0.2, now: 0.3 }];
  assert.deepEqual(changesByStep(changes), [{ step: 1, words: "lr 0.1 → 0.2, beta 1 → 2" }, { step: 4, words: "lr 0.2 → 0.3" }]);
});
