"use strict";
const $ = (id) => document.getElementById(id);
let shown = "";

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

async function ask(file) {
  $("error").textContent = "";
  URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  $("shown").src = shown;
  try {
    const reply = await fetch("predict", {
      method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" },
    });
    const said = await reply.json();
    if (!reply.ok) throw new Error(said.error);
    fill(said.predictions[0]);
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
