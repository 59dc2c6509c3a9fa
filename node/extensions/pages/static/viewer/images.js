// The images of a series without a volume, one by one, as the node renders their frames. One is asked for at a time: who
// drags over hundreds waits for none but the last.
(() => {
  "use strict";

  const stage = document.getElementById("images"), picture = stage.querySelector("img"), veil = stage.querySelector(".veil");
  const chosen = document.getElementById("image-chosen"), slider = chosen.querySelector("input"), words = chosen.querySelector("output");
  const frames = JSON.parse(stage.dataset.images).flatMap(([uid, count], image) => Array.from({ length: count }, (_, at) => ({
    url: `${stage.dataset.url}/instances/${uid}/frames/${at + 1}/rendered`, image: image + 1, frame: count > 1 ? `, frame ${at + 1} of ${count}` : "",
  })));
  const images = frames.at(-1).image;
  let asked = -1;

  const show = () => {
    const wanted = Number(slider.value) - 1, { url, image, frame } = frames[wanted];
    words.textContent = `Image ${image} of ${images}${frame}`;
    slider.setAttribute("aria-valuetext", words.textContent);
    for (const button of chosen.querySelectorAll("button")) button.disabled = !frames[wanted + Number(button.dataset.step)];
    if (asked >= 0) return;
    asked = wanted;
    picture.src = url;
  };
  const settle = (problem) => {
    const shown = asked;
    asked = -1;
    veil.textContent = problem;
    picture.alt = problem || `Image ${frames[shown].image} of ${images}${frames[shown].frame}`;
    picture.style.visibility = problem ? "hidden" : "visible";
    if (shown !== Number(slider.value) - 1) show();
  };
  const step = (by) => { slider.value = Number(slider.value) + by; show(); };

  picture.addEventListener("load", () => settle(""));
  picture.addEventListener("error", () => settle("The node cannot render this image. Its pixels may be damaged, or of an encoding without a decoder."));
  slider.max = frames.length;
  slider.addEventListener("input", show);
  chosen.addEventListener("click", (event) => { if (event.target.dataset.step) step(Number(event.target.dataset.step)); });
  chosen.hidden = frames.length < 2;
  if (!chosen.hidden) stage.addEventListener("wheel", (event) => { event.preventDefault(); step(Math.sign(event.deltaY)); }, { passive: false });
  show();
})();
