// Uploads a dataset from its page: says how far it is and how long it will take; a refused file is shown as a table of
// what is wrong, where, and what to do. Texts of the answer are put into the page as text, never as markup.
import { CancelledError, RefusedError, ResumableUpload, isKnown } from "./resumable_upload.js";

(() => {
  const area = document.getElementById("upload");
  if (!area) return;
  const form = document.getElementById("upload-form");
  const input = document.getElementById("upload-file");
  const chosen = document.getElementById("upload-chosen");
  const drop = form.querySelector(".drop");
  const cancel = document.getElementById("upload-cancel");
  const pause = document.getElementById("upload-pause");
  const start = form.querySelector("button.button");
  const progress = document.getElementById("upload-progress");
  const bar = progress.querySelector("progress");
  const numbers = progress.querySelector(".progress-numbers");
  const result = document.getElementById("upload-result");
  const UNITS = ["bytes", "kB", "MB", "GB", "TB"];
  const RATE_SECONDS = 10;
  // Refusals after which the same bytes may be read in another form, or taken later.
  const KEPT_AFTER = ["format_not_recognised", "dataset_not_found", "dataset_replaced", "dataset_quota", "storage_quota", "invalid_request"];
  let file = null;
  let running = null;
  let marks = [];

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
    } else if (file && isKnown(file)) {
      chosen.textContent += " A part of it is on the server already; the upload will continue from there.";
      upload();
    }
  }

  function tell(title, detail, errors = []) {
    const box = make("section", "", { class: "panel is-bad" });
    box.append(make("h3", title), make("p", detail));
    if (errors.length) {
      const table = document.createElement("table");
      table.append(make("caption", "What is wrong, and where. Correct these places in the file, and upload it again."));
      const head = table.createTHead().insertRow();
      ["Where", "Column", "What is wrong", "What to do"].forEach((title) => head.append(make("th", title, { scope: "col" })));
      const body = table.createTBody();
      errors.forEach((error) => {
        const [wrong, ...advice] = error.detail.split("; ");
        const row = body.insertRow();
        row.append(
          make("th", place(error.pointer), { scope: "row" }),
          make("td", column(wrong)),
          make("td", wrong),
          make("td", sentence(advice.join("; ")) || "Correct this record, or leave it out."),
        );
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
      tell("The file was not accepted", `${place(errors[0].pointer)}: ${problem.detail}`);
    } else {
      tell("The file was not accepted", problem.detail, errors);
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

  // Where in the line: its position in the text, or the field.
  function column(wrong) {
    const position = / at column (\d+)/.exec(wrong);
    if (position) return position[1];
    const field = /^'([^']+)'/.exec(wrong);
    return field ? field[1] : "–";
  }

  function sentence(text) {
    return text && `${text[0].toUpperCase()}${text.slice(1)}.`;
  }

  function rest() {
    running = null;
    start.disabled = false;
    input.disabled = false;
    cancel.hidden = true;
    pause.hidden = true;
    progress.hidden = true;
  }

  function duration(seconds) {
    if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  // Of the last few seconds alone: a rate since the beginning would count pauses.
  function advanced(sent) {
    const now = performance.now() / 1000;
    marks = [...marks.filter(([at]) => now - at < RATE_SECONDS), [now, sent]];
    const [[began, before]] = marks;
    bar.value = file.size ? sent / file.size : 1;
    const rate = now - began > 0.5 ? (sent - before) / (now - began) : 0;
    const left = rate > 0 ? `, ${size(rate)} a second, about ${duration((file.size - sent) / rate)} left` : "";
    numbers.textContent = `${size(sent)} of ${size(file.size)}${left}`;
  }

  function failed(error, upload) {
    rest();
    if (error instanceof CancelledError) {
      result.replaceChildren(make("p", "The upload was cancelled. Nothing was kept."));
      return;
    }
    if (!(error instanceof RefusedError)) throw error;
    const { status, problem } = error;
    if (status === 401) {
      tell("You are signed out", "Sign in again in this browser, then choose the same file once more: the upload continues where it was.");
    } else if (problem?.detail) {
      if (!KEPT_AFTER.includes(problem.code)) upload.drop();
      refused(problem);
    } else {
      tell("The file was not accepted", `The server, or a proxy before it, answered with status ${status}. Choose the same file again: the upload continues where it was. If that does not help, ask the operator of the server.`);
    }
  }

  function query() {
    const fields = new FormData(form);
    const wanted = new URLSearchParams({ name: (fields.get("name") || file.name).slice(0, 200) });
    ["prompt_column", "answer_column", "system_column", "replaces"].forEach((name) => {
      if (fields.get(name)) wanted.set(name, fields.get(name));
    });
    return wanted;
  }

  function showPause() {
    pause.textContent = running.paused ? "Resume" : "Pause";
  }

  async function upload() {
    const own = new ResumableUpload(file, area.dataset.to, {
      progress: (sent) => { pause.hidden = false; advanced(sent); },
      waits: (seconds, lost) => {
        numbers.textContent = `${lost ? "The connection was lost" : "The server is busy"}; trying again in ${seconds} s. What was sent is kept.`;
      },
      checks: () => {
        pause.hidden = true;
        bar.removeAttribute("value");
        numbers.textContent = "All of it is sent. The server checks it.";
      },
    });
    running = own;
    marks = [];
    start.disabled = true;
    input.disabled = true;
    cancel.hidden = false;
    progress.hidden = false;
    bar.value = 0;
    numbers.textContent = "";
    showPause();
    result.replaceChildren();
    try {
      const dataset = await own.run(query());
      location.assign(area.dataset.page + encodeURIComponent(dataset.id));
    } catch (error) {
      failed(error, own);
    }
  }

  cancel.addEventListener("click", () => running?.cancel());
  pause.addEventListener("click", () => {
    if (!running) return;
    if (running.paused) {
      marks = [];
      running.resume();
    } else {
      running.pause();
      numbers.textContent = `Paused at ${Math.round(100 * bar.value)} %. What was sent is kept.`;
    }
    showPause();
  });

  input.addEventListener("change", () => choose(input.files[0]));
  ["dragenter", "dragover"].forEach((name) => drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("is-over");
  }));
  ["dragleave", "drop"].forEach((name) => drop.addEventListener(name, () => drop.classList.remove("is-over")));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length === 0) return;
    if (running) return;
    input.files = event.dataTransfer.files;
    choose(input.files[0]);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (file && !running) upload();
  });
  // Chosen before this script ran, or by a browser that keeps what a form held when its page is loaded again.
  if (input.files.length) choose(input.files[0]);
})();
