"use strict";
// Each table with the class "sorts": a click on a heading sorts by it, and words in the field above it choose rows.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
  const value = (row, at) => {
    const text = row.cells[at].textContent.trim(), number = row.cells[at].dataset.v;
    return number === undefined ? text : Number(number);
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        const [x, y] = [value(a, at), value(b, at)];
        const both = typeof x === "number" && typeof y === "number";
        return both ? x - y : typeof x === "number" ? -1 : typeof y === "number" ? 1 : x.localeCompare(y);
      };
      rows.map((row, n) => [row, n]).sort((a, b) => (up ? 1 : -1) * order(a[0], b[0]) || a[1] - b[1])
        .forEach(([row]) => body.append(row));
    });
  });
  if (rows.length < 6) continue;
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "only rows with these words";
  field.setAttribute("aria-label", "only rows with these words");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
  table.parentElement.before(field);
}
