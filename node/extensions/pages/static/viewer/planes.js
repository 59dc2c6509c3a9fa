// Planes of a volume: which voxels they show, how they lie on the screen, and their pixels.

// From the patient's axes (RAS+) to the screen, in the radiological convention: the patient's right at the left of the
// screen, the nose at the left of a sagittal plane. [axis to the right, axis downwards, axis across], all negative.
const PLANES = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] };
const LETTERS = [["L", "R"], ["P", "A"], ["I", "S"]]; // negative and positive end of each axis of the patient
const OBLIQUE = 0.35; // sine of 20 degrees: from here on, a side has a second letter

export const NAMES = Object.keys(PLANES);

// The planes of a volume by name.
export function planesOf(volume) {
  if (!volume.hasPlace) return { axial: plane(volume, "axial", [0, 1, 2], [1, 1, 1]) };
  const cosines = [0, 1, 2].map((axis) => {
    const column = volume.affine.map((row) => row[axis]), length = Math.hypot(...column);
    return column.map((part) => part / length);
  });
  // The axis of the grid that lies along each axis of the patient.
  const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
  const fit = (order) => order.reduce((sum, axis, patient) => sum + Math.abs(cosines[axis][patient]), 0);
  const axes = orders.reduce((best, order) => fit(order) > fit(best) + 1e-9 ? order : best);
  const signs = axes.map((axis, patient) => Math.sign(cosines[axis][patient]) || 1);
  return Object.fromEntries(Object.entries(PLANES).map(([name, patients]) => {
    const own = patients.map((patient) => axes[patient]);
    const flips = patients.map((patient) => -signs[patient]);
    return [name, plane(volume, name, own, flips, cosines)];
  }));
}

// The name of the plane in which the volume was acquired: across its slices.
export function acquired(volume, planes) {
  const across = volume.dims[2] > 1 ? 2 : [0, 1, 2].reduce((least, axis) => volume.dims[axis] < volume.dims[least] ? axis : least, 2);
  return NAMES.find((name) => planes[name] && planes[name].across === across) || "axial";
}

function plane(volume, name, [right, down, across], [rightSign, downSign], cosines) {
  const mm = [0, 1, 2].map((axis) => Math.hypot(...volume.affine.map((row) => row[axis])));
  const letters = cosines ? {
    right: ends(cosines[right], rightSign), left: ends(cosines[right], -rightSign),
    bottom: ends(cosines[down], downSign), top: ends(cosines[down], -downSign),
  } : null;
  return {
    name, right, down, across, rightSign, downSign, letters,
    columns: volume.dims[right], rows: volume.dims[down], slices: volume.dims[across],
    columnMm: mm[right], rowMm: mm[down], sliceMm: mm[across],
  };
}

// Where a direction leads in the patient: one letter, or two if it is oblique.
function ends(cosine, sign) {
  return [0, 1, 2].filter((axis) => Math.abs(cosine[axis]) > OBLIQUE || Math.abs(cosine[axis]) === Math.max(...cosine.map(Math.abs)))
    .sort((a, b) => Math.abs(cosine[b]) - Math.abs(cosine[a]))
    .map((axis) => LETTERS[axis][cosine[axis] * sign > 0 ? 1 : 0]).join("");
}

// A plane turned clockwise by quarters, then flipped from left to right.
export function turned(plane, quarters, isFlipped) {
  let { right, down, rightSign, downSign, letters, columns, rows, columnMm, rowMm } = plane;
  for (let quarter = 0; quarter < quarters; quarter++) {
    [right, down, rightSign, downSign] = [down, right, -downSign, rightSign];
    [columns, rows, columnMm, rowMm] = [rows, columns, rowMm, columnMm];
    letters &&= { top: letters.left, right: letters.top, bottom: letters.right, left: letters.bottom };
  }
  if (isFlipped) {
    rightSign = -rightSign;
    letters &&= { ...letters, left: letters.right, right: letters.left };
  }
  return { ...plane, right, down, rightSign, downSign, letters, columns, rows, columnMm, rowMm };
}

// Column and row of a voxel in a plane as it lies on the screen, and back.
export function toPixel(plane, voxel) {
  const u = voxel[plane.right], v = voxel[plane.down];
  return [plane.rightSign > 0 ? u : plane.columns - 1 - u, plane.downSign > 0 ? v : plane.rows - 1 - v];
}

export function toVoxel(plane, [x, y], slice) {
  const voxel = [0, 0, 0];
  voxel[plane.right] = plane.rightSign > 0 ? x : plane.columns - 1 - x;
  voxel[plane.down] = plane.downSign > 0 ? y : plane.rows - 1 - y;
  voxel[plane.across] = slice;
  return voxel;
}

export const SLABS = {
  slice: null,
  mip: (a, b) => a > b ? a : b,
  minip: (a, b) => a < b ? a : b,
  mean: (a, b) => a + b,
};

// Where the pixels of a plane are in the data of a volume: of the first one, and from one to the next.
function pathOf(volume, plane, time) {
  const strides = [1, volume.dims[0], volume.dims[0] * volume.dims[1]].map((stride) => stride * volume.samples);
  const first = (axis, sign, count) => sign < 0 ? (count - 1) * strides[axis] : 0;
  return {
    start: time * volume.perTime + first(plane.right, plane.rightSign, plane.columns) + first(plane.down, plane.downSign, plane.rows),
    right: strides[plane.right] * plane.rightSign, down: strides[plane.down] * plane.downSign, across: strides[plane.across],
  };
}

// Real values of a plane, rows from top to bottom: a slice, or the projection of a slab of `thickness` slices around it.
function values(volume, plane, { slice, time, slab, thickness }) {
  const out = new Float32Array(plane.columns * plane.rows), join = SLABS[slab], path = pathOf(volume, plane, time);
  const first = join ? Math.max(0, slice - Math.floor(thickness / 2)) : slice;
  const last = join ? Math.min(plane.slices - 1, first + thickness - 1) : slice;
  const { data, slope, intercept } = volume;
  for (let one = first; one <= last; one++) {
    for (let y = 0, to = 0; y < plane.rows; y++) {
      let from = path.start + one * path.across + y * path.down;
      for (let x = 0; x < plane.columns; x++, from += path.right, to++) {
        const value = data[from] * slope + intercept;
        out[to] = one > first ? join(out[to], value) : value;
      }
    }
  }
  if (slab === "mean") for (let at = 0; at < out.length; at++) out[at] /= last - first + 1;
  return out;
}

// Draw a plane into an image of its columns and rows.
// look: { slice, time, slab, thickness, low, high, colours (256 x RGB), isInverted, overlays, opacity }
export function paint(image, volume, plane, look) {
  const pixels = image.data;
  if (volume.isColour) paintColour(pixels, volume, plane, look);
  else paintValues(pixels, values(volume, plane, look), look);
  for (const overlay of look.overlays) blend(pixels, volume, plane, look, overlay);
}

function paintValues(pixels, shown, { low, high, colours, isInverted }) {
  const scale = 255 / (high - low || 1);
  for (let at = 0, to = 0; at < shown.length; at++, to += 4) {
    let level = (shown[at] - low) * scale;
    level = level > 0 ? (level < 255 ? level | 0 : 255) : 0; // NaN is 0
    if (isInverted) level = 255 - level;
    level *= 3;
    pixels[to] = colours[level];
    pixels[to + 1] = colours[level + 1];
    pixels[to + 2] = colours[level + 2];
    pixels[to + 3] = 255;
  }
}

function paintColour(pixels, volume, plane, { slice, time, isInverted }) {
  const { data } = volume, path = pathOf(volume, plane, time), flip = isInverted ? 255 : 0;
  for (let y = 0, to = 0; y < plane.rows; y++) {
    let from = path.start + slice * path.across + y * path.down;
    for (let x = 0; x < plane.columns; x++, from += path.right, to += 4) {
      for (let part = 0; part < 3; part++) pixels[to + part] = data[from + part] ^ flip;
      pixels[to + 3] = 255;
    }
  }
}

// Lay another volume over a plane, by its place in the patient: labels in their colours, values in a scale of colours.
function blend(pixels, volume, plane, { slice, time, opacity }, overlay) {
  const other = overlay.volume;
  const at = (x, y) => other.toVoxel(volume.toPlace(toVoxel(plane, [x, y], slice)));
  const origin = at(0, 0), right = at(1, 0).map((part, axis) => part - origin[axis]), down = at(0, 1).map((part, axis) => part - origin[axis]);
  const [columns, rows, slices] = other.dims, layer = columns * rows;
  const ofTime = Math.min(time, other.times - 1) * other.perTime;
  const { data, slope, intercept } = other, { colours, low, high, byLabel } = overlay;
  for (let y = 0, to = 0; y < plane.rows; y++) {
    let i = origin[0] + y * down[0], j = origin[1] + y * down[1], k = origin[2] + y * down[2];
    for (let x = 0; x < plane.columns; x++, to += 4, i += right[0], j += right[1], k += right[2]) {
      const ni = Math.round(i), nj = Math.round(j), nk = Math.round(k);
      if (ni < 0 || nj < 0 || nk < 0 || ni >= columns || nj >= rows || nk >= slices) continue;
      let red, green, blue;
      if (byLabel) {
        const label = data[ofTime + nk * layer + nj * columns + ni];
        if (!label) continue;
        const colour = byLabel.get(label);
        if (!colour) continue;
        [red, green, blue] = colour;
      } else {
        const value = between(data, ofTime, columns, rows, slices, i, j, k) * slope + intercept;
        if (!(value > low)) continue;
        const level = 3 * Math.min(255, ((value - low) / (high - low) * 255) | 0);
        red = colours[level]; green = colours[level + 1]; blue = colours[level + 2];
      }
      pixels[to] += (red - pixels[to]) * opacity;
      pixels[to + 1] += (green - pixels[to + 1]) * opacity;
      pixels[to + 2] += (blue - pixels[to + 2]) * opacity;
    }
  }
}

// The stored value between voxels, linear along each axis.
function between(data, start, columns, rows, slices, i, j, k) {
  const clamp = (value, size) => value < 0 ? 0 : value > size - 1 ? size - 1 : value;
  i = clamp(i, columns); j = clamp(j, rows); k = clamp(k, slices);
  const i0 = Math.floor(i), j0 = Math.floor(j), k0 = Math.floor(k);
  const stepI = i0 < columns - 1 ? 1 : 0, stepJ = j0 < rows - 1 ? columns : 0, stepK = k0 < slices - 1 ? columns * rows : 0;
  const fi = i - i0, fj = j - j0, fk = k - k0;
  const at = start + (k0 * rows + j0) * columns + i0;
  const row = (from) => data[from] + (data[from + stepI] - data[from]) * fi;
  const layer = (from) => { const first = row(from); return first + (row(from + stepJ) - first) * fj; };
  const near = layer(at);
  return near + (layer(at + stepK) - near) * fk;
}

// Scales of 256 colours, from stops of [red, green, blue].
const STOPS = {
  gray: [[0, 0, 0], [255, 255, 255]],
  hot: [[0, 0, 0], [180, 0, 0], [255, 140, 0], [255, 255, 120], [255, 255, 255]],
  viridis: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
  dose: [[0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]],
  phase: [[255, 60, 60], [220, 200, 0], [0, 170, 80], [0, 160, 220], [120, 60, 255], [255, 60, 60]],
};

export const scale = (name) => {
  const stops = STOPS[name] || STOPS.gray;
  const colours = new Uint8Array(768);
  for (let level = 0; level < 256; level++) {
    const place = level / 255 * (stops.length - 1), from = Math.min(Math.floor(place), stops.length - 2);
    for (let part = 0; part < 3; part++) colours[3 * level + part] = stops[from][part] + (stops[from + 1][part] - stops[from][part]) * (place - from);
  }
  return colours;
};

// A colour for a label that has none of its own: neighbours differ clearly.
export function labelColour(label) {
  const hue = (label * 137.508 + 200) % 360, part = (shift) => {
    const place = (shift + hue / 30) % 12;
    return Math.round(255 * (0.58 - 0.38 * Math.max(-1, Math.min(place - 3, 9 - place, 1))));
  };
  return [part(0), part(8), part(4)];
}
