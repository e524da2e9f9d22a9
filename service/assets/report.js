// @ts-check
"use strict";

/**
 * Finds an element that the page always has.
 * @template {Element} T
 * @param {string} selector
 * @param {new () => T} kind
 * @returns {T}
 */
function find(selector, kind) {
  const found = document.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`the page has no ${selector}`);
  return found;
}

const body = find("#table tbody", HTMLTableSectionElement);
const cards = find("#cards", HTMLDivElement);
const rows = Array.from(body.rows);
const cardOf = new Map(
  Array.from(cards.querySelectorAll("article"), (card) => [card.dataset.number, card]),
);
const collator = new Intl.Collator("en", { numeric: true });

/**
 * Moves the border of one picture to where its slider stands.
 * @param {HTMLInputElement} slider
 */
function moveBorder(slider) {
  const photograph = slider.valueAsNumber;
  slider.parentElement?.style.setProperty("--border", `${photograph}%`);
  slider.setAttribute("aria-valuetext", `photograph ${photograph}%, overlay ${100 - photograph}%`);
}

/** @returns {HTMLInputElement[]} */
function sliders() {
  return Array.from(cards.querySelectorAll("input.border")).filter((each) => each instanceof HTMLInputElement);
}

/**
 * What a row is sorted by; null for a cell that the row does not have.
 * @param {HTMLTableRowElement} row
 * @param {number} column
 * @returns {string | null}
 */
function valueOf(row, column) {
  return row.cells[column]?.dataset.value || null;
}

/**
 * Sorts table and cards; what has no value stays last in both directions.
 * @param {HTMLTableCellElement} head
 */
function sortBy(head) {
  const column = head.cellIndex;
  const numeric = head.dataset.kind === "number";
  const before = head.getAttribute("aria-sort");
  const ascending = before === null ? !numeric : before === "descending";
  for (const other of head.parentElement?.children ?? []) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  rows.sort((one, two) => {
    const [a, b] = [valueOf(one, column), valueOf(two, column)];
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    const order = numeric ? Number(a) - Number(b) : collator.compare(a, b);
    return ascending ? order : -order;
  });
  body.append(...rows);
  cards.append(...rows.flatMap((row) => cardOf.get(row.dataset.number) ?? []));
}

/** Shows the rows and cards that the tools ask for. */
function filter() {
  const sought = find("#find", HTMLInputElement).value.trim().toLocaleLowerCase();
  const status = find("#status", HTMLSelectElement).value;
  let shown = 0;
  for (const row of rows) {
    const text = [row.cells[0], row.querySelector(".reason")].map((cell) => cell?.textContent ?? "").join("\n");
    const fits = (status === "all" || row.dataset.status === status) && text.toLocaleLowerCase().includes(sought);
    row.hidden = !fits;
    const card = cardOf.get(row.dataset.number);
    if (card) card.hidden = !fits;
    shown += Number(fits);
  }
  find("#count", HTMLOutputElement).value =
    shown === rows.length ? `${shown} image${shown === 1 ? "" : "s"}` : `${shown} of ${rows.length} images`;
  find("#empty", HTMLParagraphElement).hidden = shown > 0;
}

/** Turns the words in the head of the table into buttons. */
function makeHeadsSort() {
  for (const head of document.querySelectorAll("#table thead th")) {
    const words = head.querySelector(".head");
    if (!(head instanceof HTMLTableCellElement) || words === null) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...words.childNodes);
    button.addEventListener("click", () => sortBy(head));
    words.replaceWith(button);
  }
}

cards.addEventListener("input", (event) => {
  if (event.target instanceof HTMLInputElement) moveBorder(event.target);
});
find("#find", HTMLInputElement).addEventListener("input", filter);
find("#status", HTMLSelectElement).addEventListener("change", filter);
/** Shows the overlays as the tools ask for. */
function showOverlays() {
  cards.style.setProperty("--opacity", String(find("#opacity", HTMLInputElement).valueAsNumber / 100));
  cards.classList.toggle("outlined", find("#style", HTMLSelectElement).value === "outline");
}

find("#opacity", HTMLInputElement).addEventListener("input", showOverlays);
find("#style", HTMLSelectElement).addEventListener("change", showOverlays);
find("#large", HTMLInputElement).addEventListener("change", (event) => {
  if (event.target instanceof HTMLInputElement) cards.classList.toggle("large", event.target.checked);
});
for (const button of document.querySelectorAll("button[data-border]")) {
  button.addEventListener("click", () => {
    for (const slider of sliders()) {
      slider.value = button.getAttribute("data-border") ?? "50";
      moveBorder(slider);
    }
  });
}

makeHeadsSort();
filter();
// A reloaded page keeps what its fields held.
showOverlays();
for (const slider of sliders()) moveBorder(slider);
find("#tools", HTMLDivElement).hidden = false;
