"use strict";
const $ = (id) => document.getElementById(id);
let shown = "", asked = null;

function percent(share) {
  return (100 * share).toFixed(share > 0.999 || share < 0.001 ? 2 : 1) + "%";
}

function fill(found) {
  const names = found.labels ? found.labels.map((one) => one.class).join(", ") || "none" : found.classes[0].class;
  $("said").textContent = found.none_of_these ? "none of these" : names;
  $("note").textContent = found.unfamiliar
    ? "This picture looks unlike all that the model learned from: its probabilities mean little."
    : "";
  $("classes").replaceChildren(...found.classes.map((one) => {
    const item = document.createElement("li"), row = document.createElement("div"), bar = document.createElement("progress");
    row.className = "row";
    for (const text of [one.class, percent(one.p)]) {
      const part = document.createElement("span");
      part.textContent = text;
      row.append(part);
    }
    bar.value = one.p;
    bar.setAttribute("aria-label", one.class + ": " + percent(one.p));
    item.append(row, bar);
    return item;
  }));
  $("answer").hidden = false;
}

async function post(path, file) {
  const reply = await fetch(path, {
    method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" },
  });
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error);
  return said;
}

function cover(on) {
  $("heat").hidden = !on;
  $("looked").setAttribute("aria-pressed", on);
  $("looked").textContent = on ? "Show the picture alone" : "Show what the answer rests on";
  if (!on) $("rests").textContent = "";
}

// A dark veil that is thin where hiding the place takes the answer away.
function veil(found) {
  const canvas = $("heat"), most = Math.max(...found.lost.flat());
  canvas.height = found.lost.length;
  canvas.width = found.lost[0].length;
  const pen = canvas.getContext("2d");
  found.lost.forEach((row, y) => row.forEach((lost, x) => {
    pen.fillStyle = `rgb(8 12 18 / ${most > 0 ? 0.85 * (1 - lost / most) : 0.4})`;
    pen.fillRect(x, y, 1, 1);
  }));
  cover(true);
  $("rests").textContent = most > 0
    ? `Bright where hiding a place takes most from “${found.class}”: up to ${percent(most)} of ${percent(found.p)}.`
    : `No single place matters to “${found.class}”: hiding any leaves its probability as it is.`;
}

$("looked").addEventListener("click", async () => {
  if (!$("heat").hidden) return cover(false);
  const file = asked;
  $("looked").disabled = true;
  $("rests").textContent = "Asking again with one place hidden at a time …";
  try {
    const found = await post("looked", file);
    if (file === asked) veil(found);
  } catch (error) {
    if (file === asked) $("rests").textContent = "No answer: " + error.message;
  } finally {
    $("looked").disabled = false;
  }
});

async function ask(file) {
  $("error").textContent = "";
  URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  $("shown").src = shown;
  asked = file;
  cover(false);
  try {
    fill((await post("predict", file)).predictions[0]);
  } catch (error) {
    $("answer").hidden = true;
    $("error").textContent = "No answer: " + error.message;
  }
}

function first(items) {
  if (items && items.files.length) ask(items.files[0]);
}

$("file").addEventListener("change", () => first($("file")));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") first(event.dataTransfer);
  });
}
document.addEventListener("paste", (event) => first(event.clipboardData));
fetch("about").then((reply) => reply.json()).then((about) => {
  $("title").textContent = about.title;
  $("about").textContent = about.sentence;
});
