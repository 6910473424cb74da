// Queries over rollouts: the cases in queries.json, which the Python side is tested with too.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { load } from "./load.mjs";

const { fitsQuery, parseQuery } = await load("query");
const { rows, cases } = JSON.parse(await readFile(new URL("queries.json", import.meta.url)));

for (const [query, wanted] of cases) {
  test(`the query ${JSON.stringify(query)}`, () => {
    const parsed = parseQuery(query);
    assert.deepEqual(rows.map((_, i) => i).filter((i) => fitsQuery(rows[i], parsed)), wanted);
  });
}
