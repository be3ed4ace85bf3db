// Uploads a dataset from its page: the file's bytes go to the API as they are, with how far it is; a refused file is
// shown as a table of what is wrong and where. Texts of the answer are put into the page as text, never as markup.
"use strict";

(() => {
  const area = document.getElementById("upload");
  if (!area) return;
  const form = document.getElementById("upload-form");
  const input = document.getElementById("upload-file");
  const chosen = document.getElementById("upload-chosen");
  const drop = form.querySelector(".drop");
  const cancel = document.getElementById("upload-cancel");
  const start = form.querySelector("button.button");
  const progress = document.getElementById("upload-progress");
  const bar = progress.querySelector("progress");
  const numbers = progress.querySelector(".progress-numbers");
  const result = document.getElementById("upload-result");
  const UNITS = ["bytes", "kB", "MB", "GB", "TB"];
  let file = null;

  form.hidden = false;

  function size(bytes) {
    let unit = 0;
    while (bytes >= 1000 && unit < UNITS.length - 1) { bytes /= 1000; unit += 1; }
    return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
  }

  function make(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    return element;
  }

  function choose(taken) {
    file = taken || null;
    chosen.textContent = file ? `${file.name}, ${size(file.size)}` : "No file is chosen yet.";
    result.replaceChildren();
    const most = Number(area.dataset.most);
    if (file && file.size > most) {
      tell("This file is too large", `It has ${size(file.size)}, and an upload has at most ${size(most)}. Compress it with gzip or zstd, or split it.`);
      file = null;
    }
  }

  function tell(title, detail, errors = []) {
    const box = make("section", "", { class: "panel is-bad" });
    box.append(make("h3", title), make("p", detail));
    if (errors.length) {
      const table = document.createElement("table");
      table.append(make("caption", "What is wrong, and where. Correct these places in the file, and upload it again."));
      const head = table.createTHead().insertRow();
      head.append(make("th", "Where", { scope: "col" }), make("th", "What is wrong", { scope: "col" }));
      const body = table.createTBody();
      errors.forEach((error) => {
        const row = body.insertRow();
        row.append(make("th", place(error.pointer), { scope: "row" }), make("td", error.detail));
      });
      const scroll = make("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "What is wrong" });
      scroll.append(table);
      box.append(scroll);
    }
    result.replaceChildren(box);
  }

  function refused(problem) {
    const errors = problem.errors || [];
    if (errors.length === 1 && errors[0].detail === problem.detail) {
      tell("The file was not taken", `${place(errors[0].pointer)}: ${problem.detail}`);
    } else {
      tell("The file was not taken", problem.detail, errors);
    }
    if (problem.code === "format_not_recognised") {
      form.querySelector("details").open = true;
      result.firstElementChild.append(make("p", "If your records have columns of another name, name them above, and upload the file again."));
    }
  }

  function place(pointer) {
    const [kind, ...rest] = pointer.split(":");
    const where = rest.join(":");
    if (kind === "line") return `Line ${where}`;
    if (kind === "row") return `Record ${where}, counted from 0`;
    if (kind === "query") return `Field ${where.replaceAll("_", " ")}`;
    return pointer;
  }

  function rest() {
    start.disabled = false;
    cancel.hidden = true;
    progress.hidden = true;
  }

  function answered(request) {
    rest();
    let answer = null;
    try { answer = JSON.parse(request.responseText); } catch { /* not ours: a proxy's page */ }
    if (request.status === 201 && answer) {
      location.assign(area.dataset.page + encodeURIComponent(answer.id));
    } else if (request.status === 401) {
      tell("You are signed out", "Sign in again in this browser, then upload the file once more. Nothing was kept.");
    } else if (answer && answer.detail) {
      refused(answer);
    } else {
      tell("The file was not taken", `The server, or a proxy before it, answered with status ${request.status}. Nothing was kept; try again, or ask whoever runs the server.`);
    }
  }

  function upload() {
    const fields = new FormData(form);
    const query = new URLSearchParams({ name: (fields.get("name") || file.name).slice(0, 200) });
    ["prompt_column", "answer_column", "system_column"].forEach((name) => {
      if (fields.get(name)) query.set(name, fields.get(name));
    });
    const request = new XMLHttpRequest();
    const began = performance.now();
    request.open("POST", `${area.dataset.to}?${query}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => {
      const seconds = (performance.now() - began) / 1000;
      bar.value = event.total ? event.loaded / event.total : 0;
      const rate = seconds > 0.5 ? `, ${size(event.loaded / seconds)} a second` : "";
      numbers.textContent = `${size(event.loaded)} of ${size(event.total)}${rate}`;
    };
    request.upload.onload = () => {
      bar.removeAttribute("value");
      numbers.textContent = "All of it is sent. The server checks it.";
    };
    request.onload = () => answered(request);
    request.onerror = () => {
      rest();
      tell("The connection ended", "The server ended the upload or could not be reached, and the browser does not say why. Check the network and that the file is a dataset, and try again. Nothing was kept.");
    };
    request.onabort = () => { rest(); result.replaceChildren(make("p", "The upload was cancelled. Nothing was kept.")); };
    cancel.onclick = () => request.abort();
    start.disabled = true;
    cancel.hidden = false;
    progress.hidden = false;
    bar.value = 0;
    numbers.textContent = "";
    result.replaceChildren();
    request.send(file);
  }

  input.addEventListener("change", () => choose(input.files[0]));
  ["dragenter", "dragover"].forEach((name) => drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("is-over");
  }));
  ["dragleave", "drop"].forEach((name) => drop.addEventListener(name, () => drop.classList.remove("is-over")));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length === 0) return;
    input.files = event.dataTransfer.files;
    choose(input.files[0]);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (file) upload();
  });
})();
