"use strict";
// The page is whole without this. It adds: values of charts under a pointer, a finger or the arrow
// keys; sorting and searching of tables. Text is set as text: no name can become markup.

for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const readout = document.getElementById(svg.dataset.chart), usual = readout.textContent;
  const items = [...svg.querySelectorAll("rect > title")].map((title) => {
    const rect = title.parentNode, text = title.textContent;
    title.remove();
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => +rect.getAttribute(name));
    return { rect, text, x, y, width, height };
  });
  if (!items.length) continue;
  let place = -1;
  const choose = (index) => {
    items[place]?.rect.classList.remove("on");
    place = index;
    items[place]?.rect.classList.add("on");
    readout.textContent = items[place]?.text ?? usual;
  };
  const distance = (low, size, value) => Math.max(low - value, 0, value - low - size);
  const point = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = items.map((one) => Math.hypot(distance(one.x, one.width, at.x), distance(one.y, one.height, at.y)));
    choose(far.indexOf(Math.min(...far)));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(-1));
  svg.addEventListener("click", (event) => {
    // A finger is wider than a cell: the nearest one is meant.
    const link = items[place]?.rect.closest("a");
    if (link && !event.target.closest("a")) location.hash = link.getAttribute("href");
  });
  svg.tabIndex = 0;
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) choose(((place < 0 && step < 0 ? 0 : place) + step + items.length) % items.length);
    else if (event.key === "Enter" && items[place]?.rect.closest("a")) location.hash = items[place].rect.closest("a").getAttribute("href");
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });
}

for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].textContent.trim();
  const number = (text) => parseFloat(text.replace(/,/g, "").replace("−", "-").replace("–", "NaN"));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
      const before = (a, b) => column ? number(value(a, column)) - number(value(b, column)) : value(a, 0).localeCompare(value(b, 0));
      body.append(...rows.sort((a, b) => down * before(a, b)));
    });
  });
  const search = document.getElementById(table.dataset.sort);
  if (!search) continue;
  const found = search.parentNode.querySelector("output");
  search.parentNode.hidden = false;
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLocaleLowerCase();
    for (const row of rows) row.hidden = !value(row, 0).toLocaleLowerCase().includes(wanted);
    found.textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
}
