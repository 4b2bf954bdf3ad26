// Only comforts: every page can be read, searched and used without this file.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  if (remembered()) root.dataset.theme = remembered();

  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.querySelector(".theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a browser that remembers nothing */ }
  });

  // Copy buttons.
  for (const box of document.querySelectorAll("[data-copy]")) {
    const text = box.textContent.trim();
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy " + text.slice(0, 60));
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
      catch { const range = document.createRange(); range.selectNodeContents(box); const s = getSelection(); s.removeAllRanges(); s.addRange(range); button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    if (box.tagName === "PRE") box.prepend(button); else box.after(button);
  }

  // Search as you type: the same page, only its results are put in.
  const search = document.getElementById("search");
  const main = document.getElementById("main");
  let asked = 0;
  const find = async () => {
    const mine = ++asked;
    const address = "/ui/" + (search.value.trim() ? "?q=" + encodeURIComponent(search.value.trim()) : "");
    const answer = await fetch(address, { headers: { Accept: "text/html" } }).catch(() => null);
    if (!answer || !answer.ok || mine !== asked) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const results = page.getElementById("results");
    if (!results || mine !== asked) return;
    main.replaceChildren(document.adoptNode(results));
    document.title = page.title;
    if (location.pathname === "/ui/") history.replaceState(null, "", address); else history.pushState(null, "", address);
  };
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 90); });
  addEventListener("popstate", () => location.reload());

  // Keys.
  const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.checkVisibility ? row.checkVisibility() : row.offsetParent);
  const move = (step) => {
    const all = rows();
    const at = all.indexOf(document.activeElement);
    const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  };
  const fold = (open) => {
    const here = document.activeElement;
    if (here && here.tagName === "SUMMARY") { here.parentElement.open = open; return true; }
    if (!open && here && here.matches(".tree a")) { const up = here.closest("details"); if (up) { up.querySelector("summary").focus(); return true; } }
    return false;
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "Escape" && event.target === search) { search.blur(); return; }
    if (event.key === "ArrowDown" && event.target === search) { event.preventDefault(); move(1); return; }
    if (typing) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); search.select(); }
    else if (event.key === "?") document.getElementById("keys").showModal();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") { if (rows().length) { event.preventDefault(); move(event.key === "ArrowDown" ? 1 : -1); } }
    else if ((event.key === "ArrowRight" && fold(true)) || (event.key === "ArrowLeft" && fold(false))) event.preventDefault();
  });

  // Two tags are compared, so the third tick takes the first away.
  const compare = document.getElementById("compare");
  if (compare) {
    const ticked = [];
    const button = compare.querySelector(".under button");
    const tell = () => { button.disabled = ticked.length !== 2; };
    compare.addEventListener("change", (event) => {
      const box = event.target;
      if (box.checked) ticked.push(box); else ticked.splice(ticked.indexOf(box), 1);
      if (ticked.length > 2) ticked.shift().checked = false;
      tell();
    });
    for (const box of compare.querySelectorAll("input:checked")) ticked.push(box);
    tell();
  }

  // A scan under way: ask again until it has ended.
  if (document.querySelector("[data-progress]")) setTimeout(() => location.reload(), 2000);
})();
