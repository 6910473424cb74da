// The pure functions of Simplex; their agreement with vpdlab.study.tabular is tested in tests/widgets/test_simplex.py.
import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./load.mjs";

const { bound, contours, descent, divergenceOf, facts, nearestOn, placeOf, pointAt, softmax, target } = await load("mathematics", "simplex");

const near = (a, b, by = 1e-9) => a.forEach((value, i) => assert.ok(Math.abs(value - b[i]) <= by, `${a} is not ${b}`));
const sum = (values) => values.reduce((total, value) => total + value, 0);

test("a place in the triangle is a point, and back", () => {
  for (const point of [[0.2, 0.3, 0.5], [0.98, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3]]) near(pointAt(...placeOf(point)), point);
  near(placeOf([1, 0, 0]), [0, Math.sqrt(3) / 2]);
  near(placeOf([0, 0, 1]), [0.5, 0]);
});

test("outside the triangle the nearest point within has positive probabilities that sum to 1", () => {
  for (const [x, y] of [[-3, 0], [5, 5], [0.5, -2], [0, 0.9], [1, 0.9], [0.5, 0]]) {
    const point = pointAt(x, y);
    assert.ok(Math.min(...point) >= 1e-4, `${point}`);
    assert.ok(Math.abs(sum(point) - 1) < 1e-12);
  }
});

test("log Z is the bound and its gap, wherever q is", () => {
  const [student, reward, beta] = [[0.2, 0.5, 0.3], [1, 0, 0.5], 0.4];
  const { point, logZ } = target(student, reward, beta);
  for (const q of [student, point, [0.9, 0.05, 0.05], [1e-4, 0.5, 0.4999]]) {
    assert.ok(Math.abs(bound(q, student, reward, beta) + divergenceOf(q, point) - logZ) < 1e-12);
  }
  near(target(student, reward, beta, 0).point, student);
  near(target(student, [1000, 0, 0], 0.001).point, [1, 0, 0]);
});

test("descent lowers its loss and ends at the teacher, by a way of its own for each loss", () => {
  const [student, q] = [[0.1, 0.3, 0.6], [0.7, 0.2, 0.1]];
  const paths = ["reverse", "forward"].map((loss) => descent(student, q, loss, 0.5, 600));
  paths.forEach((path) => near(path.at(-1), q, 1e-6));
  assert.ok(Math.abs(paths[0][20][0] - paths[1][20][0]) > 1e-3);
  const losses = paths[0].map((p) => divergenceOf(p, q));
  losses.slice(1).forEach((value, i) => assert.ok(value <= losses[i] + 1e-15));
});

test("on a line the M-step is the least loss: the exercise of em_exact", () => {
  const s = 2 * Math.exp(5) / (1 + 2 * Math.exp(5));
  const next = nearestOn([[0.5, 0, 0.5], [0, 1, 0]], [s / 2, s / 2, 1 - s], "reverse");
  assert.ok(Math.abs(next[1] - 0.859) < 5e-4 && Math.abs(next[0] - 0.0705) < 5e-5);
  const found = facts({ student: [1 / 3, 1 / 3, 1 / 3], q: [s / 2, s / 2, 1 - s], reward: [1, 0, 0], beta: 0.1, loss: "reverse", line: [[0.5, 0, 0.5], [0, 1, 0]], lr: 1, updates: 1 });
  assert.ok(found.after < found.before);
});

test("pieces of a contour lie on it", () => {
  const centre = softmax([1, 0, 0.5]);
  const gap = (point) => divergenceOf(point, centre);
  const pieces = contours(gap, [0.05, 0.3]);
  assert.deepEqual(pieces.map((one) => one.length > 20), [true, true]);
  for (const [level, found] of [[0.05, pieces[0]], [0.3, pieces[1]]]) {
    for (const place of found.flat()) assert.ok(Math.abs(gap(pointAt(...place)) - level) < 0.02, `${gap(pointAt(...place))} at level ${level}`);
  }
});
