// The corner of each table of a page: its rows as CSV and JSON. Not of a widget's, which has a corner of its own.
(() => {
  "use strict";
  const CONSTANTS = { null: null, true: true, false: false };
  // As the pages write them: −0.5, +0.222, 17,600, 4.1e−5. Digits behind a zero, as in 007, are a name.
  const NUMBER = /^[-+−]?(0|[1-9]\d{0,14}|[1-9]\d{0,2}(,\d{3}){1,4})(\.\d+)?(e[-+−]?\d{1,2})?$/i;
  const MISSING = ["", "–", "NaN", "nan", "None"];

  /** The rows of a section as lists of cells, one for each column: a cell over several places is in each of them. */
  function gridOf(rows) {
    const grid = rows.map(() => []);
    rows.forEach((row, y) => {
      let x = 0;
      for (const cell of row.cells) {
        while (grid[y][x]) x++;
        for (const line of grid.slice(y, y + Math.max(1, cell.rowSpan))) {
          for (let i = x; i < x + cell.colSpan; i++) line[i] = cell;
        }
        x += cell.colSpan;
      }
    });
    return grid;
  }

  /** A column's values: numbers if all its cells are. `show.table` notes in `data-value` what it rounds for the eye. */
  function valuesOf(cells) {
    const texts = cells.map((cell) => cell?.textContent ?? "");
    const told = cells.map((cell) => cell?.dataset.value);
    const numeric = texts.every((text, i) => told[i] !== undefined || NUMBER.test(text) || MISSING.includes(text));
    return texts.map((text, i) => {
      if (told[i] !== undefined) return Object.hasOwn(CONSTANTS, told[i]) ? CONSTANTS[told[i]] : Number(told[i]);
      if (!numeric) return text;
      return MISSING.includes(text) ? null : Number(text.replace(/−/g, "-").replace(/,/g, ""));
    });
  }

  /** A name for each column, no two of them the same: a row has one value for each. */
  function namesOf(heads, width) {
    const names = [];
    for (let x = 0; x < width; x++) {
      const cells = [...new Set(heads.map((line) => line[x]))];
      const name = cells.map((cell) => cell?.textContent.trim()).filter(Boolean).join(" ");
      let own = name;
      for (let i = 2; names.includes(own); i++) own = `${name} ${i}`.trim();
      names.push(own);
    }
    return names;
  }

  function contentOf(table) {
    const body = [...table.tBodies, ...(table.tFoot ? [table.tFoot] : [])].flatMap((one) => gridOf([...one.rows]));
    const heads = gridOf([...table.tHead.rows]);
    const names = namesOf(heads, Math.max(...[...heads, ...body].map((line) => line.length)));
    const columns = names.map((_, x) => valuesOf(body.map((line) => line[x])));
    return { names, rows: body.map((_, y) => Object.fromEntries(names.map((name, x) => [name, columns[x][y]]))) };
  }

  /** The heading that a table stands under. */
  function titleOf(table) {
    const above = (one) => one.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING;
    return [...document.querySelectorAll("main :is(h1, h2, h3, h4)")].filter(above).at(-1)?.textContent ?? document.title;
  }

  for (const table of document.querySelectorAll("main table")) {
    if (table.closest(".vpd-mount") || !table.tHead?.rows.length || !table.tBodies[0]?.rows.length) continue;
    const save = (kind) => {
      const { names, rows } = contentOf(table);
      saveRows(titleOf(table), kind, rows, names);
    };
    const corner = saveButtons({ CSV: () => save("csv"), JSON: () => save("json") }, 0);
    corner.className = "vpd-table-save"; // the look of the page, not that of a widget
    for (const button of corner.children) button.className = "";
    const frame = Object.assign(document.createElement("div"), { className: "vpd-table-frame" });
    table.replaceWith(frame);
    frame.append(corner, table);
  }
})();
