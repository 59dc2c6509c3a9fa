// The volume viewer of a series: NiiVue, with the usual windows of the modality.
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const box = byId("viewer"), canvas = byId("canvas"), veil = byId("veil");
  const picker = byId("volume"), windows = byId("window"), colours = byId("colours"), frame = byId("frame");

  const ASKED_FROM_BYTES = 400e6; // larger files are loaded on request

  // Centre and width, in the unit of the volume.
  const PRESETS = {
    CT: [["Brain", 40, 80], ["Stroke", 35, 35], ["Subdural", 75, 215], ["Soft tissue", 40, 400], ["Liver", 70, 150],
      ["Lung", -600, 1500], ["Bone", 400, 1800], ["Temporal bone", 600, 3000], ["Angiography", 300, 600]],
    PT: [["SUV 0 to 5", 2.5, 5], ["SUV 0 to 10", 5, 10]],
  };

  const say = (words) => { veil.textContent = words; veil.hidden = !words; };
  const chosen = () => picker.selectedOptions[0];
  let viewer = null;

  const readable = (number) => Math.abs(number) >= 100 ? number.toFixed(0) : Number(number.toPrecision(4)).toString();

  function showPlace(place) {
    // NiiVue uses RAS+; radiology uses LPS+
    const [right, anterior, superior] = place.mm;
    const side = (number, positive, negative) => `${Math.abs(number).toFixed(1)} ${number < 0 ? negative : positive}`;
    const values = place.values.map((one) => readable(one.value)).join(", ");
    byId("place").textContent = `${side(right, "R", "L")}  ${side(anterior, "A", "P")}  ${side(superior, "S", "I")} mm · voxel ${place.vox.map(Math.round).join(", ")} · value ${values}`;
  }

  function showLevels() {
    const volume = viewer.volumes[0];
    if (!volume) return;
    const centre = (volume.cal_min + volume.cal_max) / 2, width = volume.cal_max - volume.cal_min;
    byId("levels").textContent = `C ${readable(centre)}  W ${readable(width)}`;
  }

  function offerWindows(volume) {
    const modality = chosen().dataset.kind === "mask" ? "" : box.dataset.modality;
    const presets = (PRESETS[modality] || []).filter(([name]) => !name.startsWith("SUV") || picker.value.includes("_suv"));
    const offered = [["Automatic", volume.robust_min, volume.robust_max], ["Whole range", volume.global_min, volume.global_max],
      ...presets.map(([name, centre, width]) => [name, centre - width / 2, centre + width / 2])];
    windows.replaceChildren(...offered.map(([name, low, high]) => {
      const option = new Option(name, name);
      option.dataset.low = low;
      option.dataset.high = high;
      return option;
    }));
    if (modality === "CT") windows.value = /HEAD|BRAIN|SKULL/i.test(box.dataset.body) ? "Brain" : "Soft tissue";
    const { low, high } = windows.selectedOptions[0].dataset;
    if (volume.robust_max <= low || volume.robust_min >= high) windows.value = "Automatic"; // the picture would be uniformly grey
    windows.dataset.usual = windows.value;
    windows.disabled = false;
  }

  function applyWindow() {
    const volume = viewer.volumes[0], window = windows.selectedOptions[0];
    if (!volume || !window) return;
    volume.cal_min = Number(window.dataset.low);
    volume.cal_max = Number(window.dataset.high);
    viewer.updateGLVolume();
    showLevels();
  }

  function applyColours() {
    if (viewer.volumes[0]) viewer.setColormap(viewer.volumes[0].id, colours.value);
  }

  // The line is equally thin for a finger and a whole body.
  function drawCrosshair() {
    const volume = viewer.volumes[0];
    if (!volume) return;
    const extents = [1, 2, 3].map((axis) => volume.hdr.dims[axis] * volume.hdr.pixDims[axis]);
    const isOn = byId("crosshair").getAttribute("aria-pressed") === "true";
    viewer.setCrosshairWidth(isOn ? Math.max(...extents) / 250 : 0);
    viewer.drawScene();
  }

  function offerTimes(volume) {
    const count = volume.nFrame4D || 1;
    frame.closest(".frames").hidden = count < 2;
    frame.max = count - 1;
    frame.value = 0;
    byId("frame-number").textContent = `1 of ${count}`;
  }

  const layouts = () => ({
    multi: viewer.sliceTypeMultiplanar, axial: viewer.sliceTypeAxial, coronal: viewer.sliceTypeCoronal,
    sagittal: viewer.sliceTypeSagittal, render: viewer.sliceTypeRender,
  });

  async function load() {
    const url = picker.value;
    say("Loading…");
    delete box.dataset.shown;
    try {
      await viewer.loadVolumes([{ url, name: url.slice(url.lastIndexOf("/") + 1) }]);
    } catch (error) {
      say(`The volume cannot be displayed: ${error.message || error}`);
      return;
    }
    if (picker.value !== url) return; // another volume was chosen meanwhile
    const volume = viewer.volumes[0];
    colours.value = chosen().dataset.kind === "mask" ? "random" : "gray";
    applyColours();
    offerTimes(volume);
    offerWindows(volume);
    applyWindow();
    drawCrosshair();
    viewer.createOnLocationChange();
    say("");
    box.dataset.shown = url;
  }

  function loadOrAsk() {
    const bytes = Number(chosen().dataset.bytes);
    if (bytes < ASKED_FROM_BYTES) { load(); return; }
    const button = document.createElement("button");
    button.textContent = `Load ${(bytes / 1e6).toFixed(0)} MB`;
    button.addEventListener("click", load, { once: true });
    say("");
    veil.hidden = false;
    veil.replaceChildren("This volume is large.", button);
  }

  async function start() {
    try {
      viewer = new niivue.Niivue({
        backColor: [0, 0, 0, 1], crosshairColor: [0.36, 0.75, 0.87, 0.8], crosshairWidthUnit: "mm", sagittalNoseLeft: true, show3Dcrosshair: true,
        isRadiologicalConvention: true, isCornerOrientationText: false, fontColor: [0.8, 0.83, 0.86, 1],
        multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID, tileMargin: 4,
        dragAndDropEnabled: false, loadingText: "", logLevel: "error", isResizeCanvas: true,
      });
      await viewer.attachToCanvas(canvas);
    } catch (error) {
      viewer = null;
    }
    if (!viewer || !viewer.gl) {
      say("This browser cannot display volumes (WebGL 2 is missing). Download the files below to open them elsewhere.");
      return;
    }
    viewer.onLocationChange = showPlace;
    viewer.onIntensityChange = showLevels;
    viewer.setSliceType(viewer.sliceTypeMultiplanar);

    picker.addEventListener("change", loadOrAsk);
    windows.addEventListener("change", applyWindow);
    colours.addEventListener("change", applyColours);
    frame.addEventListener("input", () => {
      viewer.setFrame4D(viewer.volumes[0].id, Number(frame.value));
      byId("frame-number").textContent = `${Number(frame.value) + 1} of ${Number(frame.max) + 1}`;
    });
    for (const button of box.querySelectorAll("[data-layout]")) {
      button.addEventListener("click", () => {
        viewer.setSliceType(layouts()[button.dataset.layout]);
        box.querySelectorAll("[data-layout]").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
      });
    }
    byId("crosshair").addEventListener("click", (event) => {
      const isOn = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(isOn));
      drawCrosshair();
    });
    byId("reset").addEventListener("click", () => {
      viewer.scene.crosshairPos = [0.5, 0.5, 0.5];
      viewer.setPan2Dxyzmm([0, 0, 0, 1]);
      viewer.setRenderAzimuthElevation(110, 10);
      windows.value = windows.dataset.usual;
      applyWindow();
      viewer.createOnLocationChange();
    });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], PageUp: [0, 1, 0], PageDown: [0, -1, 0] };
      if (!steps[event.key] || !viewer.volumes.length) return;
      event.preventDefault();
      viewer.moveCrosshairInVox(...steps[event.key]);
    });
    loadOrAsk();
  }

  start();
})();
