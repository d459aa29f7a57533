"use strict";
// Sort a table by the column whose heading is pressed: numbers by value, else by text; empty cells always last.
const compare = new Intl.Collator("en", { numeric: true }).compare;

function keyOf(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
}

function sortBy(heading) {
  const body = heading.closest("table").tBodies[0];
  const sign = heading.ariaSort === "ascending" ? -1 : 1;
  for (const other of heading.parentElement.cells) other.ariaSort = "none";
  heading.ariaSort = sign > 0 ? "ascending" : "descending";
  const keyed = [...body.rows].map((row) => [keyOf(row, heading.cellIndex), row]);
  keyed.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : compare(a, b));
  });
  body.append(...keyed.map(([, row]) => row));
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
