// A widget's module as a browser gets it: the palette and shared.js in front of it, loaded from its text, without imports.
import { readFile } from "node:fs/promises";

export async function load(...names) {
  const parts = ["shared", ...names].map((file) => readFile(new URL(`../vpdlab_widgets/${file}.js`, import.meta.url)));
  const palette = await readFile(new URL("../vpdlab_widgets/palette.json", import.meta.url));
  const source = Buffer.concat([`export const PALETTE = ${palette};\n`, ...(await Promise.all(parts))].map((one) => Buffer.from(one)));
  return import(`data:text/javascript;base64,${source.toString("base64")}`);
}
