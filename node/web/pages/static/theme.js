// Before the first paint: light or dark as this browser was told last, else as its system is.
(() => {
  "use strict";
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* a browser that keeps nothing */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
