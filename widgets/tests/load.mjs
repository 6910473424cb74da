// A widget's module as a browser gets it: shared.js in front of it, loaded from its text, without imports.
import { readFile } from "node:fs/promises";

export async function load(name) {
  const parts = ["shared", name].map((file) => readFile(new URL(`../vpdlab_widgets/${file}.js`, import.meta.url)));
  const source = Buffer.concat(await Promise.all(parts));
  return import(`data:text/javascript;base64,${source.toString("base64")}`);
}
