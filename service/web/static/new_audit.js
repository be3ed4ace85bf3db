// The form of a new audit: adds fields for an item without asking the server, and starts an audit but once.
"use strict";

(() => {
  const items = document.getElementById("items");
  const add = document.getElementById("add-item");
  const form = document.getElementById("audit-form");
  if (!items || !add || !form) return;

  add.textContent = "Add an item";
  add.addEventListener("click", (event) => {
    event.preventDefault();
    if (items.children.length >= Number(items.dataset.most)) {
      add.textContent = "That is as many as fit here; paste further ones below";
      return;
    }
    const last = items.lastElementChild;
    const number = Number(last.querySelector("textarea").name.split(".")[1]) + 1;
    const fresh = last.cloneNode(true);
    fresh.querySelectorAll(".error").forEach((error) => error.remove());
    fresh.querySelectorAll(".item-number").forEach((place) => { place.textContent = String(items.children.length + 1); });
    fresh.querySelectorAll("textarea").forEach((field) => {
      field.name = field.name.replace(/\.\d+\./, `.${number}.`);
      field.value = "";
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    });
    items.append(fresh);
    fresh.querySelector("textarea").focus();
  });

  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  // Who comes back by the browser's button finds the page as it was left.
  window.addEventListener("pageshow", () => { sent = false; });
})();
