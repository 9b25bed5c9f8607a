// The table of all runs: sorts by any column, filters by words and choices, and keeps both in the address, so that a view can be linked to.
"use strict";
const board = document.querySelector("#board");
if (board) {
  const form = document.querySelector("#filter"), body = board.tBodies[0], heads = [...board.tHead.rows[0].cells];
  const rows = [...body.rows], fields = [...form.elements].map((field) => field.name).filter(Boolean); // words first
  const main = heads.findIndex((head) => head.dataset.name === "main");
  let sorted = { name: "", down: false };
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function order(a, b, at, numeric) { // what is missing stands last, whatever the direction
    const x = a.cells[at].dataset.by, y = b.cells[at].dataset.by;
    if (x === "" || y === "") return (x === "") - (y === "");
    return (numeric ? x - y : x.localeCompare(y, "en", { numeric: true })) * (sorted.down ? -1 : 1);
  }

  function sort() {
    const at = heads.findIndex((head) => head.dataset.name === sorted.name);
    heads.forEach((head, i) => i === at ? head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    body.append(...(at < 0 ? rows : [...rows].sort((a, b) => order(a, b, at, isNumeric(heads[at])))));
  }

  function isNumeric(head) { return head.matches(".n, .main"); }

  function filter() {
    const wanted = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const chosen = fields.slice(1).every((key) => !form.elements[key].value || row.dataset[key] === form.elements[key].value);
      row.hidden = !(chosen && wanted.every((word) => words.get(row).includes(word)));
    }
    const visible = rows.filter((row) => !row.hidden);
    heads.forEach((head, at) => { // a metric takes no room that no row in view has, or that is the main metric of all of them
      const empty = visible.every((row) => row.cells[at].textContent === "");
      const twice = "main" in head.dataset && visible.every((row) => row.cells[at].dataset.by === row.cells[main].dataset.by);
      for (const cell of [head, ...rows.map((row) => row.cells[at])]) cell.hidden = visible.length > 0 && (empty || twice);
    });
    form.querySelector("output").textContent = `${visible.length} of ${rows.length} rows`;
  }

  function toAddress() {
    const state = new URLSearchParams(fields.map((key) => [key, form.elements[key].value]).filter(([, value]) => value));
    if (sorted.name) state.set("sort", (sorted.down ? "-" : "") + sorted.name);
    history.replaceState(null, "", "#" + (state.toString() || "runs"));
  }

  function fromAddress() {
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : ""), by = state.get("sort") || "";
    for (const key of fields) form.elements[key].value = state.get(key) || "";
    for (const choice of form.querySelectorAll("select")) if (choice.selectedIndex < 0) choice.selectedIndex = 0; // a value that is gone
    sorted = { name: by.replace(/^-/, ""), down: by.startsWith("-") };
    sort();
    filter();
    if (location.hash.includes("=")) document.querySelector("#runs").scrollIntoView();
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => { // numbers from the largest first, words from A; once more turns it round
      sorted = { name: head.dataset.name, down: sorted.name === head.dataset.name ? !sorted.down : isNumeric(head) };
      sort();
      toAddress();
    });
    head.append(button);
  }
  form.hidden = false;
  form.addEventListener("input", () => { filter(); toAddress(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { filter(); toAddress(); }));
  addEventListener("hashchange", fromAddress);
  fromAddress();
}
