// Shared by all pages: colours, local times, keys, clickable rows.
(() => {
  "use strict";

  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // Light or dark.
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  byId("theme")?.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`; // pages come in it
    byId("announcer").textContent = `${root.dataset.theme} colours`;
  });

  // On a narrow screen, menus are wider than it: the page that is open is in sight.
  for (const here of document.querySelectorAll(".top [aria-current], .tabs [aria-current]")) {
    const menu = here.closest("nav"), { left, width } = here.getBoundingClientRect();
    menu.scrollLeft += left + width / 2 - menu.getBoundingClientRect().left - menu.clientWidth / 2;
  }

  // Times in the time zone of this computer, and countdowns.
  const two = (number) => String(number).padStart(2, "0");
  const showMoment = (time) => {
    const at = new Date(time.dateTime), now = new Date();
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    const isToday = at.toDateString() === now.toDateString(), isShort = time.closest(".studies");
    time.textContent = isToday ? `today ${isShort ? clock.slice(0, 5) : clock}` : isShort ? day : `${day} ${clock.slice(0, 5)}`;
    time.title = `${day} ${clock}, local time`;
  };
  const showCountdown = (time) => {
    const seconds = Math.round((new Date(time.dateTime) - Date.now()) / 1000);
    const words = seconds <= 0 ? "now" : seconds < 100 ? `in ${seconds} s` : `in ${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
    if (time.textContent !== words) time.textContent = words;
  };
  const showTimes = (within) => {
    within.querySelectorAll("time[data-moment]").forEach(showMoment);
    within.querySelectorAll("time[data-countdown]").forEach(showCountdown);
  };
  showTimes(document);
  document.addEventListener("htmx:load", (event) => showTimes(event.detail.elt));
  setInterval(() => document.querySelectorAll("time[data-countdown]").forEach(showCountdown), 1000);

  // A picture is loaded when its row is seen; browsers by themselves load far ahead. Beside a viewer, pictures wait until
  // it shows something: a browser has six connections, and the volume needs one.
  const viewer = byId("viewer");
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      target.src = target.dataset.picture;
      seen.unobserve(target);
    }
  });
  // What is being made shows that it is, until it is here.
  const watchPending = (within) => {
    for (const one of within.querySelectorAll?.("main img:not([data-pending])") || []) {
      if (one.complete && one.src) continue;
      one.dataset.pending = "";
      for (const name of ["load", "error"]) one.addEventListener(name, () => delete one.dataset.pending, { once: true });
    }
  };
  const watchPictures = (within) => {
    watchPending(within);
    if (viewer && !("settled" in viewer.dataset)) return;
    within.querySelectorAll?.("img[data-picture]:not([src])").forEach((one) => seen.observe(one));
  };
  watchPictures(document);
  viewer?.addEventListener("settled", () => watchPictures(document));
  document.addEventListener("htmx:load", (event) => watchPictures(event.detail.elt));

  // The series of a study below its row. htmx sends one request of an element at a time, so each button is the source of
  // its own. A row that was replaced while they were asked for gets nothing below it; the row in its place asks again.
  // Who opens, closes and opens again asks twice: the first answer is shown.
  const place = history.state?.place; // where somebody was who comes back
  const openSeries = new Set(place?.open);
  const isBelow = (row) => row.nextElementSibling?.classList.contains("expansion");
  const swapOnce = (event) => {
    const row = event.currentTarget, isOfSeries = event.detail.requestConfig?.elt.matches("button.expand");
    if (isOfSeries && (!row.isConnected || isBelow(row))) event.preventDefault();
  };
  const expand = (button, isOpen) => {
    const row = button.closest("tr");
    button.setAttribute("aria-expanded", String(isOpen));
    if (isBelow(row)) row.nextElementSibling.hidden = !isOpen;
    else if (isOpen) {
      row.addEventListener("htmx:beforeSwap", swapOnce);
      htmx.ajax("GET", button.dataset.series, { source: button, target: row, swap: "afterend" })
        .catch(() => expand(button, false)); // what went wrong is announced below
    }
    if (isOpen) openSeries.add(button.dataset.series); else openSeries.delete(button.dataset.series);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.expand");
    if (button) expand(button, button.getAttribute("aria-expanded") !== "true");
  });
  document.addEventListener("htmx:load", (event) => {
    const { elt } = event.detail;
    if (elt.matches?.("tr.expansion")) elt.hidden = elt.previousElementSibling.querySelector("button.expand").getAttribute("aria-expanded") !== "true";
    for (const button of elt.querySelectorAll?.("button.expand") || []) {
      if (openSeries.has(button.dataset.series)) expand(button, true);
    }
  });

  // Whoever comes back finds the place again: as many rows, the same series open, as far down. It is kept with the entry
  // of the history, before a click may leave the page.
  const countRows = () => document.querySelectorAll("#rows > tr:not(.expansion, .more, .nothing)").length;
  const keepPlace = () => history.replaceState({ ...history.state, place: { y: scrollY, rows: countRows(), open: [...openSeries] } }, "");
  let isComingBack = Boolean(place), kept = 0;
  const comeBack = (event) => {
    const isOfPage = event.type !== "htmx:load" || event.detail.elt === document.body;
    if (!isComingBack || (isOfPage && byId("filters") && location.hash)) return; // the rows that fit the filters are asked for
    const more = document.querySelector("#rows .more button");
    if (more && countRows() < place.rows) { more.click(); return; }
    requestAnimationFrame(() => scrollTo(0, place.y)); // and again when the series above have opened
    setTimeout(() => { isComingBack = false; }, 2000);
  };
  document.addEventListener("htmx:load", comeBack);
  addEventListener("load", comeBack);
  for (const name of ["wheel", "touchstart", "keydown"]) addEventListener(name, () => { isComingBack = false; }, { passive: true });
  document.addEventListener("click", keepPlace, true);
  addEventListener("scroll", () => { clearTimeout(kept); kept = setTimeout(() => { if (!isComingBack) keepPlace(); }, 200); }, { passive: true });

  // A hidden page polls nothing.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const isPolling = (event.detail.elt.getAttribute("hx-trigger") || "").includes("every");
    if (isPolling && document.hidden) event.preventDefault();
  });

  // Announce once when the node stops answering, and once when it answers again. The top of the page shows what is wrong
  // until something is answered.
  let isLost = false;
  const announce = (words) => { const announcer = byId("announcer"); if (announcer) announcer.textContent = words; };
  const showTrouble = (words) => { document.querySelector(".top").dataset.trouble = words; };
  document.addEventListener("htmx:sendError", () => {
    if (!isLost) announce("The node does not answer. Retrying.");
    isLost = true;
    showTrouble("The node does not answer");
  });
  document.addEventListener("htmx:afterOnLoad", (event) => {
    if (isLost) announce("The node answers again.");
    isLost = false;
    if (event.detail.successful) showTrouble("");
  });

  // On 404 a row of a list goes, and a page says itself that its object is gone; other errors are announced here.
  document.addEventListener("htmx:responseError", (event) => {
    const { elt, xhr: { status } } = event.detail;
    if (status === 404) {
      const row = elt.closest("#rows > tr, #stored-rows > tr");
      if (row && isBelow(row)) row.nextElementSibling.remove();
      if (row) row.remove();
      else if (elt.isConnected) location.reload();
    } else if (status !== 401) {
      announce(`The node answered with HTTP status ${status}.`);
      showTrouble(`HTTP status ${status}`);
    }
    if (elt.matches("button.expand")) expand(elt, false);
  });

  // A part of a page that is loaded once can be asked for again if that failed.
  const offerAgain = (event) => {
    const { elt, target } = event.detail;
    if (!target?.matches(".loaded")) return;
    const button = document.createElement("button");
    button.textContent = "Not loaded. Try again";
    button.addEventListener("click", () => htmx.ajax("GET", elt.getAttribute("hx-get"), { source: elt, target }).catch(() => {}));
    target.replaceChildren(button);
  };
  document.addEventListener("htmx:sendError", offerAgain);
  document.addEventListener("htmx:responseError", offerAgain);

  // A second click while the answer to the first is on its way would do an action twice. The page stays if the answer is
  // a file, so it does not wait for ever.
  const REPEAT_MS = 3000;
  const sentAt = new WeakMap();
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    const by = event.submitter || event.target;
    if (event.timeStamp < sentAt.get(by) + REPEAT_MS) event.preventDefault();
    else sentAt.set(by, event.timeStamp);
  });

  // A converted series has a volume now: reload its page, or offer that to those who look at something else.
  const OLDER_REVISION = "#revisions ~ details.revision ~ details.revision[open]";
  document.addEventListener("htmx:afterSwap", (event) => {
    const state = event.detail.target;
    if (state.id !== "state" || byId("state").hasAttribute("data-open")) return;
    const isChosen = byId("volume") && byId("volume").selectedIndex > 0;
    if (!isChosen && !document.querySelector(OLDER_REVISION)) return location.reload();
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Show the new revision";
    button.addEventListener("click", () => location.reload());
    byId("state").append(button);
    announce("The series was converted.");
  });

  // A list that nobody is reading updates automatically; otherwise a button offers the update. Wait until htmx has
  // processed the button; before that, a click does nothing.
  document.addEventListener("htmx:load", (event) => {
    const news = event.detail.elt.querySelector("#news button");
    if (!news) return;
    if (!byId("rows")) location.reload();
    else if (scrollY < 40 && !document.activeElement.closest("#rows, #filters")) news.click();
    else announce(news.textContent);
  });

  // A click anywhere in a row or card opens it; keyboards and screen readers use its link.
  const links = () => [...document.querySelectorAll("[data-rows] th.name a, [data-rows] [data-row] h2 a, .rail a")];
  document.addEventListener("click", (event) => {
    const row = event.target.closest("[data-rows] tbody tr");
    if (!row || event.target.closest("a, button, input, select, label, summary, .pick, .expansion") || String(getSelection())) return;
    row.querySelector("th.name a")?.click();
  });

  // A panel closes by a click elsewhere, and by Escape.
  const closePanels = (but) => document.querySelectorAll("details.popover[open]").forEach((one) => { if (one !== but) one.open = false; });
  document.addEventListener("click", (event) => closePanels(event.target.closest("a") ? null : event.target.closest("details.popover")));
  // What is typed next belongs into the field of the panel, not to the keys of the page.
  document.addEventListener("toggle", (event) => {
    if (event.target.matches("details.popover[open]")) event.target.querySelector(":is(input:not([type]), textarea)")?.focus();
  }, true);
  document.addEventListener("keydown", (event) => {
    const panel = event.key === "Escape" && event.target.closest?.("details.popover[open]");
    if (!panel) return;
    panel.open = false;
    panel.querySelector("summary").focus();
  });

  // Keys.
  const isTyping = (target) => target.closest("input, select, textarea, [contenteditable], canvas, dialog");
  const move = (step) => {
    const all = links();
    if (!all.length) return;
    const here = all.indexOf(document.activeElement);
    const next = here < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + step, 0), all.length - 1);
    all[next].focus();
    all[next].closest("tr, [data-row]")?.scrollIntoView({ block: "nearest" });
  };
  let isGoing = false;
  const onKey = {
    "/": () => (document.querySelector("[data-find]") || document.querySelector("input[type=search]"))?.focus(),
    "?": () => byId("keys").showModal(),
    g: () => { isGoing = true; setTimeout(() => { isGoing = false; }, 1500); },
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const filters = byId("filters");
    if (event.key === "Escape" && filters && filters.contains(event.target)) {
      filters.reset();
      event.target.blur();
      return;
    }
    if (isTyping(event.target)) {
      if (event.key === "ArrowDown" && event.target.matches("[data-find]")) { event.preventDefault(); move(1); }
      return;
    }
    const place = isGoing && document.querySelector(`.top nav a[data-key="${CSS.escape(event.key)}"]`); // if the menu has it
    if (place) { place.click(); return; }
    if (!onKey[event.key]) return;
    if (event.key.startsWith("Arrow") && !links().length) return;
    event.preventDefault();
    onKey[event.key]();
  });
  byId("show-keys")?.addEventListener("click", () => byId("keys").showModal());

  // Filter a table that is loaded completely.
  document.addEventListener("input", (event) => {
    const name = event.target.dataset?.search;
    if (!name) return;
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const row of byId(name).rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      found += row.hidden ? 0 : 1;
    }
    announce(`${found} rows`);
  });
})();
