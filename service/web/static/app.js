// Keeps a page that shows something running up to date, and the words that say how long ago something was. A page with
// a stream is sent to us whenever it changes; any other one, and one whose stream is refused, is fetched now and then.
// What comes was rendered and escaped by our own server, and is parsed without running anything.
"use strict";

(() => {
  const EVERY_MS = 2000;
  const SLOWEST_MS = 30000;
  const AGES_MS = 20000;
  const SIGNED_OUT = "You are signed out. Sign in again to see further progress.";
  let delay = EVERY_MS;
  let timer = 0;
  let stream = null;
  let polls = false;

  const live = () => document.querySelector("[data-live]");

  function say(id, text) {
    const place = document.getElementById(id);
    if (place && place.textContent !== text) {
      place.textContent = text;
      if (id === "connection") place.hidden = text === "";
    }
  }

  // Puts the new page in place of the old one, node by node: what is the same stays, with its focus, scrolling and
  // pictures, and details stay as the reader has left them.

  const keyOf = (node) => node.id || node.getAttribute?.("aria-labelledby") || "";

  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) { old.replaceWith(fresh); return; }
    if (old.nodeType !== Node.ELEMENT_NODE) { old.data = fresh.data; return; }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.matches("details"))) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const keys = new Set([...fresh.children].map(keyOf).filter(Boolean));
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      while (at && keyOf(at) && !keys.has(keyOf(at))) {
        const gone = at;
        at = at.nextSibling;
        gone.remove();
      }
      const found = keyOf(child) && [...old.children].find((one) => keyOf(one) === keyOf(child));
      if (found) {
        if (found === at) at = at.nextSibling;
        else old.insertBefore(found, at);
        morph(found, child);
      } else if (at && at.nodeName === child.nodeName && !keyOf(at)) {
        const next = at.nextSibling;
        morph(at, child);
        at = next;
      } else {
        old.insertBefore(child, at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  function adopt(html) {
    const old = live();
    const fresh = old && new DOMParser().parseFromString(html, "text/html").getElementById(old.id);
    if (!fresh) throw new Error("no live part");
    morph(old, document.adoptNode(fresh));
    if (old.dataset.announcement) say("announcement", old.dataset.announcement);
    say("connection", "");
  }

  // By polling.

  async function refresh() {
    const shown = live();
    if (!shown) return;
    try {
      const answer = await fetch(shown.dataset.live, {
        credentials: "same-origin",
        headers: { Accept: "text/html" },
        cache: "no-store",
        signal: AbortSignal.timeout(10000),
      });
      if (answer.status === 401) { say("connection", SIGNED_OUT); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      adopt(await answer.text());
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

  // By the stream. The browser comes back to one that breaks off, and says what it has seen last.

  function stop() {
    stream?.close();
    stream = null;
  }

  function listen() {
    const address = live()?.dataset.stream;
    if (!address || stream) return;
    stream = new EventSource(address);
    stream.addEventListener("open", () => say("connection", ""));
    stream.addEventListener("page", (event) => adopt(JSON.parse(event.data)));
    stream.addEventListener("end", stop);
    stream.addEventListener("signed-out", () => { stop(); say("connection", SIGNED_OUT); });
    stream.addEventListener("error", () => {
      if (stream.readyState === EventSource.CLOSED) {
        // Refused, as where too many wait already. A fetch learns why.
        stop();
        polls = true;
        refresh();
      } else {
        say("connection", "No answer from the server; the connection is being made again.");
      }
    });
  }

  // A browser without a network keeps the stream's connection for minutes before it notices.
  addEventListener("offline", () => {
    stop();
    clearTimeout(timer);
    if (live()) say("connection", "No answer from the server: this computer is offline.");
  });
  addEventListener("online", () => { say("connection", ""); begin(); });

  function begin() {
    if (!polls && live()?.dataset.stream && "EventSource" in window) listen();
    else plan();
  }

  document.addEventListener("visibilitychange", () => {
    delay = EVERY_MS;
    clearTimeout(timer);
    // A hidden page holds no place among the waiting requests.
    if (document.hidden) stop();
    else if (polls || !live()?.dataset.stream) refresh();
    else listen();
  });

  // How long ago it was, in the words of the server's wording.ago.

  function ago(then, now) {
    const minutes = Math.round(Math.abs(now - then) / 60000);
    const [hours, days] = [Math.round(minutes / 60), Math.round(minutes / 1440)];
    if (minutes === 0) return now >= then ? "just now" : "in a moment";
    if (days > 30) return then.toISOString().slice(0, 10);
    const [count, unit] = minutes < 60 ? [minutes, "minute"] : hours < 24 ? [hours, "hour"] : [days, "day"];
    const words = `${count} ${unit}${count === 1 ? "" : "s"}`;
    return now > then ? `${words} ago` : `in ${words}`;
  }

  setInterval(() => {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const words = ago(new Date(time.dateTime), new Date());
      if (time.textContent !== words) time.textContent = words;
    }
  }, AGES_MS);

  begin();
})();
