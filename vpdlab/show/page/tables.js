// The corner of each table of a page: its rows as CSV and JSON. Not of a widget's, which has a corner of its own.
(() => {
  "use strict";
  const CONSTANTS = { null: null, true: true, false: false };
  const NUMBER = /^[-−]?(0|[1-9]\d{0,14})(\.\d+)?(e[-+−]?\d+)?$/i;

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

  /** A cell's value. `show.table` notes the numbers, which it rounds for the eye; any other table has only its text. */
  function valueOf(cell, noted) {
    if (!cell) return null;
    const text = noted ? cell.textContent : cell.textContent.trim();
    const told = cell.dataset.value ?? (!noted && NUMBER.test(text) ? text.replace(/−/g, "-") : undefined);
    if (told === undefined) return text;
    return Object.hasOwn(CONSTANTS, told) ? CONSTANTS[told] : Number(told);
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
    const noted = table.classList.contains("vpd-table");
    return { names, rows: body.map((line) => Object.fromEntries(names.map((name, x) => [name, valueOf(line[x], noted)]))) };
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
    const frame = Object.assign(document.createElement("div"), { className: "vpd-table-frame" });
    table.replaceWith(frame);
    frame.append(saveButtons({ CSV: () => save("csv"), JSON: () => save("json") }, 0), table);
  }
})();
