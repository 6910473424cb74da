// The pure functions of EMTimeline, and those it shares with the others.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const timeline = await load("em_timeline");
const { axisOf, changeMarks, clean, labelRoom, markPath, meanOf, mergeEqual, nearest, niceStep, notesOf, numberOf, orderRows } = timeline;
const { pathOf, probePanels, scaleOf, thin, tickLabel, ticks, valueLabel } = timeline;

test("steps are 1, 2 or 5 times a power of ten", () => {
  assert.equal(niceStep(1, 4), 0.5);
  assert.equal(niceStep(0.8, 4), 0.2);
  assert.equal(niceStep(37, 4), 10);
  assert.equal(niceStep(2, 10, true), 1); // no half iterations
  assert.equal(niceStep(0, 4), 1);
});

test("ticks are exact multiples without rounding dust", () => {
  assert.deepEqual(ticks(0, 0.6, 0.2), [0, 0.2, 0.4, 0.6]);
  assert.deepEqual(ticks(-0.3, 0.3, 0.1), [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]);
  assert.deepEqual(ticks(1, 60, 10), [10, 20, 30, 40, 50, 60]);
  assert.deepEqual(ticks(3, 4, 10), []);
});

test("an axis ends on ticks, holds its data, and keeps to the limits of what it shows", () => {
  assert.deepEqual(axisOf([0.31, 0.74], { zero: true, floor: 0, ceiling: 1, count: 4 }).domain, [0, 0.8]);
  assert.deepEqual(axisOf([0.31, 0.99], { zero: true, floor: 0, ceiling: 1, count: 4 }).domain, [0, 1]);
  assert.deepEqual(axisOf([-0.4, 1.7], { zero: true, count: 3 }).domain, [-1, 2]);
  const narrow = axisOf([20.1, 20.4, null], { floor: 0 });
  assert.ok(narrow.domain[0] <= 20.1 && narrow.domain[0] > 19 && narrow.domain[1] >= 20.4);
  assert.ok(axisOf([1.2], { zero: true, floor: 0, ceiling: 1 }).domain[1] >= 1.2); // data before limits
});

test("an axis of nothing is null, an axis of one value is an axis", () => {
  assert.equal(axisOf([null, null]), null);
  for (const value of [0, 5, -5, 1e-9]) {
    const { domain, ticks: marks } = axisOf([value]);
    assert.ok(domain[0] <= value && value <= domain[1] && domain[0] < domain[1]);
    assert.ok(marks.length >= 2);
  }
  assert.deepEqual(axisOf([0, 0], { zero: true, floor: 0, ceiling: 1 }).domain, [0, 1]);
});

test("a scale maps and goes back", () => {
  const scale = scaleOf([1, 60], [50, 640]);
  assert.equal(scale(1), 50);
  assert.equal(scale(60), 640);
  assert.equal(scale.invert(scale(17)), 17);
  assert.equal(scaleOf([2, 2], [0, 10])(2), 0);
});

test("null is a gap in a path, never zero, and a lone point is drawn", () => {
  assert.equal(pathOf([0, 1, 2, 3], [5, 6, null, 7]), "M0.0 5.0L1.0 6.0M3.0 7.0h0");
  assert.equal(pathOf([0, 1, 2], [null, 4, null]), "M1.0 4.0h0");
  assert.equal(pathOf([0, 1], [null, null]), "");
});

test("numbers that are none are null", () => {
  for (const value of [null, undefined, NaN, Infinity, "3", true]) assert.equal(numberOf({ kl: value }, "kl"), null);
  assert.equal(numberOf({ kl: 0 }, "kl"), 0);
});

test("rows stand in order, and a resumed step counts once", () => {
  const rows = [{ step: 3 }, { step: 1, kl: 1 }, { step: 1, kl: 2 }, { kl: 9 }];
  assert.deepEqual(orderRows(rows), [{ step: 1, kl: 2 }, { step: 3 }]);
});

test("thinning keeps peaks, ends and gaps", () => {
  const values = Array.from({ length: 10000 }, (_, i) => Math.sin(i / 50));
  values[1234] = 100;
  values[5678] = -100;
  values[9000] = null;
  const kept = thin(values, 300);
  assert.ok(kept.length <= 5 * 300);
  for (const i of [0, 1234, 5678, 9000, 9999]) assert.ok(kept.includes(i), String(i));
  assert.deepEqual(kept, [...new Set(kept)].sort((a, b) => a - b));
  assert.deepEqual(thin([1, null, 2], 300), [0, 1, 2]);
});

test("the nearest step", () => {
  assert.equal(nearest([1, 2, 10], 5), 1);
  assert.equal(nearest([1, 2, 10], 7), 2);
  assert.equal(nearest([1, 2, 10], -4), 0);
  assert.equal(nearest([1, 2, 10], 99), 2);
});

test("labels", () => {
  assert.equal(tickLabel(0.6, 0.2), "0.6");
  assert.equal(tickLabel(1, 0.5), "1.0");
  assert.equal(tickLabel(0, 0.5), "0");
  assert.equal(tickLabel(-1, 1), "−1");
  assert.equal(tickLabel(8000, 2000), "8000");
  assert.equal(tickLabel(12000, 2000), "12k");
  assert.equal(tickLabel(0.00002, 0.00001), "2e-5");
  assert.equal(valueLabel(0.123456789), "0.123");
  assert.equal(valueLabel(-5.4836e-6), "−5.5e−6");
  assert.equal(valueLabel(1234567), "1234567");
  assert.equal(valueLabel(null), "–");
});

test("equal series are one line with both names", () => {
  const a = { name: "success rate", values: [0.5, null] };
  assert.equal(mergeEqual([a, { name: "mean reward", values: [0.5, null] }]).length, 1);
  assert.equal(mergeEqual([a, { name: "mean reward", values: [0.5, 0.1] }]).length, 2);
  assert.equal(mergeEqual([a, { name: "mean reward", values: [0.4, null] }]).length, 2);
});

test("text from outside loses what would steer the page", () => {
  assert.equal(clean("a\u202eb\u0007c"), "a b c");
  assert.equal(clean("x".repeat(500)).length, 400);
  assert.equal(notesOf({ notes: { e: "no failure", m: null } }), "e: no failure");
  assert.equal(notesOf({ notes: ["one", "two"] }), "one; two");
  assert.equal(notesOf({ notes: null }), "");
});

test("a mean is over what is known", () => {
  assert.equal(meanOf([{ kl: 1 }, { kl: null }, { kl: 2 }], "kl"), 1.5);
  assert.equal(meanOf([{ kl: null }, {}], "kl"), null);
  assert.equal(meanOf([], "kl"), null);
});

test("probes are lines of the panel of their group, at the steps of the evaluations", () => {
  const evals = [
    { step: 0, probes: { "belief/Ada": 0.1, "belief/Bob": 0.2, teacher_kl: 4 } },
    { step: 5 },
    { step: 9, probes: { "belief/Ada": 0.9, "belief/Bob": null, lost: null } },
  ];
  const [belief, kl, ...others] = probePanels(evals);
  assert.deepEqual(others, []); // a probe without any number has no panel
  assert.equal(belief.name, "Belief");
  assert.deepEqual(belief.series.map(({ name }) => name), ["Ada", "Bob"]);
  assert.deepEqual(belief.series[0].points, [{ step: 0, value: 0.1 }, { step: 5, value: null }, { step: 9, value: 0.9 }]);
  assert.notEqual(belief.series[0].colour, belief.series[1].colour);
  assert.deepEqual([belief.floor, belief.ceiling], [0, 1]); // shares
  assert.deepEqual([kl.name, kl.series[0].name, kl.ceiling], ["Teacher kl", "teacher kl", undefined]);
  assert.deepEqual(probePanels([{ step: 0 }]), []);
});

test("lines of probes differ by their marks, not by colour alone", () => {
  const marks = [0, 1, 2, 3, 4, 5].map((kind) => markPath(kind, 10, 10));
  assert.equal(new Set(marks).size, 6);
});

test("changes of one iteration are one mark, in the order of the steps", () => {
  const changes = [{ step: 9, text: "a" }, { step: 3, text: "b\n" }, { step: 9, text: "c" }];
  assert.deepEqual(changeMarks(changes), [{ step: 3, text: "b " }, { step: 9, text: "a, c" }]);
  assert.deepEqual(changeMarks(undefined), []);
});

test("the labels of all axes have room", () => {
  const [short, long] = [axisOf([0, 0.7]), axisOf([-1200, 1200])];
  assert.equal(labelRoom(short), 3 * 6.6 + 14);
  assert.ok(labelRoom(short, long) >= "−1,000".length * 6.6);
  assert.equal(labelRoom(axisOf([1, 5])), 32);
});
