// The pure functions of RolloutTable.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { feedbackOf, groupsOf, keptEnd, leftOut, marginOf, outcomeOf, passing, sharedBeginning, sorted } = await load("query", "rollout_views", "rollout_table");

const rows = [
  { step: 1, group: 0, success: true, signal: true, text: "The answer is 7", kl: 0.5, implicit_reward: 0.2 },
  { step: 1, group: 0, success: false, signal: true, text: "8", critique: "Too HIGH", kl: null, implicit_reward: -0.1 },
  { step: 1, group: 1, success: false, signal: false, text: "10", reason: "all failed", kl: 0.1, implicit_reward: null },
  { step: 2, group: 0, success: null, text: "9", kl: 0 },
];

test("outcomes", () => assert.deepEqual(rows.map(outcomeOf), ["right", "wrong", "wrong", "unknown"]));

test("filters by outcome and by any text", () => {
  assert.deepEqual(passing(rows, "", "all"), [0, 1, 2, 3]);
  assert.deepEqual(passing(rows, "", "wrong"), [1, 2]);
  assert.deepEqual(passing(rows, "", "no signal"), [2]);
  assert.deepEqual(passing(rows, " too high", "all"), [1]);
  assert.deepEqual(passing(rows, "FAILED", "right"), []);
});

test("sorts both ways, rows without a value last, equals in their order", () => {
  assert.deepEqual(sorted(rows, [0, 1, 2, 3], "kl"), [3, 2, 0, 1]);
  assert.deepEqual(sorted(rows, [0, 1, 2, 3], "-kl"), [0, 2, 3, 1]);
  assert.deepEqual(sorted(rows, [0, 1, 2, 3], "text"), [1, 3, 2, 0]); // 8, 9, 10: numbers within text count as such
  assert.deepEqual(sorted(rows, [2, 1, 0], ""), [2, 1, 0]);
  assert.deepEqual(sorted(rows, [0, 1, 2], "success"), [1, 2, 0]);
});

test("groups of one problem at one step", () => {
  assert.deepEqual(groupsOf(rows).map((group) => group.places), [[0, 1], [2], [3]]);
});

test("the margin needs both kinds", () => {
  assert.ok(Math.abs(marginOf(rows) - 0.3) < 1e-12);
  assert.equal(marginOf(rows.slice(1)), null);
});

test("what all texts share at their beginning is left out, their ends are kept", () => {
  const texts = ["The answer to 40 + 12 is 48.", "The answer to 40 + 13 is 53."];
  assert.equal(sharedBeginning(texts), "The answer to 40 + ".length);
  assert.equal(leftOut(texts, 40), 0);
  assert.equal(texts[0].slice(leftOut(texts, 20)), "to 40 + 12 is 48.");
  assert.equal(texts[0].slice(leftOut(texts, 8)), "12 is 48.");
  assert.equal(keptEnd(texts[1], sharedBeginning(texts), 20), "…13 is 53.");
  assert.equal(keptEnd("abcdefghijklmnop", 0, 11), "abcd…klmnop");
  assert.equal(keptEnd("short", 0, 11), "short");
  assert.equal(sharedBeginning(["one"]), 0);
  assert.equal(sharedBeginning(["ab", "abc"]), 0); // no white space: a word is not cut
  assert.equal(sharedBeginning(["", "abc"]), 0);
});

test("a row's feedback is the text that was read, else the reason", () => {
  assert.equal(feedbackOf({ critique: "Too high.", source: "verifier" }), "Too high.");
  assert.equal(feedbackOf({ demonstration: "Add.", signal: true }), "Add.");
  assert.equal(feedbackOf({ signal: false, reason: "all failed" }), "all failed");
  assert.equal(feedbackOf({ source: "verifier" }), "verifier");
  assert.equal(feedbackOf({}), "–");
});
