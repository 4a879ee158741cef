"use strict";
(() => {
  const text = (row, index) => row.cells[index].dataset.key ?? "";

  // Missing values come last in both directions; equal values keep their order.
  function sort(table, header) {
    const index = header.cellIndex;
    const numeric = "numeric" in header.dataset;
    const was = header.getAttribute("aria-sort");
    const first = "descending" in header.dataset ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const now = was === first ? second : first;
    const sign = now === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [text(row, index), row]);
    rows.sort(([a], [b]) => {
      if (!a || !b) return Number(!a) - Number(!b);
      return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
    });
    for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", now);
    body.append(...rows.map(([, row]) => row));
  }

  // A word may be anywhere in the row; column:value must equal the value of that column.
  function filter(table, query, output) {
    const names = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.name);
    const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const whole = row.textContent.toLowerCase();
      row.hidden = !terms.every((term) => {
        const colon = term.indexOf(":");
        const index = colon < 0 ? -1 : names.indexOf(term.slice(0, colon));
        if (index < 0) return whole.includes(term);
        return text(row, index).toLowerCase() === term.slice(colon + 1);
      });
      count += !row.hidden;
    }
    const total = table.tBodies[0].rows.length;
    const rows = total === 1 ? "row" : "rows";
    output.textContent = count === total ? `${total} ${rows}` : `${count} of ${total} ${rows}`;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      header.querySelector("button").addEventListener("click", () => sort(table, header));
    }
    const input = document.getElementById(`${table.id}-filter`);
    if (input) {
      const output = input.parentNode.querySelector("output");
      input.addEventListener("input", () => filter(table, input.value, output));
    }
  }

  for (const link of document.querySelectorAll("a[data-query]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const input = document.getElementById("runs-filter");
      input.value = link.dataset.query;
      input.dispatchEvent(new Event("input"));
      document.getElementById("runs-section").scrollIntoView();
      input.focus({ preventScroll: true });
    });
  }

  const toc = document.getElementById("toc");
  for (const section of document.querySelectorAll("section[data-toc]")) {
    const link = document.createElement("a");
    link.href = `#${section.id}`;
    link.textContent = section.dataset.toc;
    const item = document.createElement("li");
    item.append(link);
    toc.append(item);
  }

  const theme = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const shown = theme.querySelector("span");
    shown.textContent = themes[(themes.indexOf(shown.textContent) + 1) % themes.length];
    document.documentElement.dataset.theme = shown.textContent;
  });

  // Open folded sections for printing.
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
