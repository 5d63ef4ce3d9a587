"use strict";
const items = [...document.querySelectorAll(".labels li")];
const classes = new Set([...document.querySelectorAll("#classes option")].map((option) => option.value));
const problem = document.getElementById("problem");

function describe(item) {
  const value = item.dataset.new;
  if (value === item.dataset.given) return `keeps ${value}`;
  return value === "leave out" ? "left out" : `is ${value}`;
}

function show(item) {
  const isDecided = item.dataset.new !== "";
  item.classList.toggle("decided", isDecided);
  item.querySelector(".choices").hidden = isDecided;
  item.querySelector(".choice").hidden = !isDecided;
  item.querySelector(".choice span").textContent = isDecided ? describe(item) : "";
  document.getElementById("done").textContent = items.filter((each) => each.dataset.new !== "").length;
}

async function decide(item, value) {
  let said = "";
  try {
    const body = JSON.stringify({ number: Number(item.dataset.number), new: value });
    const response = await fetch("decide", { method: "POST", body });
    if (!response.ok) said = await response.text();
  } catch (error) {
    said = `This was not written (${error.message}). Is flowerkit clean still running?`;
  }
  problem.textContent = said;
  if (said) return;
  item.dataset.new = value ?? "";
  show(item);
  const next = value === null ? item : items[items.indexOf(item) + 1];
  if (next) next.querySelector(".choices:not([hidden]) button, .undo").focus({ preventScroll: true });
}

for (const item of items) {
  for (const button of item.querySelectorAll(".choices button")) {
    button.addEventListener("click", () => decide(item, button.dataset.new));
  }
  item.querySelector(".undo").addEventListener("click", () => decide(item, null));
  const other = item.querySelector("input");
  other.addEventListener("change", () => {
    if (classes.has(other.value)) decide(item, other.value);
    else if (other.value) problem.textContent = `There is no class ${other.value}.`;
  });
  show(item);
}
