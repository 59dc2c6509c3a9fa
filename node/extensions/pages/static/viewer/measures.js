// Distances, angles and regions in a plane: what they come to, and how they are drawn. Loaded when one is first begun.
// A measure is { kind, plane (its name), points (places in the patient, RAS+ mm), isOpen (its last point still moves) }.
const version = new URL(import.meta.url).search;
const planes = await import(`./planes.js${version}`);

export const POINTS = { distance: 2, angle: 3, region: 2 };
const NAMES = { distance: "Distance", angle: "Angle", region: "Region" };
const COLOUR = "#ffd75e";
const GRAB_PIXELS = 10; // how far beside a point one may press to move it

const minus = (a, b) => a.map((part, axis) => part - b[axis]);
const readable = (number) => Math.abs(number) >= 100 ? number.toFixed(0) : Number(number.toPrecision(3)).toString();

// What a measure comes to, in words.
export function describe(measure, view) {
  const { volume, about, planes: own } = view, { kind, points } = measure;
  const name = NAMES[kind];
  if (points.length < POINTS[kind]) return name;
  // Without a position in the patient, the size of a pixel may be unknown, or be that of a detector.
  const isUneven = volume.hasPlace && about.geometry === "irregular" && own[measure.plane].across !== 2;
  if (isUneven && kind !== "region") return `${name}: uneven slices`;
  const at = volume.hasPlace ? points : points.map((place) => volume.toVoxel(place));
  if (kind === "distance") return `${name} ${Math.hypot(...minus(at[1], at[0])).toFixed(1)} ${volume.hasPlace ? "mm" : "pixels"}`;
  if (kind === "angle") {
    const [one, other] = [minus(at[0], at[1]), minus(at[2], at[1])];
    const cosine = one.reduce((sum, part, axis) => sum + part * other[axis], 0) / (Math.hypot(...one) * Math.hypot(...other));
    return Number.isNaN(cosine) ? name : `${name} ${(Math.acos(Math.min(1, Math.max(-1, cosine))) * 180 / Math.PI).toFixed(1)}°`;
  }
  return `${name} ${regionWords(measure, view, isUneven)}`;
}

// Area, and the values whose centres lie in the ellipse between two corners, on the slice of the region.
function regionWords(measure, { volume, time, planes: own, unit }, isUneven) {
  const plane = own[measure.plane], [first, last] = measure.points.map((place) => volume.toVoxel(place));
  const slice = Math.round(first[plane.across]);
  const [[u0, v0], [u1, v1]] = [first, last].map((voxel) => planes.toPixel(plane, voxel));
  const middle = [(u0 + u1) / 2, (v0 + v1) / 2], radii = [Math.abs(u1 - u0) / 2, Math.abs(v1 - v0) / 2];
  const area = Math.PI * radii[0] * radii[1];
  const words = [isUneven ? "uneven slices" : volume.hasPlace ? `${readable(area * plane.columnMm * plane.rowMm / 100)} cm²` : `${readable(area)} pixels`];
  if (volume.isColour) return words[0];
  let count = 0, sum = 0, squares = 0, low = Infinity, high = -Infinity;
  for (let v = Math.ceil(middle[1] - radii[1]); v <= middle[1] + radii[1]; v++) for (let u = Math.ceil(middle[0] - radii[0]); u <= middle[0] + radii[0]; u++) {
    if (((u - middle[0]) / radii[0]) ** 2 + ((v - middle[1]) / radii[1]) ** 2 > 1) continue;
    const value = volume.value(planes.toVoxel(plane, [u, v], slice), time);
    if (value === null || !Number.isFinite(value)) continue;
    count += 1; sum += value; squares += value * value;
    low = Math.min(low, value); high = Math.max(high, value);
  }
  if (!count) return words[0];
  const mean = sum / count, deviation = Math.sqrt(Math.max(0, squares / count - mean * mean));
  words.push(`mean ${readable(mean)}${unit ? ` ${unit}` : ""}`, `SD ${readable(deviation)}`, `${readable(low)} to ${readable(high)}`, `${count} voxels`);
  return words.join(" · ");
}

// Whether a measure lies on the slice that a pane shows.
export function isShown({ plane, points }, pane) {
  const { view, plane: shown } = pane;
  if (plane !== pane.name) return false;
  return points.every((place) => Math.abs(view.volume.toVoxel(place)[shown.across] - view.slice(shown)) <= 0.5);
}

// The measure and the number of its point below a point of the canvas; undefined: none.
export function pointAt(pane, [x, y], ratio) {
  for (const measure of pane.view.measures) {
    if (!isShown(measure, pane)) continue;
    const number = measure.points.findIndex((place) => {
      const [u, v] = pane.toScreen(pane.view.volume.toVoxel(place));
      return Math.hypot(u - x, v - y) < GRAB_PIXELS * ratio;
    });
    if (number >= 0) return { measure, number };
  }
  return undefined;
}

export function draw(context, ratio, pane) {
  for (const measure of pane.view.measures) if (isShown(measure, pane)) drawOne(context, ratio, pane, measure);
}

function drawOne(context, ratio, pane, measure) {
  const ends = measure.points.map((place) => pane.toScreen(pane.view.volume.toVoxel(place)));
  context.strokeStyle = context.fillStyle = COLOUR;
  context.lineWidth = 1.5 * ratio;
  context.beginPath();
  if (measure.kind === "region") {
    const [[x0, y0], [x1, y1]] = ends;
    context.ellipse((x0 + x1) / 2, (y0 + y1) / 2, Math.abs(x1 - x0) / 2, Math.abs(y1 - y0) / 2, 0, 0, 2 * Math.PI);
  } else {
    context.moveTo(...ends[0]);
    for (const end of ends.slice(1)) context.lineTo(...end);
  }
  context.stroke();
  for (const [x, y] of ends) context.fillRect(x - 2 * ratio, y - 2 * ratio, 4 * ratio, 4 * ratio);
  const [x, y] = ends.at(-1), words = describe(measure, pane.view).split(" · ").slice(0, 2).join(" · ").replace(/^\w+ /, "");
  context.font = `${13 * ratio}px system-ui, sans-serif`;
  context.shadowColor = "#000";
  context.shadowBlur = 4 * ratio;
  const { width } = context.measureText(words), within = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));
  context.fillText(words, within(x + 8 * ratio, 0, context.canvas.width - width - 4 * ratio), within(y - 8 * ratio, 16 * ratio, context.canvas.height));
  context.shadowBlur = 0;
}
