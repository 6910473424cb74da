// The pure functions of RunCompare.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { load } from "./load.mjs";

const { bandOf, duration, forkOf, markerPath, methodsOf, placesOf, pointsOf, spread, summaryOf, valueAt } = await load("run_compare");

const run = {
  name: "a", method: "vpd", rollouts_per_step: 128,
  rows: [
    { step: 2, kl: 0.2, seconds_rollout: 3, seconds_e: null, tokens_rollout: 20 },
    { step: 1, kl: 0.1, seconds_rollout: 1, seconds_m: 1, tokens_rollout: 10 },
    { step: 3, kl: null, seconds_rollout: 2, tokens_rollout: 5 },
  ],
  evals: [{ step: 0, accuracy: 0.25 }, { step: 3, accuracy: 0.5 }, { step: 9, accuracy: 0.9 }],
};

test("places add up in the order of the steps", () => {
  assert.deepEqual([...placesOf(run, "iterations")], [[0, 0], [1, 1], [2, 2], [3, 3]]);
  assert.deepEqual([...placesOf(run, "time").values()], [0, 2, 5, 7]);
  assert.deepEqual([...placesOf(run, "tokens").values()], [0, 10, 30, 35]);
  assert.deepEqual(placesOf(run, "rollouts").get(3), 384);
});

test("an axis that a run knows nothing of is null", () => {
  assert.equal(placesOf({ rows: [{ step: 1 }] }, "time"), null);
  assert.equal(placesOf({ rows: [{ step: 1 }] }, "rollouts"), null);
  assert.equal(placesOf({ rows: [{ step: 1, tokens_rollout: null }] }, "tokens"), null);
});

test("points: what is null or lies at no known step is left out", () => {
  assert.deepEqual(pointsOf(run, "kl", placesOf(run, "time")), [[2, 0.1], [5, 0.2]]);
  assert.deepEqual(pointsOf(run, "accuracy", placesOf(run, "iterations")), [[0, 0.25], [3, 0.5]]);
  assert.deepEqual(pointsOf(run, "kl", null), []);
});

test("a value between two points, none outside", () => {
  const points = [[0, 0], [2, 1], [10, 5]];
  assert.equal(valueAt(points, 1), 0.5);
  assert.equal(valueAt(points, 6), 3);
  assert.equal(valueAt(points, 10), 5);
  assert.equal(valueAt(points, 10.1), null);
  assert.equal(valueAt([], 1), null);
});

test("a band is where every seed has a value", () => {
  const band = bandOf([[[0, 1], [2, 3]], [[1, 4], [4, 4]]]);
  assert.deepEqual(band, [{ x: 1, mean: 3, low: 2, high: 4 }, { x: 2, mean: 3.5, low: 3, high: 4 }]);
  assert.deepEqual(bandOf([[[0, 1], [1, 1]], [[2, 1], [3, 1]]]), []);
  assert.deepEqual(bandOf([[]]), []);
  assert.equal(bandOf([Array.from({ length: 900 }, (_, i) => [i, i])]).length, 160);
});

test("runs by method, and where they start and end", () => {
  const other = { ...run, name: "b", evals: [{ step: 0, accuracy: 0.75 }, { step: 3, accuracy: 0.5 }] };
  const [vpd] = methodsOf([run, other, { ...run, name: "c", method: "sdpo" }]);
  assert.deepEqual(vpd.runs.map(({ name }) => name), ["a", "b"]);
  const { start, gain, best } = summaryOf(vpd.runs);
  assert.deepEqual(start, { mean: 0.5, low: 0.25, high: 0.75 });
  assert.deepEqual(gain, { mean: 0, low: -0.25, high: 0.25 });
  assert.equal(best.high, 0.75);
  assert.equal(summaryOf([{ ...run, evals: [] }]), null);
});

test("durations", () => {
  assert.deepEqual([12.34, 600, 9000, NaN].map(duration), ["12.3 s", "10 min", "2.5 h", "–"]);
});

test("names are pushed apart, in their order and within the bounds", () => {
  assert.deepEqual(spread([50, 10], 15, 0, 100), [50, 10]);
  assert.deepEqual(spread([50, 50, 49], 10, 0, 100), [59, 69, 49]);
  assert.deepEqual(spread([99, 99], 10, 0, 100), [90, 100]);
  assert.deepEqual(spread([5, 5, 5], 60, 0, 100), [0, 50, 100].map((one) => one + 0));
});

test("every style's marker has an outline of its own", () => {
  const palette = JSON.parse(readFileSync(new URL("../vpdlab_widgets/palette.json", import.meta.url), "utf8"));
  const names = palette.styles.map((style) => style[2].replace("-open", ""));
  const outlines = new Map(names.map((name, slot) => [name, markerPath(slot, 0, 0)]));
  assert.equal(new Set(outlines.values()).size, outlines.size);
});

test("beside its origin a branch begins at the fork", () => {
  const branch = { ...run, name: "b", origin: { run: "a", step: 2 } };
  assert.equal(forkOf(branch, [run, branch]), 2);
  assert.equal(forkOf(branch, [branch]), null); // alone it is drawn from its beginning
  assert.equal(forkOf(run, [run, branch]), null);
  assert.equal(forkOf({ ...branch, name: "a" }, [run]), null);
  const places = placesOf(branch, "iterations");
  assert.deepEqual(pointsOf(branch, "kl", places, 2), [[2, 0.2]]);
  assert.deepEqual(pointsOf(branch, "accuracy", places, 2), [[3, 0.5]]);
});
