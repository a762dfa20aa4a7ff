// The page: a client of /api/v1/segment.

import { LabelMap, withLegend } from "./map.js";
import { Words } from "./words.js";

const $ = (id) => document.getElementById(id);
const SILENT = ["The server does not answer.", "Is it still running? scanseg serve starts it again."];
const UNKNOWN = { name: "unknown", colour: "#303030" };
const percent = (share) => {
  const p = 100 * share;
  return p > 0 && p < 0.1 ? "<0.1 %" : `${p < 9.95 ? p.toFixed(1) : p.toFixed(0)} %`;
};

let about = { presets: [], limits: {}, examples: [] };
let photo = null; // {blob, name, credit, bitmap or null}
let result = null; // {map, pixels, form} of the last answer
let asking = null; // AbortController of the running request
const hidden = new Set();
let focus = null; // label that stands out
let pointer = null; // {x, y} of the keyboard's pointer, in map pixels

const words = new Words($("chips"), () => trouble());

// ------------------------------------------------------------------ start

async function start() {
  const reply = await fetch("/api/v1/about");
  about = await reply.json();
  $("about").textContent = `scanseg ${about.version}`;
  $("preset").replaceChildren(...about.presets.map((name) => new Option(name, name)));
  $("preset-row").hidden = about.presets.length < 2;
  $("examples").querySelector("ul").replaceChildren(...about.examples.map(exampleButton));
  $("examples").hidden = !about.examples.length;
}

function exampleButton(example) {
  const item = document.createElement("li");
  const button = item.appendChild(document.createElement("button"));
  button.type = "button";
  button.title = `Photo: ${example.credit}`;
  const image = button.appendChild(new Image());
  image.src = example.photo;
  image.alt = "";
  image.loading = "lazy";
  const text = button.appendChild(document.createElement("span"));
  text.textContent = example.words.join(", ");
  const credit = text.appendChild(document.createElement("small"));
  credit.className = "hint";
  credit.textContent = example.credit;
  button.addEventListener("click", async () => {
    try {
      const blob = await (await fetch(example.photo)).blob();
      words.set(example.words);
      if (await usePhoto(blob, example.name, example.credit)) ask();
    } catch {
      trouble(...SILENT);
    }
  });
  return item;
}

// ------------------------------------------------------------------ the photo

async function usePhoto(blob, name, credit = "") {
  cancel();
  trouble();
  if (blob.size > about.limits.bytes) {
    trouble(`${name} is larger than ${Math.round(about.limits.bytes / 2 ** 20)} MB.`,
      "Shrink it or save it as JPEG first.");
    return false;
  }
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(blob);
  } catch { /* a format that only the server reads; it will send a picture of it */ }
  photo = { blob, name, credit, bitmap };
  result = null;
  $("result").hidden = true;
  $("empty").hidden = true;
  $("view").hidden = false;
  $("probe").textContent = "";
  $("canvas").setAttribute("aria-label", `Photo ${name}`);
  caption();
  showPhoto();
  return true;
}

function caption() {
  const size = photo.bitmap ? `${photo.bitmap.width} × ${photo.bitmap.height}` : "";
  $("caption").textContent = [photo.name, size, photo.credit && `photo: ${photo.credit}`]
    .filter(Boolean).join(" · ");
}

function setCanvas(width, height) {
  const canvas = $("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.style.setProperty("--aspect", width / height);
}

function showPhoto() {
  if (!photo.bitmap) {
    setCanvas(600, 400);
    return;
  }
  const { width, height } = photo.bitmap;
  const scale = Math.min(1, 1600 / Math.max(width, height));
  setCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  drawPhoto($("canvas"), photo.bitmap);
}

function drawPhoto(canvas, bitmap) {
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  draw.fillStyle = "#fff"; // transparent parts are read as white
  draw.fillRect(0, 0, canvas.width, canvas.height);
  draw.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return draw;
}

$("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) await usePhoto(file, file.name);
  event.target.value = "";
  if (photo) (words.words.length ? $("run") : $("words")).focus();
});

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("stage").classList.add("dropping");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("stage").classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) usePhoto(file, file.name);
  else trouble("That was no file.", "Save the picture first, then drop the file here.");
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  usePhoto(file, file.name || "pasted.png");
});
$("back").addEventListener("click", () => {
  cancel();
  trouble();
  photo = result = null;
  $("view").hidden = $("result").hidden = true;
  $("empty").hidden = false;
  $("examples").querySelector("button")?.focus();
});

// ------------------------------------------------------------------ asking

function form(output) {
  const data = new FormData();
  data.append("photo", photo.blob, photo.name);
  data.append("labels", JSON.stringify(words.value()));
  data.append("preset", $("preset").value);
  if (output === "page") {
    data.append("unknown_below", "0"); // the slider decides here
    data.append("maps", "true");
    data.append("preview", String(!photo.bitmap));
  }
  return data;
}

async function ask() {
  words.finish();
  trouble();
  if (!photo) return trouble("There is no photo yet.", "Choose one, drop one or paste one.");
  if (!words.words.length) {
    $("words").focus();
    return trouble("There are no words yet.", "Write what to look for, such as cat, sofa.");
  }
  cancel();
  const mine = (asking = new AbortController());
  const data = form("page");
  const clock = progress();
  try {
    const record = await (await post(data, mine.signal)).json();
    const map = await LabelMap.from(record);
    const bitmap = photo.bitmap ?? await previewOf(record);
    if (mine === asking) show(record, map, bitmap, data);
  } catch (error) {
    if (mine === asking && error.name !== "AbortError") trouble(error.message, error.hint);
  } finally {
    clock();
    if (mine === asking) cancel();
  }
}

async function post(data, signal, headers = {}) {
  let reply;
  try {
    reply = await fetch("/api/v1/segment", { method: "POST", body: data, signal, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error(SILENT[0]), { hint: SILENT[1] });
  }
  if (!reply.ok) {
    const { error, hint } = await reply.json().catch(() => ({ error: `status ${reply.status}` }));
    throw Object.assign(new Error(sentence(error)), { hint: sentence(hint ?? "") });
  }
  return reply;
}

const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?)]$/.test(text) ? "" : ".");

async function previewOf(record) {
  const image = new Image();
  image.src = record.preview;
  await image.decode();
  return createImageBitmap(image);
}

function progress() {
  const began = performance.now();
  const tell = () => {
    const seconds = (performance.now() - began) / 1000;
    const slow = seconds > 10 ? " A large photo or many words take longer." : "";
    $("progress").textContent = seconds < 0.6 ? "Sending the photo …"
      : `Looking for ${words.words.length === 1 ? "one word" : `${words.words.length} words`} … `
        + `${seconds.toFixed(0)} s.${slow}`;
  };
  const timer = setInterval(tell, 500);
  const veil = setTimeout(() => ($("veil").hidden = false), 150); // quick answers need no veil
  tell();
  $("run").disabled = true;
  return () => {
    clearInterval(timer);
    clearTimeout(veil);
  };
}

/** End the running request, if there is one: the page is ready for another. */
function cancel() {
  asking?.abort();
  asking = null;
  $("veil").hidden = true;
  $("run").disabled = false;
}

function trouble(error = "", hint = "") {
  $("trouble").hidden = !error;
  $("trouble").children[0].textContent = error;
  $("trouble").children[1].textContent = hint ?? "";
  if (error) $("trouble").scrollIntoView({ block: "nearest" });
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  } else if (event.key === "Escape" && asking) cancel();
});

// ------------------------------------------------------------------ the result

function show(record, map, bitmap, data) {
  $("frame").scrollIntoView({ block: "nearest" });
  setCanvas(map.width, map.height);
  const pixels = drawPhoto($("canvas"), bitmap).getImageData(0, 0, map.width, map.height);
  result = { map, pixels, data };
  hidden.clear();
  focus = pointer = null;
  $("result").hidden = false;
  $("notes").hidden = !record.notes.length;
  $("notes").textContent = record.notes.join("; ");
  const { counts } = legend();
  redraw();
  const found = map.names.filter((_, label) => counts[label + 1].share);
  $("canvas").setAttribute("aria-label",
    `Map of ${photo.name}: ${found.join(", ") || "nothing was found"}. Arrow keys read it.`);
  $("probe").textContent = found.length
    ? `Found ${found.length} of ${map.names.length}. Point at or touch the map to read it.`
    : "None of the words was found.";
}

const threshold = () => 2 * Number($("threshold").value); // in steps of 1/200

/** Write the list of words found; rows keep their order while the slider moves. */
function legend(keepOrder = false) {
  const { map } = result;
  const counts = map.counts(threshold());
  const order = keepOrder && result.order ? result.order
    : [...map.names.keys()].filter((label) => counts[label + 1].share)
      .sort((a, b) => counts[b + 1].share - counts[a + 1].share);
  if (!keepOrder || !result.order) {
    result.order = order;
    $("legend").replaceChildren(...[...order, -1].map(legendRow));
  }
  for (const row of $("legend").children) {
    const { share } = counts[Number(row.dataset.label) + 1];
    row.hidden = row.dataset.label === "-1" && !share;
    row.querySelector("output").textContent = percent(share);
    row.style.setProperty("--share", `${100 * share}%`);
  }
  const absent = map.names.filter((_, label) => !order.includes(label));
  $("absent").hidden = !absent.length;
  $("absent").textContent = `Not found: ${absent.join(", ")}`;
  $("threshold-out").textContent = `${$("threshold").value} %`;
  $("opacity-out").textContent = `${$("opacity").value} %`;
  result.counts = counts;
  return { counts };
}

function legendRow(label) {
  const row = document.createElement("li");
  row.dataset.label = label;
  row.style.setProperty("--colour", label < 0 ? UNKNOWN.colour : result.map.colours[label]);
  const box = row.appendChild(document.createElement("label"));
  const tick = box.appendChild(document.createElement("input"));
  tick.type = "checkbox";
  tick.checked = true;
  box.appendChild(document.createElement("i"));
  box.appendChild(document.createElement("b")).textContent = nameOf(label);
  box.appendChild(document.createElement("output"));
  box.appendChild(document.createElement("small"));
  tick.addEventListener("change", () => {
    hidden[tick.checked ? "delete" : "add"](label);
    row.classList.toggle("off", !tick.checked);
    redraw();
  });
  const point = () => {
    setFocus(label);
    const { share, confidence } = result.counts[label + 1];
    const sure = label < 0 ? "" : `, confidence ${percent(confidence)}`;
    $("probe").textContent = `${nameOf(label)}: ${percent(share)} of the photo${sure}`;
  };
  const leave = () => setFocus(null);
  row.addEventListener("pointerenter", point);
  row.addEventListener("pointerleave", leave);
  tick.addEventListener("focus", point);
  tick.addEventListener("blur", leave);
  return row;
}

const nameOf = (label) => (label < 0 ? UNKNOWN.name : result.map.names[label]);

function setFocus(label) {
  if (label === focus) return;
  focus = label;
  redraw();
}

let drawing = false;
function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!result) return;
    const draw = $("canvas").getContext("2d");
    draw.putImageData(result.map.paint(result.pixels, look(focus)), 0, 0);
    if (pointer) drawPointer(draw);
  });
}

const look = (standsOut) => ({
  threshold: threshold(), opacity: Number($("opacity").value) / 100, hidden, focus: standsOut,
});

function drawPointer(draw) {
  const radius = Math.max(5, result.map.width / 90);
  for (const [width, colour] of [[4, "#000"], [2, "#fff"]]) {
    draw.lineWidth = width;
    draw.strokeStyle = colour;
    draw.beginPath();
    draw.arc(pointer.x + 0.5, pointer.y + 0.5, radius, 0, 7);
    draw.stroke();
  }
}

for (const id of ["threshold", "opacity"]) {
  $(id).addEventListener("input", () => {
    if (!result) return;
    legend(true);
    redraw();
  });
}

// ------------------------------------------------------------------ reading the map

/** What is at a pixel of the map: as text, and in the tip beside it. */
function probe(x, y, { announce }) {
  const { map } = result;
  const i = y * map.width + x;
  const label = map.at(i, threshold());
  const best = map.labels[i];
  const sure = best < 0 ? "none of your words" : percent(map.confidence[i] / map.steps);
  const name = label === best ? nameOf(label) : `unknown (${nameOf(best)}?)`;
  const tip = $("tip");
  tip.replaceChildren(document.createElement("i"), document.createElement("b"), new Text(sure));
  tip.children[1].textContent = name;
  tip.style.setProperty("--colour", label < 0 ? UNKNOWN.colour : map.colours[label]);
  tip.hidden = false;
  const canvas = $("canvas").getBoundingClientRect();
  const frame = $("frame").getBoundingClientRect();
  const left = canvas.left - frame.left + ((x + 0.5) / map.width) * canvas.width;
  const top = canvas.top - frame.top + ((y + 0.5) / map.height) * canvas.height;
  const right = left + 16 + tip.offsetWidth > frame.width;
  const below = top + 16 + tip.offsetHeight > frame.height;
  tip.style.transform = `translate(${Math.max(4, right ? left - 16 - tip.offsetWidth : left + 16)}px, `
    + `${Math.max(4, below ? top - 16 - tip.offsetHeight : top + 16)}px)`;
  if (announce) $("probe").textContent = `${name}: ${best < 0 ? "" : "confidence "}${sure}`;
  setFocus(hidden.has(label) ? null : label);
}

function pointed(event) {
  if (!result) return;
  const box = $("canvas").getBoundingClientRect();
  const { width, height } = result.map;
  const x = Math.floor(((event.clientX - box.left) / box.width) * width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * height);
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  pointer = null;
  probe(x, y, { announce: event.pointerType !== "mouse" });
}

function unpointed() {
  $("tip").hidden = true;
  if (pointer || focus !== null) {
    pointer = focus = null;
    redraw();
  }
}

$("canvas").addEventListener("pointermove", pointed);
$("canvas").addEventListener("pointerdown", pointed);
$("canvas").addEventListener("pointerleave", (event) => event.pointerType === "mouse" && unpointed());
$("canvas").addEventListener("blur", unpointed);
$("canvas").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (!result || !move) return;
  event.preventDefault();
  const { width, height } = result.map;
  const step = Math.max(1, Math.round((event.shiftKey ? 0.1 : 0.025) * Math.max(width, height)));
  pointer ??= { x: width >> 1, y: height >> 1 };
  pointer = {
    x: Math.min(width - 1, Math.max(0, pointer.x + move[0] * step)),
    y: Math.min(height - 1, Math.max(0, pointer.y + move[1] * step)),
  };
  probe(pointer.x, pointer.y, { announce: true });
  redraw();
});

// ------------------------------------------------------------------ downloads

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The picture as it is seen, with the words that are switched on below it. */
function picture() {
  const canvas = document.createElement("canvas");
  canvas.width = result.map.width;
  canvas.height = result.map.height;
  canvas.getContext("2d").putImageData(result.map.paint(result.pixels, look(null)), 0, 0);
  const rows = [...result.order, -1]
    .filter((label) => !hidden.has(label) && result.counts[label + 1].share)
    .map((label) => ({
      colour: label < 0 ? UNKNOWN.colour : result.map.colours[label],
      name: nameOf(label),
      share: percent(result.counts[label + 1].share),
    }));
  return withLegend(canvas, rows);
}

/** The server's own file for what was asked, with the slider's setting. */
function fileOf(output) {
  const data = new FormData();
  for (const [name, value] of result.data) {
    if (["photo", "labels", "preset"].includes(name)) data.append(name, value);
  }
  data.append("unknown_below", String(Number($("threshold").value) / 100));
  data.append("output", output);
  return post(data).then((reply) => reply.blob());
}

for (const button of $("downloads").children) {
  button.addEventListener("click", async () => {
    if (!result) return;
    const stem = photo.name.replace(/\.[^.]*$/, "") || "photo";
    button.disabled = true;
    trouble();
    try {
      if (button.dataset.kind === "overlay") {
        const blob = await new Promise((done) => picture().toBlob(done, "image/png"));
        save(blob, `${stem}_overlay.png`);
      } else if (button.dataset.kind === "map") {
        save(await fileOf("map"), `${stem}_map.png`);
      } else {
        save(await fileOf("json"), `${stem}.json`);
      }
    } catch (error) {
      trouble(error.message, error.hint);
    } finally {
      button.disabled = false;
    }
  });
}

// ------------------------------------------------------------------ dark and light

const root = document.documentElement;
const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches
  ? "dark" : "light")) === "dark";
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) root.dataset.theme = chosen;
} catch { /* private window: as the system has it */ }
$("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* for now only */ }
});

start().catch(() => trouble(...SILENT));
