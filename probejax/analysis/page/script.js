"use strict";
// Hover, focus or tap shows the text of a mark; a mark's group may name it first (data-head).
const tip = document.getElementById("tip");
function show(mark, x, y) {
  const head = mark.closest("[data-head]");
  tip.textContent = (head ? head.dataset.head + "\n" : "") + mark.dataset.t;
  tip.style.display = "block";
  const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8);
  const above = y - tip.offsetHeight - 12;
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = (above < 8 ? y + 18 : above) + "px";
}
function hide() { tip.style.display = "none"; }
for (const kind of ["pointerover", "pointerdown"]) {
  document.addEventListener(kind, (event) => {
    const mark = event.target.closest("[data-t]");
    if (mark) show(mark, event.clientX, event.clientY); else hide();
  });
}
addEventListener("scroll", hide, { passive: true });

// A click on a heading sorts by it; a second one turns the order. Empty cells stay last.
const key = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.v ?? (cell.classList.contains("num") ? "" : cell.textContent);
};
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, table = heading.closest("table");
    const down = heading.getAttribute("aria-sort") === "descending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "ascending" : "descending");
    const column = heading.cellIndex, sign = down ? 1 : -1, body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const [x, y] = [Number(a), Number(b)];
      return sign * (isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y);
    });
    body.append(...rows.map(([, row]) => row));
  });
}

// What is typed keeps the rows, or the tasks, whose text holds it.
for (const field of document.querySelectorAll(".search input")) {
  const block = field.closest(".tasks, .table");
  const rows = [...block.querySelectorAll(block.matches(".tasks") ? "details.task" : "tbody tr")];
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) {
      const text = row.matches("details") ? row.firstElementChild.textContent : row.textContent;
      row.hidden = !text.toLowerCase().includes(wanted);
    }
  });
}

// On paper nothing can be unfolded.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => { for (const part of folded) part.open = false; });
