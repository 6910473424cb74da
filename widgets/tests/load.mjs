// A widget's module as a browser gets it: the palette, shared.js and files.js in front of it, loaded from its text, without imports.
import { readFile } from "node:fs/promises";

export async function load(...names) {
  const read = (file) => readFile(new URL(`../vpdlab_widgets/${file}`, import.meta.url), "utf-8");
  const parts = await Promise.all(["shared", "files", ...names].map((name) => read(`${name}.js`)));
  const last = parts.pop();
  const before = parts.map((text) => text.replace(/^export default .*$/m, "")); // a module has one
  const source = Buffer.from([`export const PALETTE = ${await read("palette.json")};\n`, ...before, last].join(""));
  return import(`data:text/javascript;base64,${source.toString("base64")}`);
}
