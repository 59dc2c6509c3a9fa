// Reads ZIP files in the browser (APPNOTE.TXT 6.3.10, sections 4.3 and 4.4): the list at their end, and then each member
// when its turn comes. Members are stored or deflated; others, and encrypted ones, are reported as unreadable.

const END = 0x06054b50, END_64 = 0x06064b50, LOCATOR_64 = 0x07064b50, MEMBER = 0x02014b50, LOCAL = 0x04034b50;
const END_BYTES = 22, MAX_COMMENT = 65535, LOCATOR_64_BYTES = 20, MEMBER_BYTES = 46, LOCAL_BYTES = 30;
const MAX_LIST_BYTES = 256e6, MAX_MEMBER_BYTES = 4e9;
const FULL_32 = 0xffffffff;
const STORED = 0, DEFLATED = 8;

const view = async (file, begin, length) => new DataView(await file.slice(begin, begin + length).arrayBuffer());
const number64 = (data, at) => Number(data.getBigUint64(at, true));

export async function isZip(file) {
  const head = file.size >= END_BYTES ? (await view(file, 0, 4)).getUint32(0, true) : 0;
  return head === LOCAL || head === END;
}

// The members that are files: { name, size, problem, content() }; content returns a Blob.
export async function members(file) {
  const { count, begin, length } = await list(file);
  if (length > MAX_LIST_BYTES || begin + length > file.size) throw new Error("the list of the ZIP file is damaged");
  const data = await view(file, begin, length), found = [];
  for (let at = 0, number = 0; number < count; number += 1) {
    if (at + MEMBER_BYTES > data.byteLength || data.getUint32(at, true) !== MEMBER) throw new Error("the list of the ZIP file is damaged");
    const lengths = [28, 30, 32].map((offset) => data.getUint16(at + offset, true));
    const one = member(file, data, at, lengths);
    if (!one.name.endsWith("/")) found.push(one);
    at += MEMBER_BYTES + lengths[0] + lengths[1] + lengths[2];
  }
  return found;
}

async function list(file) {
  const tailBytes = Math.min(file.size, END_BYTES + MAX_COMMENT + LOCATOR_64_BYTES);
  const tail = await view(file, file.size - tailBytes, tailBytes);
  let at = tailBytes - END_BYTES;
  while (at >= 0 && tail.getUint32(at, true) !== END) at -= 1;
  if (at < 0) throw new Error("the ZIP file has no end: it is cut off");
  const short = { count: tail.getUint16(at + 10, true), length: tail.getUint32(at + 12, true), begin: tail.getUint32(at + 16, true) };
  const locator = at - LOCATOR_64_BYTES;
  if (locator < 0 || tail.getUint32(locator, true) !== LOCATOR_64) return short;
  const end = await view(file, number64(tail, locator + 8), 56);
  if (end.byteLength < 56 || end.getUint32(0, true) !== END_64) throw new Error("the list of the ZIP file is damaged");
  return { count: number64(end, 32), length: number64(end, 40), begin: number64(end, 48) };
}

function member(file, data, at, [nameBytes, extraBytes]) {
  const flags = data.getUint16(at + 8, true), method = data.getUint16(at + 10, true);
  const bytes = new Uint8Array(data.buffer, at + MEMBER_BYTES, nameBytes);
  const name = new TextDecoder(flags & 0x800 ? "utf-8" : "windows-1252").decode(bytes);
  let packed = data.getUint32(at + 20, true), size = data.getUint32(at + 24, true), begin = data.getUint32(at + 42, true);
  for (let extra = at + MEMBER_BYTES + nameBytes, end = extra + extraBytes; extra + 4 <= end;) {
    const length = data.getUint16(extra + 2, true);
    if (data.getUint16(extra, true) === 1) {
      let value = extra + 4;
      if (size === FULL_32) { size = number64(data, value); value += 8; }
      if (packed === FULL_32) { packed = number64(data, value); value += 8; }
      if (begin === FULL_32) begin = number64(data, value);
    }
    extra += 4 + length;
  }
  let problem = "";
  if (flags & 1) problem = "it is encrypted";
  else if (method !== STORED && method !== DEFLATED) problem = `its compression (method ${method}) is not known`;
  else if (size > MAX_MEMBER_BYTES) problem = "it is larger than 4 GB: take it out of the ZIP file";
  return { name, size, problem, content: () => content(file, begin, packed, size, method) };
}

async function content(file, begin, packed, size, method) {
  const head = await view(file, begin, LOCAL_BYTES);
  if (head.byteLength < LOCAL_BYTES || head.getUint32(0, true) !== LOCAL) throw new Error("the ZIP file is damaged here");
  const from = begin + LOCAL_BYTES + head.getUint16(26, true) + head.getUint16(28, true);
  const raw = file.slice(from, from + packed);
  if (method === STORED) return raw;
  const pieces = [], reader = raw.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  let taken = 0;
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    taken += piece.value.length;
    if (taken > size) { // a bomb says less than it holds
      await reader.cancel();
      throw new Error("it is larger than the ZIP file says");
    }
    pieces.push(piece.value);
  }
  if (taken !== size) throw new Error("it is cut off in the ZIP file");
  return new Blob(pieces);
}
