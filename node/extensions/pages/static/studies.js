// The list of studies: filters that survive a reload, days, orders, columns, series below their study.
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const filters = byId("filters");
  if (!filters) return;
  const table = document.querySelector("table.studies");
  const field = (name) => filters.elements[name];
  const search = () => filters.dispatchEvent(new Event("submit", { cancelable: true }));
  const isSorter = (one) => one.name === "order" || one.name === "reverse";

  // Filters are kept behind the # of the address: they may name patients, and this part is never sent to a server.
  const fields = [...filters.elements].filter((one) => one.name);
  const usual = (one) => one.dataset.usual ?? (one.tagName === "SELECT" ? one.options[0].value : "");
  const keep = () => {
    const set = new URLSearchParams();
    for (const one of fields) {
      if (one.type === "checkbox" ? one.checked : one.value && one.value !== usual(one)) set.append(one.name, one.value);
    }
    history.replaceState(history.state, "", set.size ? `#${set}` : location.pathname);
    showDays();
    showOrder();
  };
  const kept = new URLSearchParams(location.hash.slice(1));
  filters.addEventListener("input", keep);
  filters.addEventListener("submit", keep);
  filters.addEventListener("reset", () => setTimeout(() => {
    for (const one of fields.filter(isSorter)) one.value = one.dataset.usual; // a reset leaves hidden fields alone
    keep();
  }, 0));

  // Days in the time zone of this computer.
  const day = (back) => {
    const at = new Date();
    at.setDate(at.getDate() - back);
    return `${at.getFullYear()}-${String(at.getMonth() + 1).padStart(2, "0")}-${String(at.getDate()).padStart(2, "0")}`;
  };
  const days = [...filters.querySelectorAll("[data-days]")];
  const bounds = (button) => [day(Number(button.dataset.back) + Number(button.dataset.days)), day(Number(button.dataset.back))];
  const isShown = (button) => bounds(button).join() === `${field("first_date").value},${field("last_date").value}`;
  function showDays() {
    for (const button of days) button.setAttribute("aria-pressed", String(isShown(button)));
  }
  for (const button of days) {
    button.addEventListener("click", () => {
      [field("first_date").value, field("last_date").value] = isShown(button) ? ["", ""] : bounds(button);
      search();
    });
  }

  // Orders: a header chooses its own, and turns it round if it is chosen.
  const sorters = [...table.querySelectorAll("[data-order]")];
  function showOrder() {
    const isByTime = ["received", "date"].includes(field("order").value), isReversed = Boolean(field("reverse").value);
    for (const sorter of sorters) {
      const header = sorter.closest("th");
      if (sorter.dataset.order !== field("order").value) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", isByTime === isReversed ? "ascending" : "descending");
    }
  }
  for (const sorter of sorters) {
    sorter.addEventListener("click", () => {
      const isChosen = field("order").value === sorter.dataset.order;
      field("reverse").value = isChosen && !field("reverse").value ? "on" : "";
      field("order").value = sorter.dataset.order;
      search();
    });
  }

  // Columns that this browser leaves out.
  const COLUMNS = "columns left out";
  const boxes = [...byId("columns").querySelectorAll("input")];
  let out = [];
  try { out = JSON.parse(localStorage.getItem(COLUMNS)) || []; } catch { /* storage is disabled, or holds something else */ }
  const showColumns = () => {
    for (const box of boxes) table.classList.toggle(`no-${box.value}`, !box.checked);
    spanColumns();
  };
  // Rows of one cell span the columns that are there: one more would take a share of the width.
  function spanColumns() {
    const count = [...table.tHead.rows[0].cells].filter((cell) => cell.offsetWidth > 0).length;
    for (const cell of table.querySelectorAll("tbody > tr > td[colspan]")) cell.colSpan = count || cell.colSpan;
  }
  document.addEventListener("htmx:load", spanColumns);
  addEventListener("resize", spanColumns);
  for (const box of boxes) {
    box.checked = !out.includes(box.value);
    box.addEventListener("input", (event) => {
      event.stopPropagation(); // it is no filter
      showColumns();
      const left = boxes.filter((one) => !one.checked).map((one) => one.value);
      try { localStorage.setItem(COLUMNS, JSON.stringify(left)); } catch { /* then the choice lasts until the page is left */ }
    });
  }
  showColumns();

  // A search that was not answered is sent again as soon as the node answers anything: the rows are not those that the
  // fields say.
  let isStale = false;
  for (const name of ["htmx:sendError", "htmx:responseError"]) {
    document.addEventListener(name, (event) => { isStale ||= event.detail.elt === filters; });
  }
  document.addEventListener("htmx:afterOnLoad", (event) => {
    if (!isStale || !event.detail.successful) return;
    isStale = false;
    if (event.detail.elt !== filters) search();
  });

  // A form of its own, which htmx does not send.
  byId("csv").addEventListener("click", () => {
    const form = document.createElement("form");
    form.method = "post";
    form.action = byId("csv").dataset.action;
    for (const [name, value] of new FormData(filters)) {
      const input = document.createElement("input");
      input.type = "hidden";
      input.name = name;
      input.value = value;
      form.append(input);
    }
    document.body.append(form);
    form.submit();
    form.remove();
  });

  // On a telephone, filters that are set are shown.
  byId("unfold").checked = fields.some((one) => one.name !== "words" && !isSorter(one) && kept.has(one.name));

  if (kept.size) {
    for (const one of fields) {
      if (one.type === "checkbox") one.checked = kept.getAll(one.name).includes(one.value);
      else if (kept.has(one.name)) one.value = kept.get(one.name);
    }
    document.addEventListener("htmx:load", () => search(), { once: true });
  }
  showDays();
  showOrder();
})();
