// The review by keyboard and without reloading. Each verdict is shown at once, sent to the API, and taken back on the
// page where the API refuses it. Without this script the same forms work by loading pages.
"use strict";

(() => {
  const UNDO = "finetooth-undo";
  const GO_ON = "finetooth-go-on";
  const MOST_UNDO = 200;
  const CHOICES = { 1: "confirmed", 2: "rejected", 3: "unsure" };
  const rows = () => [...document.querySelectorAll("tr[data-row]")];
  const onList = rows().length > 0;
  const reviewed = document.getElementById("reviewed");
  let sending = Promise.resolve();

  function say(text) {
    const place = document.getElementById("announcement");
    if (place) place.textContent = text;
  }

  function complain(text) {
    const place = document.getElementById("connection");
    if (place) { place.textContent = text; place.hidden = text === ""; }
  }

  // What is said of a sample, on the page.

  const saidOf = (form) => ({ verdict: form.dataset.verdict || null, note: form.dataset.note || null });

  function show(form, said) {
    form.dataset.verdict = said.verdict || "";
    form.dataset.note = said.note || "";
    for (const button of form.querySelectorAll("button[data-choice]")) {
      const pressed = button.dataset.choice === said.verdict;
      button.setAttribute("aria-pressed", String(pressed));
      button.value = pressed ? "withdrawn" : button.dataset.choice;
    }
    const remark = form.querySelector("small.note");
    if (remark) remark.textContent = said.note || "";
    const area = form.querySelector("textarea");
    if (area && document.activeElement !== area) area.value = said.note || "";
    // Where others speak of the sample too, the server says what counts.
    if (form.dataset.others === "0") count(form, said.verdict || "");
  }

  // What counts of a sample, and how many of the flagged ones are reviewed and disputed.

  function count(form, now) {
    const before = form.dataset.counts;
    form.dataset.counts = now;
    if (!reviewed || !onList || !form.closest("tr").classList.contains("is-flagged")) return;
    const add = (name, by) => { reviewed.dataset[name] = String(Number(reviewed.dataset[name]) + by); return Number(reviewed.dataset[name]); };
    const judged = add("reviewed", Number(Boolean(now)) - Number(Boolean(before)));
    reviewed.querySelector("[data-count]").textContent = judged.toLocaleString("en");
    reviewed.querySelector("progress").value = judged;
    const disputed = add("disputed", Number(now === "disputed") - Number(before === "disputed"));
    const disputes = reviewed.querySelector("[data-disputes]");
    disputes.querySelector("b").textContent = disputed.toLocaleString("en");
    disputes.hidden = disputed === 0;
  }

  function showOutcome(form, verdict) {
    const others = verdict.opinions.filter((one) => (one.user_id ?? one.key_id) !== form.dataset.me).map((one) => one.verdict);
    const own = others.length < verdict.opinions.length;
    form.dataset.others = String(others.length);
    let words = "";
    if (verdict.verdict === "disputed") words = `disputed: others say ${[...new Set(others)].join(", ")}`;
    else if (verdict.settled_by && others.length) words = `settled: ${verdict.verdict}`;
    else if (others.length) words = own ? "others agree" : `${verdict.verdict} by others`;
    form.querySelector(".outcome").textContent = words;
    count(form, verdict.verdict || "");
  }

  async function send(address, said) {
    const options = said.verdict
      ? { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) }
      : { method: "DELETE" };
    const answer = await fetch(address, { ...options, credentials: "same-origin", keepalive: true });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    if (answer.status === 401) throw new Error("You are signed out. Sign in again; this verdict was not kept.");
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || `The server answered ${answer.status}; this verdict was not kept.`);
  }

  // What was said and is not answered yet. It goes one after the other, so that the last key pressed is what is kept.
  const unanswered = new Set();

  function deliver(step) {
    step.answer ??= send(step.address, step.said);
    return step.answer;
  }

  function enqueue(address, said) {
    const step = { address, said, answer: null };
    unanswered.add(step);
    const answered = sending.then(() => deliver(step)).finally(() => unanswered.delete(step));
    sending = answered.catch(() => {});
    return answered;
  }

  // What was said of a sample since is shown already, and has an answer of its own to come.
  const isUnanswered = (address) => [...unanswered].some((step) => step.address === address);

  // Who leaves the page does not wait for answers: what is not sent yet is sent at once, of each sample the last alone.
  window.addEventListener("pagehide", () => {
    const last = new Map([...unanswered].map((step) => [step.address, step]));
    for (const step of unanswered) {
      if (last.get(step.address) === step) deliver(step);
      else step.answer ??= Promise.resolve(null);
    }
  });

  function judge(form, said, { undoable = true } = {}) {
    const before = saidOf(form);
    if (before.verdict === said.verdict && before.note === said.note) return sending;
    show(form, said);
    if (undoable) remember({ address: form.dataset.api, before });
    sending = enqueue(form.dataset.api, said).then(
      async (verdict) => {
        complain("");
        if (!verdict && form.dataset.others !== "0") {
          const answer = await fetch(form.dataset.api, { credentials: "same-origin" });
          verdict = answer.ok ? await answer.json() : null;
        }
        if (verdict && !isUnanswered(form.dataset.api)) showOutcome(form, verdict);
      },
      (error) => {
        if (!isUnanswered(form.dataset.api)) show(form, before);
        complain(error instanceof TypeError ? "No answer from the server; this verdict was not kept." : error.message);
      },
    );
    return sending;
  }

  // Undo reaches over pages of this tab.

  function remembered() {
    try { return JSON.parse(sessionStorage.getItem(UNDO) || "[]"); } catch { return []; }
  }

  function remember(step) {
    sessionStorage.setItem(UNDO, JSON.stringify([...remembered(), step].slice(-MOST_UNDO)));
  }

  async function undo() {
    const steps = remembered();
    const last = steps.pop();
    if (!last) { say("Nothing to undo."); return; }
    sessionStorage.setItem(UNDO, JSON.stringify(steps));
    const form = [...document.querySelectorAll("form.judge")].find((one) => one.dataset.api === last.address);
    if (form) {
      await judge(form, last.before, { undoable: false });
      if (onList) select(form.closest("tr"));
    } else {
      await enqueue(last.address, last.before).then(() => complain(""), (error) => complain(error.message));
    }
    say("Undone.");
  }

  // Where the reviewer is.

  const current = () => document.querySelector("tr.is-current");

  function select(row) {
    if (!row) return;
    for (const old of document.querySelectorAll("tr.is-current")) {
      old.classList.remove("is-current");
      old.removeAttribute("aria-current");
    }
    row.classList.add("is-current");
    row.setAttribute("aria-current", "true");
    row.querySelector("a").focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  }

  async function follow(link) {
    if (!link) { say("This is the last sample."); return; }
    await sending;
    sessionStorage.setItem(GO_ON, "yes");
    location.assign(link.href);
  }

  // Rows judged together with a near-duplicate above them: the next verdict's step passes them by.
  const passed = new Set();

  function move(by, { afterVerdict = false } = {}) {
    if (!onList) { follow(document.querySelector(by > 0 ? ".pages a[rel=next]" : ".pages a[rel=prev]")); return; }
    const all = rows();
    let at = all.indexOf(current());
    do at += by; while (afterVerdict && passed.has(all[at]));
    const next = all[Math.max(at, 0)];
    if (next) select(next);
    else if (by > 0) follow(document.querySelector(".pages a[rel=next]"));
  }

  const formHere = () => (onList ? (current() || rows()[0])?.querySelector("form.judge") : document.querySelector("form.judge"));

  function noteOf(form) {
    const area = form.querySelector("textarea");
    return area ? area.value.trim() || null : form.dataset.note || null;
  }

  function choose(form, choice, withDuplicates) {
    const forms = [form];
    if (withDuplicates && onList) {
      const cluster = form.closest("tr").dataset.cluster;
      forms.push(...rows().filter((row) => row.dataset.cluster === cluster).map((row) => row.querySelector("form.judge")).filter((one) => one !== form));
    }
    for (const one of forms.slice(1)) passed.add(one.closest("tr"));
    for (const one of forms) judge(one, { verdict: choice, note: noteOf(one) });
    say(`${forms.length > 1 ? `${forms.length} samples` : "Sample"} ${choice}.`);
  }

  function writeNote(form) {
    const area = form.querySelector("textarea");
    if (area) { area.focus(); return; }
    const dialog = document.getElementById("note-dialog");
    const text = dialog.querySelector("textarea");
    text.value = form.dataset.note || "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "save") {
        judge(form, { verdict: form.dataset.verdict || "unsure", note: text.value.trim() || null });
      }
      if (onList) select(form.closest("tr"));
    }, { once: true });
    dialog.showModal();
    text.focus();
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("form.judge") || !event.submitter) return;
    event.preventDefault();
    const choice = event.submitter.value;
    judge(form, choice === "withdrawn" ? { verdict: null, note: null } : { verdict: choice, note: noteOf(form) });
    if (onList) select(form.closest("tr"));
  });

  document.addEventListener("click", (event) => {
    const row = event.target.closest?.("tr[data-row]");
    if (row && !event.target.closest("a, button, input, textarea")) select(row);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const digit = /^Digit([123])$/.exec(event.code)?.[1] || (/^[123]$/.test(event.key) ? event.key : null);
    const form = formHere();
    if (digit && form) {
      if (onList && !current()) select(rows()[0]);
      choose(form, CHOICES[digit], event.shiftKey);
      move(1, { afterVerdict: true });
    } else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "n" && form) writeNote(form);
    else if (event.key === "u") undo();
    else if (event.key === "?") document.getElementById("keys-dialog").showModal();
    else if (event.key === "/") document.querySelector("input[type=search]")?.focus();
    else return;
    event.preventDefault();
  });

  if (sessionStorage.getItem(GO_ON)) {
    sessionStorage.removeItem(GO_ON);
    if (onList) select(rows()[0]);
  }
})();
