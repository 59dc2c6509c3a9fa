// Rows that are selected, of the list of studies or of the series of a study, and what is done with them. The form
// `#selected` names the boxes (data-boxes), a row in words (data-noun), and the form that loads the list again (data-list).
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const selected = byId("selected");
  if (!selected) return;
  const { boxes, noun, list } = selected.dataset;
  const refresh = () => byId(list).dispatchEvent(new Event("submit", { cancelable: true }));

  // The selection outlives new rows: it is that of the studies or series, not of their boxes.
  const chosen = new Set();
  const selector = `[data-rows] input[name=${boxes}]`;
  const picks = () => [...document.querySelectorAll(selector)];
  const showSelection = () => {
    for (const pick of picks()) pick.checked = chosen.has(pick.value);
    const shown = picks().filter((pick) => pick.checked).length;
    const hidden = chosen.size - shown, all = byId("select-all");
    if (all) {
      all.checked = shown > 0 && shown === picks().length;
      all.indeterminate = shown > 0 && shown < picks().length;
    }
    selected.hidden = !chosen.size;
    byId("selected-count").textContent = chosen.size ? `${chosen.size} selected${hidden ? `, ${hidden} of them not shown` : ""}` : "";
  };
  const choose = (uids, isChosen) => {
    for (const uid of uids) if (isChosen) chosen.add(uid); else chosen.delete(uid);
    showSelection();
  };
  let last = null; // a value, since rows are replaced
  document.addEventListener("click", (event) => {
    const pick = event.target.closest(selector);
    if (!pick) return;
    const all = picks(), here = all.indexOf(pick);
    const from = event.shiftKey ? all.findIndex((one) => one.value === last) : here;
    const range = all.slice(Math.min(here, from < 0 ? here : from), Math.max(here, from) + 1);
    choose(range.map((one) => one.value), pick.checked);
    last = pick.value;
  });
  document.addEventListener("change", (event) => {
    if (event.target.id === "select-all") choose(picks().map((pick) => pick.value), event.target.checked);
  });
  byId("select-none").addEventListener("click", () => choose([...chosen], false));
  // Those that are not shown are sent, too.
  selected.addEventListener("formdata", (event) => {
    event.formData.delete(boxes);
    for (const uid of chosen) event.formData.append(boxes, uid);
  });
  selected.addEventListener("submit", async (event) => {
    const button = event.submitter;
    if (!button || button.dataset.quiet === undefined) return;
    event.preventDefault();
    const uids = [...chosen], body = new URLSearchParams(new FormData(selected));
    button.disabled = true;
    let trouble = "";
    try {
      // As htmx asks, so that a session that is over is no redirect, as that of an action that was done.
      const answer = await fetch(button.formAction, { method: "POST", body, redirect: "manual", headers: { "HX-Request": "true" } });
      if (answer.status === 401) location.href = "/login";
      if (answer.type !== "opaqueredirect") trouble = `The node answered with HTTP status ${answer.status}: nothing was done`;
    } catch {
      trouble = "The node does not answer: it may not have been done";
    }
    button.disabled = false;
    if (!trouble) choose(uids, false);
    else byId("selected-count").textContent = trouble;
    byId("announcer").textContent = trouble || `${uids.length} ${noun} ${button.dataset.quiet}`;
    if (!trouble) refresh();
  });

  document.addEventListener("htmx:load", showSelection);
})();
