// The viewer of a series: planes of one volume or of two beside each other, drawn on 2-D canvases; NiiVue only in space.
const version = new URL(import.meta.url).search;
const [{ load, reducedUrl, TooLarge, REDUCED_FROM_BYTES, MAX_BYTES }, planes] = await Promise.all([
  import(`./volume.js${version}`), import(`./planes.js${version}`),
]);

const byId = (id) => document.getElementById(id);
const box = byId("viewer"), stage = byId("stage"), veil = byId("veil");
const fields = Object.fromEntries(["volume", "beside", "layout", "plane", "window", "centre", "width", "slab", "thickness",
  "colours", "time", "rate", "opacity", "threshold"].map((id) => [id, byId(id)]));

// Centre and width, in the unit of the volume.
const PRESETS = {
  CT: [["Brain", 40, 80], ["Stroke", 35, 35], ["Subdural", 75, 215], ["Soft tissue", 40, 400], ["Liver", 70, 150],
    ["Lung", -600, 1500], ["Bone", 400, 1800], ["Temporal bone", 600, 3000], ["Angiography", 300, 600]],
  SUV: [["SUV 0 to 5", 2.5, 5], ["SUV 0 to 10", 5, 10]],
};
const MAX_LABELS = 200; // in a legend
const SERIES_STEP = 12; // labels between the colours of two series: the hue of one label then differs by 150 degrees
const TAP_PIXELS = 8; // that a finger may move while it taps
const AIR_HU = -250; // initial threshold in space: between air and skin

const MEASURING = ["distance", "angle", "region"];
const MAX_NAMED = 5; // slices in a sentence
const LEAST_SHARE = 0.05; // of what is not air, which a window must show to be of use

let tool = "cross", hasCrosshair = true, hasOverlays = true, timer = 0, asked = 0;
let measuring = null; // the module, once a measure was begun
const views = []; // one, or two beside each other
const overlays = new Map(); // by URL
let overlayProblem = ""; // why the last one that was chosen could not be loaded
let active = null; // the pane that was used last

const readable = (number) => Math.abs(number) >= 100 ? number.toFixed(0) : Number(number.toPrecision(4)).toString();
// There is a picture, or there will be none: other pictures of the page may be loaded.
const settle = () => {
  if ("settled" in box.dataset) return;
  box.dataset.settled = "";
  box.dispatchEvent(new Event("settled"));
};
const say = (words) => { veil.textContent = words; veil.hidden = !words; };
const announce = (words) => { byId("announcer").textContent = words; };
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const view = () => active ? active.view : views[0];
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// The sidecar of a volume. That of the first one comes with the page.
async function sidecarOf({ sidecar }, signal) {
  if (sidecar === fields.volume.options[0].dataset.sidecar) return JSON.parse(box.dataset.sidecar);
  const answer = await fetch(sidecar, { signal });
  if (answer.ok) return answer.json();
  if (answer.status === 404) return {};
  throw new Error(`the node answered with HTTP status ${answer.status}`);
}

// A volume with its window, its place and its panes.
class View {
  constructor() {
    this.root = element("div", { className: "view" });
    this.panes = [...planes.NAMES.map((name) => new Pane(this, name)), new SpacePane(this)];
    this.root.append(...this.panes.map((pane) => pane.root));
    stage.append(this.root);
    this.reset();
  }

  reset() {
    Object.assign(this, { time: 0, isInverted: false, slab: "slice", thicknessMm: 10, measures: [] });
    for (const pane of this.panes) Object.assign(pane, { zoom: 1, pan: [0, 0], quarters: 0, isFlipped: false });
  }

  close() {
    this.abort?.abort();
    this.panes.at(-1).close();
    this.root.remove();
  }

  // Show the volume of an option of a select.
  async open(option) {
    this.abort?.abort();
    const abort = this.abort = new AbortController();
    this.about = option.dataset;
    this.volume = null;
    this.problem = "";
    this.reset();
    this.panes.at(-1).close();
    delete this.root.dataset.shown;
    say("Loading…");
    try {
      await this.load(option.value, abort.signal, await sidecarOf(option.dataset, abort.signal));
    } catch (error) {
      if (abort.signal.aborted) return;
      settle();
      if (this.volume) this.problem = error.message;
      else say(`The volume cannot be displayed: ${error.message}.`);
      drawAll();
    }
  }

  async load(url, signal, sidecar) {
    const show = (volume) => { if (!signal.aborted) this.show(volume, sidecar); };
    const progress = (at, all) => { this.loaded = at / all; refresh(this); };
    if ("copied" in this.about) {
      show(await this.reduced(url, signal));
      return;
    }
    let shown = null;
    const onTime = (volume) => {
      if (volume === shown) refresh(this);
      else show(shown = volume);
      return !signal.aborted;
    };
    try {
      await load(url, { signal, onTime, onBytes: progress, maxBytes: REDUCED_FROM_BYTES });
      drawAll();
      return;
    } catch (error) {
      if (!(error instanceof TooLarge)) throw error;
      const full = error.volume, isTooLarge = full.bytesOfTime > MAX_BYTES;
      try {
        show(Object.assign(await this.reduced(url, signal), { isTooLarge }));
      } catch (problem) {
        if (isTooLarge) throw problem;
      }
      if (isTooLarge) return;
    }
    await load(url, { signal, onTime, onBytes: progress });
    drawAll();
  }

  // The node's copy: some voxels of the first time.
  async reduced(url, signal) {
    const volume = await load(reducedUrl(url), { signal });
    const spacing = JSON.parse(this.about.spacing), [columns, rows, slices = 1, times = 1] = JSON.parse(this.about.shape);
    const steps = volume.spacing.map((mm, axis) => Math.max(1, Math.round(mm / (spacing[axis] || mm))));
    return Object.assign(volume, { steps, fullDims: [columns, rows, slices, times] });
  }

  show(volume, sidecar) {
    const isFirst = !this.volume;
    this.volume = volume;
    this.sidecar = sidecar;
    this.planes = planes.planesOf(volume);
    this.isPhase = (sidecar.ImageType || []).some((value) => value === "P" || value === "PHASE");
    this.isLabels = isLabelVolume(this.about, volume);
    if (this.isLabels) this.byLabel = new Map(volume.labels(MAX_LABELS).map((label) => [label, planes.labelColour(label)]));
    if (isFirst) {
      this.left = new Set();
      this.main = planes.acquired(volume, this.planes);
      this.place = volume.toPlace(volume.middle(this.isLabels));
      this.colours = this.isLabels ? "labels" : this.about.modality === "PT" ? "inverse" : "gray";
      this.isInverted = sidecar.inverted === true; // MONOCHROME1
      this.windows = windowsOf(this);
      this.useWindow(this.windows.find((one) => one.isUsual) || this.windows[0]);
      if (volume.dims[2] === 1 && view() === this) setLayout("one", false);
      const linked = views.find((other) => other !== this && isLinked(this, other));
      if (linked) this.place = linked.place;
      veil.hidden = true;
    }
    arrange();
    showControls();
    drawAll();
    settle();
    this.root.dataset.shown = this.about.url;
    if (views.every((one) => one.volume)) box.dataset.shown = views.map((one) => one.about.url).join(" ");
  }

  useWindow({ name, low, high }) {
    Object.assign(this, { windowName: name, low, high: high > low ? high : low + 1 });
  }

  get voxel() { return this.volume.toVoxel(this.place); }

  get unit() { return unitOf(this); }

  slice(plane) { return clamp(Math.round(this.voxel[plane.across]), 0, plane.slices - 1); }

  // Move to a place in the patient, and with it the views that are linked.
  goTo(place) {
    for (const one of views) if (one === this || isLinked(this, one)) one.place = place;
    const open = this.measures.at(-1);
    if (open?.isOpen) open.points[open.points.length - 1] = place;
    drawAll();
  }

  step(plane, count) {
    const voxel = this.voxel;
    voxel[plane.across] = clamp(this.slice(plane) + count, 0, plane.slices - 1);
    this.goTo(this.volume.toPlace(voxel));
  }

  setTime(time) {
    this.time = (time + this.volume.times) % this.volume.times;
    for (const other of views) if (other !== this && other.volume?.dims[3] === this.volume.dims[3]) other.time = Math.min(this.time, other.volume.times - 1);
    drawAll();
  }
}

// A canvas with a plane, its letters and its slider.
class Pane {
  constructor(ofView, name) {
    Object.assign(this, { view: ofView, name, zoom: 1, pan: [0, 0], quarters: 0, isFlipped: false, key: "" });
    this.canvas = element("canvas", { tabIndex: 0, role: "img" });
    this.caption = element("figcaption", { className: "tabular" });
    this.slider = element("input", { type: "range", min: 1, step: 1 });
    this.letters = Object.fromEntries(["top", "bottom", "left", "right"].map((side) => [side, element("span", { className: `letter to-${side}`, ariaHidden: "true" })]));
    this.root = element("figure", { className: "pane" }, this.canvas, this.caption, this.slider, ...Object.values(this.letters));
    this.root.dataset.plane = name;
    this.root.hidden = true;
    this.slider.addEventListener("input", () => { activate(this); this.view.step(this.plane, this.number2slice(Number(this.slider.value)) - this.view.slice(this.plane)); });
    this.slider.addEventListener("focus", () => activate(this));
    this.canvas.addEventListener("focus", () => activate(this));
    followPointer(this);
  }

  // The plane as it is turned and flipped here.
  get plane() {
    const plane = this.view.planes?.[this.name];
    return plane && planes.turned(plane, this.quarters, this.isFlipped);
  }

  get step() { return this.view.volume.steps?.[this.plane.across] || 1; }

  get count() { return (this.view.volume.fullDims || this.view.volume.dims)[this.plane.across]; }

  number2slice(number) { return Math.round((number - 1) / this.step); }

  get number() { return Math.min(this.view.slice(this.plane) * this.step + 1, this.count); }

  // Pixels of the canvas for a mm, and where the plane begins.
  get frame() {
    const { plane, canvas } = this, width = plane.columns * plane.columnMm, height = plane.rows * plane.rowMm;
    const perMm = Math.min(canvas.width / width, canvas.height / height) * this.zoom;
    return { perMm, x: canvas.width / 2 + this.pan[0] - width * perMm / 2, y: canvas.height / 2 + this.pan[1] - height * perMm / 2 };
  }

  toScreen(voxel) {
    const { perMm, x, y } = this.frame, [u, v] = planes.toPixel(this.plane, voxel);
    return [x + (u + 0.5) * this.plane.columnMm * perMm, y + (v + 0.5) * this.plane.rowMm * perMm];
  }

  // The voxel, with fractions, below a point of the page.
  voxelAt(event) {
    const bounds = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / bounds.width, { perMm, x, y } = this.frame;
    const u = ((event.clientX - bounds.left) * ratio - x) / (perMm * this.plane.columnMm) - 0.5;
    const v = ((event.clientY - bounds.top) * ratio - y) / (perMm * this.plane.rowMm) - 0.5;
    return planes.toVoxel(this.plane, [u, v], this.view.slice(this.plane));
  }

  draw() {
    const { view: own, canvas, plane } = this;
    if (!plane || this.root.hidden) return;
    const ratio = devicePixelRatio || 1, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    this.paint();
    const { perMm, x, y } = this.frame;
    context.imageSmoothingEnabled = !own.isLabels && !own.isPhase;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, x, y, plane.columns * plane.columnMm * perMm, plane.rows * plane.rowMm * perMm);
    if (hasCrosshair) {
      this.drawCrosshair(context, ratio);
      this.drawReference(context, ratio);
    }
    measuring?.draw(context, ratio, this);
    this.describe();
  }

  // The picture of the plane at the size of its voxels, painted again only if something has changed.
  paint() {
    const { view: own, plane } = this, slice = own.slice(plane);
    const shown = hasOverlays ? overlaysOf(own) : [];
    const look = {
      slice, time: own.time, slab: own.slab, thickness: Math.max(1, Math.round(own.thicknessMm / plane.sliceMm)),
      low: own.low, high: own.high, isInverted: own.isInverted !== (own.colours === "inverse"), opacity: Number(fields.opacity.value) / 100,
    };
    const key = JSON.stringify([look, own.colours, own.about.url, own.volume.dims, this.quarters, this.isFlipped, [...own.left], shown.map((one) => [one.url, one.version, ...one.left])]);
    if (key === this.key) return;
    this.key = key;
    if (this.picture?.width !== plane.columns || this.picture?.height !== plane.rows) this.picture = element("canvas", { width: plane.columns, height: plane.rows });
    const context = this.picture.getContext("2d");
    const image = context.createImageData(plane.columns, plane.rows);
    if (own.colours === "labels") {
      const labels = { volume: own.volume, byLabel: shownLabels(own) };
      const black = { low: Infinity, high: Infinity, colours: planes.scale("gray"), isInverted: false };
      planes.paint(image, own.volume, plane, { ...look, ...black, overlays: [labels], opacity: 1 });
    } else {
      const laid = shown.map((one) => one.byLabel ? { ...one, byLabel: shownLabels(one) } : one);
      planes.paint(image, own.volume, plane, { ...look, colours: planes.scale(own.colours), overlays: laid });
    }
    context.putImageData(image, 0, 0);
  }

  drawCrosshair(context, ratio) {
    const [x, y] = this.toScreen(this.view.voxel), gap = 8 * ratio;
    context.strokeStyle = "rgb(92 191 222 / .85)";
    context.lineWidth = ratio;
    context.beginPath();
    for (const [from, to] of [[0, x - gap], [x + gap, context.canvas.width]]) { context.moveTo(from, y); context.lineTo(to, y); }
    for (const [from, to] of [[0, y - gap], [y + gap, context.canvas.height]]) { context.moveTo(x, from); context.lineTo(x, to); }
    context.stroke();
  }

  // Where the plane that was used last, of the series beside this one, cuts this plane.
  drawReference(context, ratio) {
    const { view: own, plane } = this, other = active?.view;
    if (!other || other === own || !active.plane || !isLinked(own, other)) return;
    const { across } = active.plane, slice = other.slice(active.plane), here = own.slice(plane);
    const beyond = (u, v) => other.volume.toVoxel(own.volume.toPlace(planes.toVoxel(plane, [u, v], here)))[across] - slice;
    const [columns, rows] = [plane.columns - 1, plane.rows - 1];
    const edges = [[0, 0, columns, 0], [columns, 0, columns, rows], [columns, rows, 0, rows], [0, rows, 0, 0]];
    const cuts = edges.flatMap(([u0, v0, u1, v1]) => {
      const from = beyond(u0, v0), to = beyond(u1, v1);
      if (from === to || from * to > 0) return [];
      const share = from / (from - to);
      return [this.toScreen(planes.toVoxel(plane, [u0 + share * (u1 - u0), v0 + share * (v1 - v0)], here))];
    });
    if (cuts.length < 2) return;
    context.strokeStyle = "rgb(255 160 70 / .9)";
    context.lineWidth = ratio;
    context.setLineDash([6 * ratio, 4 * ratio]);
    context.beginPath();
    context.moveTo(...cuts[0]);
    context.lineTo(...cuts.at(-1));
    context.stroke();
    context.setLineDash([]);
  }

  describe() {
    const { view: own, plane, slider } = this, words = `${this.number} of ${this.count}`;
    const title = own.volume.hasPlace ? this.name[0].toUpperCase() + this.name.slice(1) : "Image";
    const slab = own.slab === "slice" ? "" : ` · ${fields.slab.querySelector(`[value=${own.slab}]`).textContent} ${readable(Math.max(1, Math.round(own.thicknessMm / plane.sliceMm)) * plane.sliceMm)} mm`;
    const uneven = own.about.geometry === "irregular" ? " · uneven slices" : "";
    this.caption.textContent = `${title} ${words}${slab}${uneven}`;
    this.canvas.setAttribute("aria-label", `${title} plane, slice ${words}`);
    slider.hidden = this.count < 2;
    slider.max = this.count;
    slider.value = this.number;
    slider.setAttribute("aria-label", `Slice of the ${title} plane`);
    slider.setAttribute("aria-valuetext", words);
    for (const [side, mark] of Object.entries(this.letters)) mark.textContent = plane.letters?.[side] || "";
  }
}

// The volume in space. NiiVue is loaded when this pane is first shown; the node reduces the volume for it.
class SpacePane {
  constructor(ofView) {
    Object.assign(this, { view: ofView, name: "space", space: null, plane: null, left: "" });
    this.words = element("div", { className: "veil" });
    this.root = element("figure", { className: "pane" }, element("figcaption", { textContent: "3-D" }), this.words);
    this.isWanted = false; // whether without a GPU as well
    this.root.dataset.plane = "space";
    this.root.hidden = true;
  }

  async draw() {
    const { about, volume } = this.view;
    if (this.root.hidden || !volume) return;
    if (this.url === about.url) { this.showLabels(); return; }
    this.close();
    this.url = about.url;
    const canvas = this.canvas = element("canvas", { tabIndex: 0, ariaLabel: "The volume in space. Drag or use the arrow keys to turn it." });
    canvas.addEventListener("focus", () => activate(this));
    this.root.prepend(canvas);
    const isCt = about.modality === "CT" && ["volume", "resampled", "masked"].includes(about.kind);
    this.tell("Loading…", ["Cancel", () => this.cancel()]);
    try {
      const { hasGpu, openSpace } = await import(`./space.js${version}`);
      if (!this.isWanted && !hasGpu()) {
        const anyway = () => { this.isWanted = true; this.url = ""; drawAll(); };
        this.tell("There is no GPU: the processor draws the volume, which may take minutes and stops the page meanwhile.", ["Draw it", anyway], ["Cancel", () => this.cancel()]);
        return;
      }
      const opened = await openSpace(canvas, {
        library: box.dataset.niivue, isCt, byLabel: this.view.isLabels && this.view.byLabel,
        url: reducedUrl(about.url, isCt), low: isCt ? AIR_HU : this.view.low, high: isCt ? 700 : this.view.high,
      });
      if (this.canvas !== canvas) { opened.close(); return; }
      this.space = opened;
      this.showLabels();
      this.tell("");
      this.root.dataset.shown = about.url;
      const range = volume.isColour ? { low: 0, high: 255 } : volume.range;
      Object.assign(fields.threshold, { min: Math.floor(Math.max(range.low, isCt ? -1000 : -Infinity)), max: Math.ceil(Math.min(range.high, isCt ? 2000 : Infinity)), step: "any" });
      showThreshold(opened.threshold);
      showControls();
    } catch (error) {
      if (this.canvas === canvas) this.tell(error.message || String(error));
    }
  }

  // A change of the labels draws the volume again, which takes long without a GPU.
  showLabels() {
    const left = this.space && this.view.isLabels ? [...this.view.left].sort().join() : "";
    if (left !== this.left) this.space.setLabels(shownLabels(this.view));
    this.left = left;
  }

  tell(words, ...choices) {
    const buttons = choices.map(([textContent, act]) => {
      const button = element("button", { type: "button", textContent });
      button.addEventListener("click", act);
      return button;
    });
    this.words.replaceChildren(element("p", { textContent: words }), element("div", { className: "actions" }, ...buttons));
    this.words.hidden = !words;
  }

  // What is still loaded is closed when it arrives: its canvas is gone.
  cancel() {
    this.close();
    setLayout("three");
  }

  close() {
    this.space?.close();
    this.canvas?.remove();
    Object.assign(this, { space: null, canvas: null, url: "", left: "" });
    delete this.root.dataset.shown;
  }
}

// --- what belongs together

// Whether two views show places of one patient that agree: the same frame of reference (PS3.3 C.7.4.1), even slices.
function isLinked(one, other) {
  if (!one.volume || !other.volume || !byId("linked").checked) return false;
  return unlinkedBecause(one, other) === "";
}

function unlinkedBecause(one, other) {
  for (const each of [one, other]) {
    if (!each.volume.hasPlace) return "a volume has no position in the patient";
    if (each.about.geometry === "irregular") return "a volume has uneven slices; choose its resampled copy";
  }
  return isOneFrame(one.sidecar, other.sidecar) || one.about.series === other.about.series ? "" : "the series have different frames of reference";
}

const isOneFrame = (one, other) => Boolean(one.FrameOfReferenceUID) && one.FrameOfReferenceUID === other.FrameOfReferenceUID;

// A fractional segmentation has a slope.
const isLabelVolume = ({ kind, modality }, { slope }) => kind === "mask" || (modality === "SEG" && slope === 1);

const overlaysOf = (own) => [...overlays.values()].filter((overlay) => overlay.volume && fits(overlay, own));

const isOneGrid = (one, other) => String([one.dims.slice(0, 3), one.affine]) === String([other.dims.slice(0, 3), other.affine]);

const fits = (overlay, own) => Boolean(own.volume) && unfitBecause(overlay, own) === "";

// The one cause for which an overlay cannot be laid over the volume of a view, or "".
function unfitBecause(overlay, own) {
  if (overlay.url === own.about.url) return "it is the volume itself";
  if (!own.volume.hasPlace) return "the volume has no position in the patient";
  if (!overlay.volume.hasPlace) return "it has no position in the patient";
  // The affine of uneven slices is right for the first one alone: only uneven slices of the same grid lie over it.
  const isUneven = own.about.geometry === "irregular";
  if (isUneven && overlay.geometry !== "irregular") return "the slices of the volume are uneven; choose its resampled copy";
  if (overlay.geometry === "irregular") return isUneven && isOneGrid(own.volume, overlay.volume) ? "" : "its slices are uneven, and not those of the volume";
  const { series } = own.about, isOfSeries = overlay.series === series || overlay.sidecar.roi?.image_series_instance_uid === series;
  return isOfSeries || isOneFrame(overlay.sidecar, own.sidecar) ? "" : "it has another frame of reference than the volume";
}

// The slices of a view, from 1, that were interpolated and on which an overlay has no label: nobody has looked there.
function unlabelled({ volume, byLabel }, own) {
  if (!byLabel) return [];
  const [columns, rows] = volume.dims, step = own.volume.steps?.[2] || 1;
  const slice = (...voxel) => Math.round(volume.toVoxel(own.volume.toPlace(voxel))[2]);
  return (own.sidecar.interpolated_slices || []).filter((index) => {
    const at = slice(0, 0, index / step), isAlong = slice(own.volume.dims[0], own.volume.dims[1], index / step) === at;
    return isAlong && !volume.data.subarray(Math.max(0, at) * columns * rows, Math.max(0, at + 1) * columns * rows).some(Boolean);
  }).map((index) => index + 1);
}

function windowsOf({ volume, about, sidecar, isPhase, isLabels }) {
  const of = (name, low, high, isUsual = false) => ({ name, low, high, isUsual });
  if (volume.isColour) return [of("Colours", 0, 255, true)];
  const { low, high, usualLow, usualHigh, share } = volume.range;
  const isSuv = about.kind === "suv", isCt = about.modality === "CT" && !isLabels;
  const presets = (isCt ? PRESETS.CT : isSuv ? PRESETS.SUV : []).map(([name, centre, width]) => of(name, centre - width / 2, centre + width / 2));
  const own = volume.window ? [of("Of the images", ...volume.window)] : [];
  const windows = [of("Automatic", usualLow, usualHigh), ...presets, ...own, of("Whole range", low, high)];
  const body = /HEAD|BRAIN|SKULL/i.test(box.dataset.body) ? "Brain" : "Soft tissue";
  const usual = isPhase || isLabels ? "Whole range" : isCt ? body : isSuv ? "SUV 0 to 10" : volume.window ? "Of the images" : "Automatic";
  const chosen = windows.find((one) => one.name === usual);
  // A window in which the picture would be uniformly black and white is of no use.
  (share(chosen.low, chosen.high) < LEAST_SHARE ? windows[0] : chosen).isUsual = true;
  return windows;
}

const unitOf = ({ about, sidecar }) => {
  if (about.kind === "suv") return "SUV";
  if (about.modality === "CT" && about.kind !== "mask") return "HU";
  return { BQML: "Bq/ml", CNTS: "counts" }[sidecar.Units] || "";
};

// --- the page

function arrange() {
  const layout = fields.layout.value;
  stage.dataset.layout = layout;
  for (const own of views) {
    if (!own.volume) continue;
    for (const pane of own.panes) {
      const isMain = layout === "space" ? pane.name === "space" : pane.name === own.main;
      pane.root.dataset.main = isMain;
      const isOther = pane.name === "space" ? layout === "four" : layout === "three" || layout === "four";
      pane.root.hidden = !isMain && !isOther || (pane.name !== "space" && !own.planes[pane.name]);
    }
  }
  if (!active || active.root.hidden || !views.includes(active.view)) {
    const first = views[0]?.panes.find((pane) => pane.root.dataset.main === "true");
    if (first) activate(first);
  }
}

function setLayout(layout, isDrawn = true) {
  fields.layout.value = layout;
  if (isDrawn) { arrange(); showControls(); drawAll(); }
}

function setMain(name) {
  const own = view();
  if (!own.planes?.[name]) return;
  for (const one of views) if (one.planes?.[name]) one.main = name;
  if (fields.layout.value === "space") fields.layout.value = "one";
  arrange();
  activate(own.panes.find((pane) => pane.name === name));
  drawAll();
}

function activate(pane) {
  if (pane === active) return;
  active = pane;
  for (const own of views) for (const one of own.panes) one.root.classList.toggle("active", one === pane);
  showControls();
}

function drawAll() {
  if (asked) return;
  asked = requestAnimationFrame(() => {
    asked = 0;
    for (const own of views) if (own.volume) for (const pane of own.panes) pane.draw();
    showState();
  });
}

let refreshed = 0;
function refresh(own) {
  if (performance.now() < refreshed + 200) return;
  refreshed = performance.now();
  if (own.volume) showState();
  else say(`Loading… ${Math.round(own.loaded * 100)} %`);
}

// The fields of the view that was used last.
function showControls() {
  const own = view();
  if (!own?.volume) return;
  fields.window.replaceChildren(...own.windows.map(({ name }) => new Option(name, name)), new Option("Chosen", "Chosen", false, false));
  fields.window.disabled = fields.centre.disabled = fields.width.disabled = own.volume.isColour;
  fields.colours.disabled = fields.slab.disabled = own.volume.isColour;
  fields.plane.replaceChildren(...Object.keys(own.planes).map((name) => new Option(name[0].toUpperCase() + name.slice(1), name)));
  byId("threshold-of").hidden = !own.panes.at(-1).space || own.panes.at(-1).root.hidden;
  legend();
  showState();
}

function showState() {
  const own = view();
  if (!own?.volume) return;
  const { volume } = own;
  fields.window.value = own.windowName;
  setUnlessTyping(fields.centre, readable((own.low + own.high) / 2));
  setUnlessTyping(fields.width, readable(own.high - own.low));
  fields.colours.value = own.colours;
  fields.slab.value = own.slab;
  setUnlessTyping(fields.thickness, own.thicknessMm);
  byId("thickness-of").hidden = own.slab === "slice";
  fields.plane.value = own.main;
  byId("invert").setAttribute("aria-pressed", String(own.isInverted));
  byId("crosshair").setAttribute("aria-pressed", String(hasCrosshair));
  byId("times").hidden = volume.dims[3] < 2 && !timer;
  byId("time-of").hidden = volume.dims[3] < 2;
  fields.time.max = volume.times;
  fields.time.value = own.time + 1;
  const missing = volume.times < volume.dims[3] ? ` (${volume.times} loaded)` : "";
  const at = volume.seconds ? ` · ${readable(own.time * volume.seconds)} s` : "";
  byId("time-number").textContent = `${own.time + 1} of ${volume.dims[3]}${missing}${at}`;
  byId("play").setAttribute("aria-pressed", String(Boolean(timer)));
  for (const button of box.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  byId("play").disabled = volume.dims[3] < 2 && volume.dims[2] < 2;
  byId("flip").setAttribute("aria-pressed", String(Boolean(active?.isFlipped)));
  showMeasures(own);
  showNotes(own);
  showOverlayProblems();
  showPlace(own);
}

const setUnlessTyping = (field, value) => { if (document.activeElement !== field) field.value = value; };

function showNotes(own) {
  const { volume } = own, notes = [];
  if (own.problem) notes.push(`The rest of the volume cannot be loaded: ${own.problem}.`);
  if ("copied" in own.about) {
    const isWhole = volume.steps.every((step) => step === 1), isFirst = volume.fullDims[3] > 1;
    const what = [isWhole ? "" : `one of ${volume.steps.join(" × ")} voxels`, isFirst ? "the first time" : ""].filter(Boolean).join(" of ");
    if (what) notes.push(`Only ${what} is shown: of files in this format, the viewer shows a copy. With "nifti" in [convert] formats it shows everything.`);
  } else if (volume.steps && !own.problem) {
    const rest = volume.isTooLarge ? "the whole volume is too large for this browser" : `the rest is loading (${Math.round((own.loaded || 0) * 100)} %)`;
    notes.push(`One of ${volume.steps.join(" × ")} voxels is shown; ${rest}.`);
  }
  if (views.length > 1 && views.every((one) => one.volume)) {
    const reason = unlinkedBecause(views[0], views[1]);
    byId("linked").disabled = Boolean(reason);
    if (reason) notes.push(`The cross-hairs are not linked: ${reason}.`);
  }
  byId("notes").textContent = notes.join(" ");
}

// The measures of the view, each with buttons that lead to it and remove it. Built again only if something has changed.
function showMeasures(own) {
  const list = byId("measures"), words = measuring ? own.measures.map((one) => `${measuring.describe(one, own)}, ${one.plane} ${own.volume.hasPlace ? own.slice(own.planes[one.plane]) : ""}`) : [];
  const said = JSON.stringify(words);
  if (list.dataset.said === said) return;
  list.dataset.said = said;
  list.replaceChildren(...own.measures.map((one) => {
    const text = measuring.describe(one, own);
    const go = element("button", { type: "button", className: "link", textContent: text, title: "Go to its slice" });
    go.addEventListener("click", () => { setMain(one.plane); own.goTo(one.points[0]); });
    const remove = element("button", { type: "button", className: "quiet small", textContent: "×", ariaLabel: `Remove ${text}` });
    remove.addEventListener("click", () => { own.measures = own.measures.filter((other) => other !== one); drawAll(); active?.canvas?.focus(); });
    return element("li", {}, go, remove);
  }));
}

// Where the voxel below the pointer is, or else that of the cross-hair, and what it holds: in radiology's LPS+ words.
function showPlace(own) {
  const { volume, hover } = own, below = hover?.pane.plane && hover.pane.voxelAt(hover);
  const voxel = below && volume.index(below) >= 0 ? below : own.voxel, index = voxel.map(Math.round);
  const at = volume.value(index, own.time), words = [];
  if (volume.hasPlace && own.about.geometry !== "irregular") {
    const [x, y, z] = volume.toPlace(voxel);
    const side = (number, positive, negative) => `${Math.abs(number).toFixed(1)} ${number < 0 ? negative : positive}`;
    words.push(`${side(x, "R", "L")}  ${side(y, "A", "P")}  ${side(z, "S", "I")} mm`);
  }
  words.push(`voxel ${index.map((part, axis) => part * (volume.steps?.[axis] || 1)).join(", ")}`);
  if (at !== null) words.push(`value ${[at].flat().map(readable).join(", ")}${unitOf(own) ? ` ${unitOf(own)}` : ""}`);
  if (own.isLabels && at) words.push(nameOf(own, at));
  for (const overlay of overlaysOf(own)) {
    const value = overlay.volume.value(overlay.volume.toVoxel(volume.toPlace(voxel)), Math.min(own.time, overlay.volume.times - 1));
    if (value && !overlay.left.has(value)) words.push(overlay.byLabel ? nameOf(overlay, value) : `${overlay.name} ${readable(value)}`);
  }
  byId("place").textContent = words.join(" · ");
}

function showThreshold(value) {
  fields.threshold.value = value;
  byId("threshold-value").textContent = readable(value);
}

// --- pointer

// One pointer acts as the tool says; a finger of the tool "cross" scrolls slices, and places by a tap. Two fingers zoom
// and move.
function followPointer(pane) {
  const { canvas } = pane;
  const fingers = new Map(); // on the canvas: {x, y} by pointer
  let drag = null, pinch = null;
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    if (!pane.plane) return;
    event.preventDefault();
    activate(pane);
    if (event.ctrlKey) zoom(pane, event.deltaY < 0 ? 1.15 : 1 / 1.15, at(event));
    else pane.view.step(pane.plane, -Math.sign(event.deltaY));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    if (!pane.plane) return;
    activate(pane);
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") fingers.set(event.pointerId, at(event));
    if (fingers.size > 1) {
      if (drag?.point?.isNew) pane.view.measures.pop();
      drag = null;
      pinch = fingers.size === 2 ? grip() : null;
      drawAll();
      return;
    }
    const { view: own } = pane;
    const usual = event.pointerType === "touch" && tool === "cross" ? "scroll" : tool;
    drag = {
      as: event.button === 2 ? "window" : event.button === 1 || event.shiftKey ? "move" : usual,
      x: event.clientX, y: event.clientY, low: own.low, high: own.high, pan: pane.pan, zoom: pane.zoom, middle: at(event), slices: 0,
    };
    if (MEASURING.includes(drag.as)) {
      if (!measuring) { drag = null; return; } // it is being loaded
      drag.point = grasp(event);
    }
    act(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pane.plane) return;
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, at(event));
    if (pinch) stretch();
    else if (drag) act(event);
    if (event.pointerType === "touch") return;
    pane.view.hover = { pane, clientX: event.clientX, clientY: event.clientY };
    showPlace(pane.view);
    const open = pane.view.measures.at(-1);
    if (!drag && open?.isOpen && open.plane === pane.name && tool === open.kind) {
      open.points[open.points.length - 1] = pane.view.volume.toPlace(pane.voxelAt(event));
      drawAll();
    }
  });
  canvas.addEventListener("pointerleave", () => { pane.view.hover = null; showState(); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => {
    fingers.delete(event.pointerId);
    pinch = null;
    if (drag?.point) letGo(event);
    if (drag?.as === "scroll" && name === "pointerup" && !isMoved(event)) pane.view.goTo(pane.view.volume.toPlace(pane.voxelAt(event)));
    drag = null;
  });

  const isMoved = (event) => drag.slices !== 0 || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > TAP_PIXELS;

  // The point of a measure that the pointer moves: one that is there, the next one of an open measure, or a new measure.
  function grasp(event) {
    const { view: own } = pane, ratio = canvas.width / canvas.clientWidth, { x, y } = at(event);
    const open = own.measures.at(-1);
    if (open?.isOpen && open.plane === pane.name) return { measure: open, number: open.points.length - 1 };
    const known = measuring.pointAt(pane, [x + canvas.width / 2, y + canvas.height / 2], ratio);
    if (known) return known;
    const place = own.volume.toPlace(pane.voxelAt(event));
    const measure = { kind: drag.as, plane: pane.name, points: [place, place], isOpen: false };
    own.measures.push(measure);
    return { measure, number: 1, isNew: true };
  }

  // A press without a drag measures nothing; an angle has a third point, which follows the pointer until the next press.
  function letGo(event) {
    const { view: own } = pane, { measure, isNew } = drag.point;
    if (isNew && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 3) own.measures.pop();
    else if (isNew && measure.points.length < measuring.POINTS[measure.kind]) {
      measure.points.push(measure.points.at(-1));
      measure.isOpen = true;
    } else {
      measure.isOpen = false;
      announce(measuring.describe(measure, own));
    }
    drawAll();
  }

  // A point of the canvas from its middle, in its own pixels.
  function at(event) {
    const bounds = canvas.getBoundingClientRect(), ratio = canvas.width / bounds.width;
    return { x: (event.clientX - bounds.left) * ratio - canvas.width / 2, y: (event.clientY - bounds.top) * ratio - canvas.height / 2 };
  }

  function grip() {
    const [one, other] = [...fingers.values()];
    return { apart: Math.max(1, Math.hypot(one.x - other.x, one.y - other.y)), x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 };
  }

  function stretch() {
    const next = grip();
    zoom(pane, next.apart / pinch.apart, pinch);
    pane.pan = [pane.pan[0] + next.x - pinch.x, pane.pan[1] + next.y - pinch.y];
    pinch = next;
  }

  function act(event) {
    const { view: own } = pane, dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    if (drag.as === "cross") own.goTo(own.volume.toPlace(pane.voxelAt(event)));
    else if (drag.as === "scroll") {
      // The length of the canvas is all slices, but a slice is neither too short for a finger nor further than one likes.
      const slices = Math.trunc(-dy / clamp(canvas.clientHeight / pane.plane.slices, 4, 24));
      if (slices !== drag.slices) own.step(pane.plane, slices - drag.slices);
      drag.slices = slices;
    } else if (drag.point) drag.point.measure.points[drag.point.number] = own.volume.toPlace(pane.voxelAt(event));
    else if (drag.as === "zoom") zoom(pane, drag.zoom * 1.01 ** -dy / pane.zoom, drag.middle);
    else if (drag.as === "move") pane.pan = [drag.pan[0] + dx * devicePixelRatio, drag.pan[1] + dy * devicePixelRatio];
    else if (!own.volume.isColour) {
      const unit = (drag.high - drag.low) / 200, width = Math.max((drag.high - drag.low) + dx * unit, unit / 10);
      setWindow(own, (drag.high + drag.low) / 2 + dy * unit, width);
    }
    drawAll();
  }
}

// Zoom about a point of the canvas, which is given from its middle: what lies there stays there.
function zoom(pane, factor, { x, y } = { x: 0, y: 0 }) {
  if (!pane.plane) return;
  const before = pane.zoom;
  pane.zoom = clamp(before * factor, 0.5, 40);
  const grown = pane.zoom / before;
  pane.pan = [x + (pane.pan[0] - x) * grown, y + (pane.pan[1] - y) * grown];
  drawAll();
}

function setWindow(own, centre, width) {
  own.useWindow({ name: "Chosen", low: centre - width / 2, high: centre + width / 2 });
  drawAll();
}

// --- two beside each other

async function openBeside(option) {
  if (!option.value) {
    views.pop().close();
    active = null;
  } else if (views.length < 2) {
    views.push(new View());
    if (fields.layout.value !== "one") setLayout("one");
  }
  byId("linked-of").hidden = views.length < 2;
  delete box.dataset.shown;
  if (option.value) await views[1].open(option);
  arrange();
  showControls();
  drawAll();
  box.dataset.shown = views.map((one) => one.about.url).join(" ");
}

// --- overlays

async function setOverlay(input) {
  const { url } = input.dataset;
  if (!input.checked) {
    overlays.delete(url);
    overlayProblem = "";
    legend();
    drawAll();
    return;
  }
  const overlay = { ...input.dataset, name: input.dataset.name, version: 0, volume: null, unlabelled: new WeakMap(), left: new Set() };
  overlays.set(url, overlay);
  try {
    const sidecar = await sidecarOf(overlay);
    let volume;
    try {
      volume = await load("copied" in overlay ? reducedUrl(url) : url, { maxBytes: REDUCED_FROM_BYTES });
    } catch (error) {
      if (!(error instanceof TooLarge)) throw error;
      volume = await load(reducedUrl(url));
    }
    if (overlays.get(url) !== overlay) return;
    Object.assign(overlay, { sidecar, volume });
    if (isLabelVolume(overlay, volume)) {
      const labels = volume.labels(MAX_LABELS);
      overlay.byLabel = new Map(labels.map((label, index) => [label, colourOf(overlay, label, index)]));
    } else {
      const { low, high } = volume.range;
      Object.assign(overlay, { low: low + 0.1 * (high - low), high, colours: planes.scale(overlay.modality === "RTDOSE" ? "dose" : "hot") });
    }
    overlay.version += 1;
  } catch (error) {
    overlays.delete(url);
    input.checked = false;
    overlayProblem = `${overlay.name} cannot be loaded: ${error.message}.`;
    drawAll();
    return;
  }
  overlayProblem = "";
  legend();
  drawAll();
}

// What prevents a chosen overlay from lying over any view, and where one says nothing. Another volume may change both.
function showOverlayProblems() {
  const shown = views.filter((own) => own.volume), chosen = [...overlays.values()].filter((overlay) => overlay.volume);
  const words = chosen.filter((overlay) => shown.length && !shown.some((own) => fits(overlay, own)))
    .map((overlay) => `${overlay.name} cannot be laid over: ${unfitBecause(overlay, shown[0])}.`);
  for (const own of shown) for (const overlay of overlaysOf(own)) {
    const slices = overlay.unlabelled.get(own.volume) || unlabelled(overlay, own);
    overlay.unlabelled.set(own.volume, slices);
    const named = slices.slice(0, MAX_NAMED).join(", ") + (slices.length > MAX_NAMED ? ", …" : "");
    if (slices.length) words.push(`${overlay.name}: ${slices.length === 1 ? `slice ${named} has no label: its image was` : `slices ${named} have no label: their images were`} interpolated.`);
  }
  const said = [overlayProblem, ...words].filter(Boolean).join(" "), list = byId("overlay-problem");
  if (list && list.textContent !== said) list.textContent = said;
}

const segmentOf = ({ sidecar }, label) => (sidecar.segments || []).find((segment) => segment.number === label);

function colourOf(overlay, label, index) {
  const own = overlay.sidecar.roi?.colour || segmentOf(overlay, label)?.colour;
  const ordinal = [...overlays.keys()].indexOf(overlay.url);
  return own || planes.labelColour(overlay.sidecar.segments ? label + SERIES_STEP * seriesNumber(overlay) : ordinal + index + 1);
}

// The same segment in two versions of a result has two colours, whichever of them is shown first.
function seriesNumber(overlay) {
  const all = [...document.querySelectorAll("[data-overlay]")].map((input) => input.dataset.series);
  return [...new Set(all)].indexOf(overlay.series);
}

// The name of a label in an overlay, or in a view that shows a label volume.
function nameOf(labelled, label) {
  const { sidecar, name, byLabel } = labelled;
  return segmentOf(labelled, label)?.label || sidecar.roi?.name || (name && byLabel.size === 1 ? name : `${name || "label"} ${label}`);
}

// The labels of an overlay, or of a view that shows a label volume, without those that were switched off.
const shownLabels = ({ byLabel, left }) => left.size ? new Map([...byLabel].filter(([label]) => !left.has(label))) : byLabel;

function legend() {
  const laid = [...overlays.values()].filter((overlay) => overlay.volume && views.some((own) => fits(overlay, own)));
  const shown = [...views.filter((own) => own.volume && own.colours === "labels" && own.byLabel?.size > 1), ...laid];
  const seriesOf = (one) => one.series ?? one.about.series;
  const groups = [...new Set(shown.map(seriesOf))].map((of) => shown.filter((one) => seriesOf(one) === of));
  const entries = groups.length > 1 ? groups.map(group) : entriesOf(shown);
  byId("legend").replaceChildren(...entries);
}

function entriesOf(shown) {
  return shown.flatMap((overlay) => {
    if (overlay.byLabel) return labelEntries(overlay);
    const stops = [0, 64, 128, 192, 255].map((level) => [...overlay.colours.slice(3 * level, 3 * level + 3)]);
    return [entry(`${overlay.name} ${readable(overlay.low)} to ${readable(overlay.high)}`, stops)];
  });
}

// Labels with their colours. Several are switched off and on one by one, or all at once.
function labelEntries(labelled) {
  const { byLabel, left } = labelled;
  if (byLabel.size === 1) return [...byLabel].map(([label, colour]) => entry(nameOf(labelled, label), [colour]));
  const all = element("input", { type: "checkbox" });
  const boxes = [...byLabel.keys()].map((label) => [label, element("input", { type: "checkbox" })]);
  const update = () => {
    for (const [label, one] of boxes) one.checked = !left.has(label);
    all.checked = left.size === 0;
    all.indeterminate = left.size > 0 && left.size < byLabel.size;
    drawAll();
  };
  for (const [label, one] of boxes) one.addEventListener("change", () => { left[one.checked ? "delete" : "add"](label); update(); });
  all.addEventListener("change", () => {
    for (const label of byLabel.keys()) left[all.checked ? "delete" : "add"](label);
    update();
  });
  update();
  const every = element("li", {}, element("label", {}, all, element("span", { textContent: "All labels" })));
  return [every, ...boxes.map(([label, one]) => entry(nameOf(labelled, label), [byLabel.get(label)], one))];
}

// The overlays of one series, below what the list of overlays says of it: the hook and the time of a result.
function group(shown) {
  const input = [...document.querySelectorAll("[data-overlay]")].find((one) => one.dataset.url === shown[0].url);
  const said = input?.parentElement.querySelector(".muted")?.cloneNode(true) ?? "";
  const title = element("span", {}, element("bdi", { textContent: shown[0].of || "this series" }), " ", said);
  return element("li", { className: "of-series" }, title, element("ul", {}, ...entriesOf(shown)));
}

function entry(name, colours, box = null) {
  const swatch = element("span", { className: "swatch", ariaHidden: "true" });
  const stops = colours.map((colour) => `rgb(${colour.join(" ")})`);
  swatch.style.background = stops.length > 1 ? `linear-gradient(to right, ${stops.join(", ")})` : stops[0];
  swatch.classList.toggle("wide", stops.length > 1);
  const parts = [swatch, element("bdi", { textContent: name })];
  return element("li", {}, ...(box ? [element("label", {}, box, ...parts)] : parts));
}

// --- controls

function play(isOn) {
  clearInterval(timer);
  timer = 0;
  if (isOn) timer = setInterval(() => {
    const own = view();
    if (!own?.volume || document.hidden) return;
    if (own.volume.dims[3] > 1) own.setTime(own.time + 1);
    else if (active.plane) own.step(active.plane, own.slice(active.plane) + 1 < active.plane.slices ? 1 : 1 - active.plane.slices);
  }, 1000 / clamp(Number(fields.rate.value) || 8, 1, 60));
  showState();
}

function setTool(name) {
  tool = name;
  const own = view();
  if (own?.measures.at(-1)?.isOpen) own.measures.pop();
  if (MEASURING.includes(name)) loadMeasures();
  showState();
}

async function loadMeasures() {
  measuring ||= await import(`./measures.js${version}`);
  drawAll();
}

// Measure by keys: from the cross-hair to where it moves next; the same key again fixes the point.
async function measureHere(kind) {
  const own = view();
  if (!own?.volume || !active?.plane) return;
  const from = own.place;
  await loadMeasures(); // meanwhile, the cross-hair may move
  const open = own.measures.at(-1);
  if (open?.isOpen && open.kind === kind) {
    if (open.points.length < measuring.POINTS[kind]) {
      open.points.push(own.place);
      announce("Move to the end of the second side");
    } else {
      open.isOpen = false;
      announce(measuring.describe(open, own));
    }
  } else {
    setTool(kind);
    own.measures.push({ kind, plane: active.name, points: [from, own.place], isOpen: true });
    announce(`${kind} from here: move the cross-hair with Shift and the arrow keys`);
  }
  drawAll();
}

function removeMeasure() {
  const own = view(), gone = own.measures.pop();
  if (gone) announce(`Removed: ${measuring.describe(gone, own)}`);
  drawAll();
}

// --- turn, flip, save

function turn() {
  if (!active?.plane) return;
  active.quarters = (active.quarters + (active.isFlipped ? 3 : 1)) % 4; // the flip comes after the turn
  active.pan = [0, 0];
  announce("Turned clockwise");
  drawAll();
}

function flip() {
  if (!active?.plane) return;
  active.isFlipped = !active.isFlipped;
  active.pan = [-active.pan[0], active.pan[1]];
  announce("Flipped from left to right");
  drawAll();
}

// Save what the pane that was used last shows, with its caption and its letters, as PNG.
function savePicture() {
  if (!active?.plane) return;
  const { canvas, caption, letters, name, number } = active, ratio = canvas.width / canvas.clientWidth;
  const whole = element("canvas", { width: canvas.width, height: canvas.height }), context = whole.getContext("2d");
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(canvas, 0, 0);
  context.fillStyle = "#c9d1d8";
  context.font = `${13 * ratio}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const edge = 10 * ratio, { width, height } = whole;
  context.fillText(caption.textContent, edge, 1.5 * edge);
  const places = { top: [width / 2, 1.5 * edge, "center"], bottom: [width / 2, height - 1.5 * edge, "center"], left: [edge, height / 2, "left"], right: [width - edge, height / 2, "right"] };
  for (const [side, [x, y, align]] of Object.entries(places)) {
    context.textAlign = align;
    context.fillText(letters[side].textContent, x, y);
  }
  whole.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: `${name}-${number}.png` });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

function moveInPlane(right, down) {
  const own = view();
  if (active.space) { active.space.turn(right * 10, down * -10); return; }
  if (!active.plane) return;
  const [x, y] = planes.toPixel(active.plane, own.voxel);
  const voxel = planes.toVoxel(active.plane, [clamp(x + right, 0, active.plane.columns - 1), clamp(y + down, 0, active.plane.rows - 1)], own.slice(active.plane));
  own.goTo(own.volume.toPlace(voxel));
}

function resetView() {
  for (const own of views) {
    if (!own.volume) continue;
    own.reset();
    own.place = own.volume.toPlace(own.volume.middle(own.isLabels));
    own.useWindow(own.windows.find((one) => one.isUsual));
    own.isInverted = own.sidecar.inverted === true;
  }
  drawAll();
}

const nextOf = (select) => {
  const options = [...select.options].filter((option) => !option.hidden && !option.disabled);
  select.value = options[(options.indexOf(select.selectedOptions[0]) + 1) % options.length].value;
  select.dispatchEvent(new Event("change"));
  announce(select.selectedOptions[0].textContent);
};

function step(count) {
  if (active?.space) active.space.turn(0, count > 0 ? 10 : -10);
  else if (active?.plane) { view().step(active.plane, count); announce(`${active.number} of ${active.count}`); }
}

function stepThreshold(sign) {
  const space = view()?.panes.at(-1).space;
  if (!space) return;
  const { min, max } = fields.threshold;
  space.setThreshold(clamp(space.threshold + sign * (max - min) / 50, Number(min), Number(max)));
  showThreshold(space.threshold);
}

function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else box.requestFullscreen();
}

const changeThickness = (factor) => {
  const own = view();
  own.thicknessMm = clamp(Number((own.thicknessMm * factor).toPrecision(2)), 0.5, 500);
  if (own.slab === "slice") own.slab = "mip";
  drawAll();
};

const KEYS = {
  ArrowUp: () => step(1), ArrowDown: () => step(-1), PageUp: () => step(10), PageDown: () => step(-10),
  Home: () => step(-1e6), End: () => step(1e6),
  ArrowRight: () => changeTime(1), ArrowLeft: () => changeTime(-1), " ": () => play(!timer),
  "Shift+ArrowUp": () => moveInPlane(0, -1), "Shift+ArrowDown": () => moveInPlane(0, 1),
  "Shift+ArrowLeft": () => moveInPlane(-1, 0), "Shift+ArrowRight": () => moveInPlane(1, 0),
  a: () => setMain("axial"), c: () => setMain("coronal"), s: () => setMain("sagittal"),
  l: () => nextOf(fields.layout), v: () => setLayout("space"), b: () => fields.beside && nextOf(fields.beside),
  m: () => nextOf(fields.slab), "[": () => changeThickness(1 / 1.5), "]": () => changeThickness(1.5),
  n: nextPane, d: () => measureHere("distance"), e: () => measureHere("region"), y: () => measureHere("angle"),
  Delete: removeMeasure, Backspace: removeMeasure, h: flip, t: turn, q: savePicture,
  z: () => setTool(tool === "zoom" ? "cross" : "zoom"), w: () => setTool(tool === "window" ? "cross" : "window"), p: () => setTool(tool === "move" ? "cross" : "move"),
  x: () => { hasCrosshair = !hasCrosshair; drawAll(); },
  o: () => { hasOverlays = !hasOverlays; drawAll(); },
  i: () => { view().isInverted = !view().isInverted; drawAll(); },
  "+": () => zoom(active, 1.25), "=": () => zoom(active, 1.25), "-": () => zoom(active, 0.8),
  ",": () => stepThreshold(-1), ".": () => stepThreshold(1),
  f: toggleFullScreen, r: resetView,
  Escape: () => { setTool("cross"); drawAll(); },
  "?": () => byId("keys").showModal(),
};
for (let digit = 0; digit < 10; digit++) KEYS[digit] = () => {
  const chosen = view().windows[digit];
  if (chosen) { view().useWindow(chosen); announce(chosen.name); drawAll(); }
};

function changeTime(count) {
  const own = view();
  if (own.volume.dims[3] > 1 && !active?.space) own.setTime(own.time + count);
  else moveInPlane(count, 0);
}

function nextPane() {
  const shown = views.flatMap((own) => own.panes).filter((pane) => !pane.root.hidden);
  const next = shown[(shown.indexOf(active) + 1) % shown.length];
  (next.canvas || next.root).focus();
  activate(next);
}

// Keys act wherever they mean nothing else: not in fields, and not where they move a slider or press a button.
let isGoing = -Infinity; // when g was pressed: the next key names a page
const MOVING = /^(Arrow|Page|Home|End)/;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !view()?.volume) return;
  const { target, key } = event;
  if (target.closest("input:not([type=checkbox], [type=range]), select, textarea, dialog")) return;
  if (key === " " ? target.closest("a, button, summary, input") : target.matches("[type=range]") && MOVING.test(key)) return;
  if (target.closest(".rail") && key.startsWith("Arrow")) return;
  if (key === "g") { isGoing = performance.now(); return; }
  if (performance.now() < isGoing + 1500) return;
  const act = KEYS[(event.shiftKey && key.startsWith("Arrow") ? "Shift+" : "") + key];
  if (!act) return;
  event.preventDefault();
  event.stopPropagation();
  act();
}, true);

function start() {
  views.push(new View());
  fields.volume.addEventListener("change", () => { delete box.dataset.shown; views[0].open(fields.volume.selectedOptions[0]); });
  fields.beside?.addEventListener("change", () => openBeside(fields.beside.selectedOptions[0]));
  fields.layout.addEventListener("change", () => setLayout(fields.layout.value));
  fields.plane.addEventListener("change", () => setMain(fields.plane.value));
  fields.window.addEventListener("change", () => {
    const chosen = view().windows.find((one) => one.name === fields.window.value);
    if (chosen) view().useWindow(chosen);
    drawAll();
  });
  for (const field of [fields.centre, fields.width]) field.addEventListener("input", () => {
    const centre = Number(fields.centre.value), width = Number(fields.width.value);
    if (fields.centre.value && Number.isFinite(centre) && width > 0) setWindow(view(), centre, width);
  });
  fields.slab.addEventListener("change", () => { view().slab = fields.slab.value; drawAll(); });
  fields.thickness.addEventListener("input", () => { view().thicknessMm = clamp(Number(fields.thickness.value) || 1, 0.1, 500); drawAll(); });
  fields.colours.addEventListener("change", () => { view().colours = fields.colours.value; legend(); drawAll(); });
  fields.time.addEventListener("input", () => view().setTime(Number(fields.time.value) - 1));
  fields.rate.addEventListener("input", () => { if (timer) play(true); });
  fields.opacity?.addEventListener("input", drawAll);
  fields.threshold.addEventListener("input", () => {
    view().panes.at(-1).space?.setThreshold(Number(fields.threshold.value));
    byId("threshold-value").textContent = readable(Number(fields.threshold.value));
  });
  byId("linked").addEventListener("change", () => { if (byId("linked").checked) views[0].goTo(views[0].place); });
  byId("play").addEventListener("click", () => play(!timer));
  byId("crosshair").addEventListener("click", KEYS.x);
  byId("invert").addEventListener("click", KEYS.i);
  byId("flip").addEventListener("click", flip);
  byId("turn").addEventListener("click", turn);
  byId("save").addEventListener("click", savePicture);
  byId("reset").addEventListener("click", resetView);
  byId("full").addEventListener("click", toggleFullScreen);
  byId("viewer-keys").addEventListener("click", KEYS["?"]);
  for (const button of box.querySelectorAll("[data-tool]")) button.addEventListener("click", () => setTool(button.dataset.tool));
  const inputs = document.querySelectorAll("[data-overlay]");
  for (const input of inputs) input.addEventListener("change", () => setOverlay(input));
  // What lies over the images from the start is loaded after them: it is compared with what they are.
  box.addEventListener("settled", () => {
    if (views[0].volume) for (const input of inputs) if (input.checked && !overlays.has(input.dataset.url)) setOverlay(input);
  });
  new ResizeObserver(drawAll).observe(stage);
  setLayout(innerWidth < 640 ? "one" : "three", false);
  views[0].open(fields.volume.selectedOptions[0]);
}

start();
