"use strict";
const get = (id) => document.getElementById(id);
const [frame, photo, map, video, answer] = ["frame", "photo", "map", "video", "answer"].map(get);
const strength = get("strength");
let asked = 0;

function make(tag, text, className) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function makeName(text, tag = "bdi") {
  return make(tag, text.trim() || "(no name)");
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function show(element, isShown) {
  element.hidden = !isShown;
}

async function classify(file) {
  const number = ++asked;
  stopCamera();
  answer.classList.add("busy");
  answer.setAttribute("aria-busy", "true");
  let result;
  try {
    const response = await fetch("classify", { method: "POST", body: file });
    result = response.ok ? await response.json() : { problem: await response.text() };
  } catch (error) {
    result = { problem: `The server does not answer (${error.message}). Is flowerkit serve still running?` };
  }
  if (number !== asked) return; // a later photo was chosen meanwhile
  answer.classList.remove("busy");
  answer.removeAttribute("aria-busy");
  showResult(result);
}

function showResult(result) {
  const hasAnswer = !result.problem;
  get("classes").replaceChildren();
  show(get("hint"), !hasAnswer);
  show(photo, hasAnswer);
  show(map, Boolean(result.map));
  frame.classList.toggle("full", hasAnswer);
  if (strength) show(get("slider"), Boolean(result.map));
  if (!hasAnswer) {
    answer.replaceChildren(make("p", result.problem, "wrong"));
    show(get("similar"), false);
    return;
  }
  photo.src = result.photo;
  if (result.map) map.src = result.map;
  const heading = make("p", "", "name");
  heading.append(makeName(result.answer));
  const [best, share] = result.classes[0];
  const remark = make("p", "", "soft");
  if (result.isKnown) remark.append(`${percent(share)} sure`);
  else remark.append("The model is less certain than of most photos of val. Most like ", makeName(best), ".");
  answer.replaceChildren(heading, remark);
  for (const [name, part] of result.classes) {
    const row = document.createElement("li");
    const bar = make("span", "", "bar");
    bar.style.setProperty("--share", `${100 * part}%`);
    row.append(bar, makeName(name, "span"), make("span", percent(part), "share"));
    get("classes").append(row);
  }
  show(get("similar"), result.similar.length > 0);
  get("similar").querySelector("ul").replaceChildren(...result.similar.map((near) => {
    const item = document.createElement("li");
    const picture = document.createElement("img");
    picture.src = near.photo;
    picture.alt = "";
    const words = make("span", "");
    words.append(makeName(near.className), `, ${near.similarity.toFixed(2)}`);
    item.append(picture, words);
    item.title = near.name;
    return item;
  }));
}

if (strength) {
  strength.addEventListener("input", () => {
    map.style.opacity = strength.value / 100;
    strength.setAttribute("aria-valuetext", strength.value === "0" ? "off" : `${strength.value} %`);
  });
}

// Photos: chosen, dropped, pasted, examples -----------------------------------------------------------

get("file").addEventListener("change", (event) => {
  if (event.target.files.length) classify(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault(); // or the browser opens the file in place of the page
    frame.classList.toggle("over", type === "dragover");
    if (type === "drop" && event.dataTransfer.files.length) classify(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) classify(event.clipboardData.files[0]);
});
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", () => {
    const bytes = atob(button.querySelector("img").src.split(",")[1]);
    classify(new Blob([Uint8Array.from(bytes, (letter) => letter.charCodeAt(0))]));
  });
}

// The camera ------------------------------------------------------------------------------------------

function stopCamera() {
  if (video.srcObject) for (const track of video.srcObject.getTracks()) track.stop();
  video.srcObject = null;
  show(video, false);
  show(get("take"), false);
}

show(get("camera"), Boolean(navigator.mediaDevices));
get("camera").addEventListener("click", async () => {
  if (video.srcObject) return stopCamera();
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    answer.replaceChildren(make("p", `There is no camera to use: ${error.message}.`, "wrong"));
    return;
  }
  show(video, true);
  show(get("take"), true);
  await video.play();
  get("take").focus();
});
get("take").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob(classify, "image/jpeg", 0.95);
  get("camera").focus();
});
