// Volumes as the node writes them (NIfTI, MetaImage, .hdr/.img), streamed: the first time can be shown while the rest
// arrives. Places are in mm, RAS+ as in NIfTI; voxels are indices [column, row, slice] from 0, at the voxel's centre.

const NIFTI_TYPES = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array, 128: Uint8Array, 256: Int8Array,
  512: Uint16Array, 768: Uint32Array,
};
const META_TYPES = {
  MET_UCHAR: Uint8Array, MET_CHAR: Int8Array, MET_USHORT: Uint16Array, MET_SHORT: Int16Array, MET_UINT: Uint32Array,
  MET_INT: Int32Array, MET_FLOAT: Float32Array, MET_DOUBLE: Float64Array,
};
const NIFTI_RGB = 128;

// What one volume may take in memory: an eighth of that of the machine, as far as a browser tells.
export const MAX_BYTES = (navigator.deviceMemory || 4) * 128e6;
// From here on, the node's reduced volume is shown first: it takes a second, and a whole CT of the body ten.
export const REDUCED_FROM_BYTES = 48e6;

const SAMPLES = 200000; // voxels that are looked at for a window

export class Volume {
  constructor(about) {
    // about: dims [columns, rows, slices, times], Type, isColour, slope, intercept, affine (rows of 4) or null,
    // spacing [mm], window [low, high] or null
    Object.assign(this, about);
    this.samples = this.isColour ? 3 : 1;
    this.perTime = this.dims[0] * this.dims[1] * this.dims[2] * this.samples;
    this.times = 0; // that are here
    if (!this.affine) this.affine = this.spacing.map((mm, axis) => [0, 1, 2, 3].map((column) => column === axis ? mm : 0));
    this.inverse = inverted(this.affine);
    this.step = 1;
  }

  get bytesOfTime() { return this.perTime * this.Type.BYTES_PER_ELEMENT; }

  toPlace(voxel) { return times(this.affine, voxel); }

  toVoxel(place) { return times(this.inverse, place); }

  // Index in `data` of a voxel, or -1 outside.
  index(voxel, time = 0) {
    const [i, j, k] = voxel.map(Math.round);
    const [columns, rows, slices] = this.dims;
    if (i < 0 || j < 0 || k < 0 || i >= columns || j >= rows || k >= slices) return -1;
    return time * this.perTime + ((k * rows + j) * columns + i) * this.samples;
  }

  // A value with slope and intercept, an array of three for colour, or null outside.
  value(voxel, time = 0) {
    const at = this.index(voxel, time);
    if (at < 0) return null;
    return this.isColour ? [...this.data.subarray(at, at + 3)] : this.data[at] * this.slope + this.intercept;
  }

  // {low, high}: the range of the values of the first time; {usualLow, usualHigh}: without the outermost 1 %;
  // share(from, to): which part of what is not air lies between two values.
  get range() {
    if (this.known) return this.known;
    const every = Math.max(1, Math.floor(this.perTime / SAMPLES));
    const seen = [];
    let low = Infinity, high = -Infinity;
    for (let at = 0; at < this.perTime; at++) {
      const value = this.data[at];
      if (value < low) low = value;
      if (value > high) high = value;
      if (at % every === 0 && Number.isFinite(value)) seen.push(value);
    }
    if (!(high > low)) high = low + 1;
    seen.sort((a, b) => a - b);
    // Most of a picture may be air of one value: the window is that of the rest.
    const inside = seen.filter((value) => value > seen[0]);
    const usual = inside.length > seen.length / 50 ? inside : seen;
    const at = (share) => usual.length ? usual[Math.min(usual.length - 1, Math.floor(share * usual.length))] : low;
    const real = (value) => value * this.slope + this.intercept;
    const [first, last] = [real(low), real(high)], [from, to] = [real(at(0.01)), real(at(0.99))];
    this.known = {
      low: Math.min(first, last), high: Math.max(first, last),
      usualLow: Math.min(from, to), usualHigh: from === to ? to + 1 : Math.max(from, to),
      share: (lowest, highest) => usual.filter((value) => real(value) >= lowest && real(value) <= highest).length / (usual.length || 1),
    };
    return this.known;
  }

  // The voxel in the middle: of what is not 0 in a label volume, if anything is, else of the grid.
  middle(isLabels) {
    const [columns, rows, slices] = this.dims, sum = [0, 0, 0];
    let count = 0;
    for (let at = 0, k = 0; isLabels && k < slices; k++) for (let j = 0; j < rows; j++) for (let i = 0; i < columns; i++, at++) {
      if (!this.data[at]) continue;
      sum[0] += i; sum[1] += j; sum[2] += k;
      count++;
    }
    return count ? sum.map((part) => Math.round(part / count)) : this.dims.slice(0, 3).map((size) => Math.floor(size / 2));
  }

  // The values of the first time that are not 0, ascending, at most `most` of them.
  labels(most) {
    const found = new Set();
    for (let at = 0; at < this.perTime && found.size < most; at++) if (this.data[at]) found.add(this.data[at]);
    return [...found].sort((a, b) => a - b);
  }
}

// Load a file of the node. `onTime(volume)` is called when a time is complete; it returns false to stop.
// Resolves to the volume with all times that fit into MAX_BYTES. Rejects with TooLarge if one time has more than
// `maxBytes`.
export async function load(url, { signal, onTime = () => true, onBytes = () => {}, maxBytes = MAX_BYTES } = {}) {
  const { volume, reader, rest } = await opened(url, signal);
  if (volume.bytesOfTime > maxBytes) {
    await reader.cancel();
    throw new TooLarge(volume);
  }
  const allowed = Math.max(1, Math.min(volume.dims[3], Math.floor(MAX_BYTES / volume.bytesOfTime)));
  const bytes = new Uint8Array(volume.bytesOfTime * allowed);
  volume.data = new volume.Type(bytes.buffer);
  let at = 0, piece = rest, isStopped = false;
  for (;;) {
    if (piece) {
      const taken = piece.subarray(0, bytes.length - at);
      bytes.set(taken, at);
      at += taken.length;
      onBytes(at, bytes.length);
      const complete = Math.floor(at / volume.bytesOfTime);
      if (complete > volume.times) {
        volume.times = complete;
        // The whole file is read to its end, where its checksum is.
        isStopped = onTime(volume) === false || (complete === allowed && allowed < volume.dims[3]);
        if (isStopped) break;
      }
    }
    const read = await reader.read();
    if (read.done) break;
    piece = read.value;
  }
  await reader.cancel();
  if (volume.times < allowed && !isStopped) throw new Error("the file is shorter than its header says");
  return volume;
}

// The node's reduced copy of a volume, a NIfTI file whatever the volume is.
export const reducedUrl = (url, onlyBody = false) => `${url}/reduced?only_body=${onlyBody}`;

export class TooLarge extends Error {
  constructor(volume) {
    super(`one time of the volume has ${Math.round(volume.bytesOfTime / 1e6)} MB`);
    this.volume = volume;
  }
}

async function opened(url, signal) {
  const path = url.split("?")[0];
  if (path.endsWith(".mhd")) return metaImage(url, signal);
  const isPair = path.endsWith(".hdr");
  const header = await stream(url, signal, path.endsWith(".nii") || isPair ? "" : "gzip");
  const { volume, offset } = nifti(await header.first(544));
  if (!isPair) return { volume, reader: header.reader, rest: await header.after(offset) };
  await header.reader.cancel();
  const image = await stream(url.replace(/\.hdr$/, ".img"), signal, "");
  return { volume, reader: image.reader, rest: null };
}

async function stream(url, signal, packing) {
  const response = await fetch(url, { signal, credentials: "same-origin" });
  if (!response.ok) throw new Error(`the node answered with HTTP status ${response.status}`);
  const body = packing ? response.body.pipeThrough(new DecompressionStream(packing)) : response.body;
  const reader = body.getReader();
  let held = new Uint8Array(0);
  const first = async (count) => {
    while (held.length < count) {
      const { done, value } = await reader.read();
      if (done) break;
      const longer = new Uint8Array(held.length + value.length);
      longer.set(held);
      longer.set(value, held.length);
      held = longer;
    }
    return held;
  };
  return { reader, first, after: async (offset) => (await first(offset)).subarray(offset) };
}

function nifti(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length >= 348 ? view.getInt32(0, true) : 0;
  if (size !== 348 && size !== 540) throw new Error("this is not a NIfTI file");
  const isLong = size === 540;
  const short = (at) => view.getInt16(at, true), float = (at) => view.getFloat32(at, true);
  const double = (at) => view.getFloat64(at, true), long = (at) => Number(view.getBigInt64(at, true));
  const dim = (axis) => isLong ? long(16 + 8 * axis) : short(40 + 2 * axis);
  const zoom = (axis) => isLong ? double(104 + 8 * axis) : float(76 + 4 * axis);
  const kind = short(isLong ? 12 : 70);
  const Type = NIFTI_TYPES[kind];
  if (!Type) throw new Error(`the viewer does not read voxels of NIfTI type ${kind}`);
  const row = (index) => [0, 1, 2, 3].map((column) => isLong ? double(400 + 32 * index + 8 * column) : float(280 + 16 * index + 4 * column));
  const hasAffine = isLong ? view.getInt32(348, true) > 0 : short(254) > 0;
  const slope = isLong ? double(176) : float(112), low = isLong ? double(200) : float(128), high = isLong ? double(192) : float(124);
  const count = dim(0);
  return {
    offset: isLong ? long(168) : float(108),
    volume: new Volume({
      dims: [1, 2, 3, 4].map((axis) => axis <= count ? Math.max(1, dim(axis)) : 1),
      spacing: [1, 2, 3].map((axis) => zoom(axis) || 1),
      seconds: count > 3 ? zoom(4) : 0,
      Type, isColour: kind === NIFTI_RGB,
      slope: slope || 1, intercept: slope ? (isLong ? double(184) : float(116)) : 0,
      affine: hasAffine ? [row(0), row(1), row(2)] : null, hasPlace: hasAffine,
      window: high > low ? [low, high] : null,
    }),
  };
}

async function metaImage(url, signal) {
  const response = await fetch(url, { signal, credentials: "same-origin" });
  if (!response.ok) throw new Error(`the node answered with HTTP status ${response.status}`);
  const fields = Object.fromEntries((await response.text()).split("\n").map((line) => line.split("=").map((part) => part.trim())).filter((pair) => pair.length === 2));
  const numbers = (name) => (fields[name] || "").split(/\s+/).map(Number);
  const dims = [...numbers("DimSize"), 1, 1].slice(0, 4), spacing = [...numbers("ElementSpacing"), 1, 1];
  const Type = META_TYPES[fields.ElementType];
  if (!Type) throw new Error(`the viewer does not read voxels of MetaImage type ${fields.ElementType}`);
  const axes = numbers("DimSize").length, matrix = numbers("TransformMatrix"), offset = numbers("Offset");
  // MetaImage has one row of the matrix for each axis of the grid, in LPS+; a plane of two axes has no place.
  const affine = axes < 3 ? null : [0, 1, 2].map((axis) => [0, 1, 2].map((column) => (axis < 2 ? -1 : 1) * matrix[column * axes + axis] * spacing[column]).concat((axis < 2 ? -1 : 1) * offset[axis]));
  const volume = new Volume({
    dims, spacing: spacing.slice(0, 3), seconds: axes > 3 ? spacing[3] : 0, Type, isColour: fields.ElementNumberOfChannels === "3",
    slope: 1, intercept: 0, affine, hasPlace: axes > 2, window: null,
  });
  const data = await stream(new URL(fields.ElementDataFile, new URL(url, location.href)).pathname, signal, fields.CompressedData === "True" ? "deflate" : "");
  return { volume, reader: data.reader, rest: null };
}

function times(matrix, [x, y, z]) {
  return matrix.map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
}

function inverted(matrix) {
  const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = matrix;
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const rows = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / determinant));
  return rows.map((row) => [...row, -(row[0] * x + row[1] * y + row[2] * z)]);
}
