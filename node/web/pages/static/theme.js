// Runs before the first paint: use the colours last chosen in this browser, else those of the system.
(() => {
  "use strict";
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* storage is disabled */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
