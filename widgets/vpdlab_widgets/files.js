// Files that the reader saves. Stands before every widget's module, and before the scripts of a page for its figures and
// tables, so it uses nothing of shared.js.

/** Rows as CSV. A text that a spreadsheet would take for a formula begins with an apostrophe. */
export function csvOf(columns, rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number" || typeof value === "boolean") return String(value);
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replace(/"/g, '""')}"`;
  };
  return [columns.map(cell), ...rows.map((row) => columns.map((name) => cell(row[name])))].map((line) => `${line.join(",")}\r\n`).join("");
}

/** Hand a file to the reader's browser; nothing leaves the machine. */
export function saveFile(name, content, type) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A name for a file from a title. */
export function fileName(title, ending) {
  const stem = String(title ?? "").slice(0, 80).replace(/[^\p{L}\p{N}_-]+/gu, "_").replace(/^_+|_+$/g, "");
  return `${stem || "vpdlab"}.${ending}`;
}

/** Save rows as "csv" or "json"; `columns` are the keys of the rows unless they are given. */
export function saveRows(title, kind, rows, columns = [...new Set(rows.flatMap((row) => Object.keys(row)))]) {
  if (kind === "json") saveFile(fileName(title, kind), JSON.stringify(rows, null, 1), "application/json");
  else saveFile(fileName(title, kind), csvOf(columns, rows), "text/csv");
}

/** "save" with a button for each kind of file: {CSV: () => ...}. */
export function saveButtons(kinds, tabIndex = -1) {
  const group = Object.assign(document.createElement("span"), { className: "vpd-choice vpd-save" });
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "save as");
  for (const [name, save] of Object.entries(kinds)) {
    const button = Object.assign(document.createElement("button"), { className: "vpd-option", textContent: name });
    Object.assign(button, { type: "button", tabIndex, title: `save as ${name}` });
    button.addEventListener("click", save);
    group.append(button);
  }
  return group;
}
