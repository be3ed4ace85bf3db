// Keeps a page that shows something running up to date: fetches the same page again and puts its live part in place
// of the old one. What is fetched was rendered and escaped by our own server, and is parsed without running anything.
"use strict";

(() => {
  const EVERY_MS = 2000;
  const SLOWEST_MS = 30000;
  let delay = EVERY_MS;
  let timer = 0;

  const live = () => document.querySelector("[data-live]");

  function say(id, text) {
    const place = document.getElementById(id);
    if (place && place.textContent !== text) {
      place.textContent = text;
      if (id === "connection") place.hidden = text === "";
    }
  }

  function adopt(old, fresh) {
    const opened = [...old.querySelectorAll("details")].map((details) => details.open);
    const focused = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
    fresh.querySelectorAll("details").forEach((details, i) => { details.open = Boolean(opened[i]); });
    old.replaceWith(fresh);
    if (focused) {
      [...fresh.querySelectorAll("a[href]")].find((a) => a.getAttribute("href") === focused)?.focus({ preventScroll: true });
    }
    if (fresh.dataset.announcement) say("announcement", fresh.dataset.announcement);
  }

  async function refresh() {
    const old = live();
    if (!old) return;
    let answer;
    try {
      answer = await fetch(old.dataset.live, {
        credentials: "same-origin",
        headers: { Accept: "text/html" },
        cache: "no-store",
        signal: AbortSignal.timeout(10000),
      });
      if (answer.status === 401) {
        say("connection", "You are signed out. Open a new sign-in link to see how it goes on.");
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(old.id);
      if (!fresh) throw new Error("no live part");
      if (!old.isEqualNode(fresh)) adopt(old, document.adoptNode(fresh));
      say("connection", "");
      delay = EVERY_MS;
    } catch {
      delay = Math.min(delay * 2, SLOWEST_MS);
      say("connection", `No answer from the server; trying again in ${Math.round(delay / 1000)} s.`);
    }
    plan();
  }

  function plan() {
    clearTimeout(timer);
    if (live() && !document.hidden) timer = setTimeout(refresh, delay);
  }

  document.addEventListener("visibilitychange", () => {
    delay = EVERY_MS;
    clearTimeout(timer);
    if (!document.hidden) refresh();
  });

  plan();
})();
