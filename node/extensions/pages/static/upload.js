// Upload: each file, also each one in a ZIP file, is its own STOW-RS request (PS3.18 10.5), with its own answer.
import { isZip, members } from "./zip.js";

{
  const byId = (id) => document.getElementById(id);
  const drop = byId("drop"), list = byId("list"), total = byId("total");

  const MAX_PARALLEL = 3;
  const SHOWN_ROWS = 1000; // beyond this, rows of stored and skipped files are removed
  const SHOWN_SKIPPED = 200;
  const MAX_DEPTH = 2; // of ZIP files in ZIP files
  const waiting = [], failed = [], studies = new Set();
  let count = 0, done = 0, stored = 0, skipped = 0, refused = 0, running = 0, isStopped = false;

  const sized = (bytes) => bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

  function row(file) {
    const made = list.insertRow(), outcome = made.insertCell();
    outcome.textContent = "…";
    const name = document.createElement("th");
    name.scope = "row";
    name.append(path(file.name));
    made.append(name);
    const size = made.insertCell();
    size.className = "number";
    size.textContent = sized(file.size);
    const progress = document.createElement("progress");
    progress.max = 1;
    progress.value = 0;
    progress.setAttribute("aria-label", `Progress of ${file.name}`);
    made.insertCell().append(progress);
    return { made, progress, outcome };
  }

  // A path that is cut in the middle: of a long one, the end tells the file.
  function path(whole) {
    const shown = document.createElement("bdi"), head = document.createElement("span"), tail = document.createElement("span");
    const letters = [...whole], cut = Math.max(letters.length - 24, 0);
    head.className = "path-head";
    head.textContent = letters.slice(0, cut).join("");
    tail.className = "path-tail";
    tail.textContent = letters.slice(cut).join("");
    shown.className = "path";
    shown.title = whole;
    shown.append(head, tail);
    return shown;
  }

  function showOutcome(shown, tone, label, detail) {
    const chip = document.createElement("span");
    chip.className = `chip ${tone}`;
    chip.textContent = label;
    shown.outcome.replaceChildren(chip, detail ? ` ${detail}` : "");
    shown.progress.value = 1;
    shown.progress.className = tone;
  }

  function summarise() {
    total.max = Math.max(count, 1);
    total.value = done;
    total.className = refused ? "bad" : done === count ? "good" : "";
    const remaining = done < count && !isStopped ? `, ${count - done} remaining` : "";
    byId("summary").textContent = `${done} of ${count} ${count === 1 ? "file" : "files"}: ${stored} stored, ${skipped} skipped, ${refused} refused${remaining}`;
    byId("retry").hidden = !failed.length || running > 0;
    byId("stop").hidden = done >= count || isStopped;
  }

  // PS3.18 table 10.5.3-1 and PS3.4 B.2.3: the meaning of Failure Reasons.
  function reason(status, answer) {
    const code = answer?.["00081198"]?.Value?.[0]?.["00081197"]?.Value?.[0];
    if (code !== undefined) {
      const hex = `0x${code.toString(16).toUpperCase().padStart(4, "0")}`;
      if (code >= 0xA700 && code < 0xA800) return `the node is out of resources (${hex}): see Status, then retry`;
      if (code >= 0xC000 && code < 0xD000) return `the data set cannot be read (${hex})`;
      if (code === 0x0122) return `SOP class not supported (${hex})`;
      if (code === 0x0110) return `processing failure (${hex}): see the log of the node`;
      return `refused (${hex})`;
    }
    if (answer?.detail) return answer.detail;
    return { 0: "the node did not answer", 401: "sign in again", 403: "your account may not store files", 409: "refused", 413: "too large", 415: "not a DICOM file", 503: "the node accepts nothing now: see Status" }[status] || `answered with ${status}`;
  }

  function ended(file, shown, status, text) {
    let answer = null;
    try { answer = JSON.parse(text); } catch { /* not JSON: use the status */ }
    running -= 1;
    done += 1;
    if (status === 200 && !answer?.["00081198"]?.Value?.length) {
      stored += 1;
      showOutcome(shown, "good", "stored");
      showStudy(answer);
      if (list.rows.length > SHOWN_ROWS) shown.made.remove();
    } else {
      refused += 1;
      if (status === 0 || status >= 500 || status === 429) failed.push(file);
      showOutcome(shown, "bad", "refused", reason(status, answer));
      list.prepend(shown.made);
    }
    summarise();
    next();
  }

  // The row of the list of studies, which goes on telling what becomes of the study.
  function showStudy(answer) {
    const uid = answer?.["00081190"]?.Value?.[0]?.match(/\/studies\/([^/?]+)/)?.[1];
    if (!uid || studies.has(uid)) return;
    studies.add(uid);
    byId("stored").hidden = false;
    // htmx sends one request of an element at a time, so each row asks for itself.
    const row = byId("stored-rows").insertRow();
    htmx.ajax("GET", `/studies/${uid}/row`, { source: row, target: row, swap: "outerHTML" }).catch(() => {
      row.remove();
      studies.delete(uid); // the next file of the study asks again
    });
  }

  function skip(file, shown, why) {
    running -= 1;
    done += 1;
    skipped += 1;
    showOutcome(shown, "plain", "skipped", why);
    if (list.rows.length > SHOWN_ROWS) shown.made.remove();
    byId("skipped").hidden = false;
    byId("skipped-count").textContent = `${skipped} skipped`;
    if (skipped <= SHOWN_SKIPPED) {
      const item = document.createElement("li");
      item.append(path(file.name), `: ${why}`);
      byId("skipped-list").append(item);
    }
    summarise();
    next();
  }

  async function isDicom(content) {
    // PS3.10 7.1: 128 bytes, then the prefix
    const head = new Uint8Array(await content.slice(128, 132).arrayBuffer());
    return String.fromCharCode(...head) === "DICM";
  }

  async function send(file) {
    const shown = row(file);
    try {
      if (file.problem) throw new Error(file.problem);
      const content = await file.content();
      if (await isDicom(content)) upload(file, shown, content);
      else if (!(await isZip(content))) skip(file, shown, "not a DICOM file (PS3.10)");
      else if (file.depth >= MAX_DEPTH) skip(file, shown, "a ZIP file too deep in others");
      else open(file, shown, await members(content));
    } catch (error) {
      skip(file, shown, error instanceof DOMException ? "it cannot be read" : error.message);
    }
  }

  // A ZIP file is none of the files; its members are.
  function open(file, shown, inside) {
    shown.made.remove();
    running -= 1;
    count -= 1;
    take(inside.map((one) => ({ ...one, name: `${file.name}/${one.name}`, depth: file.depth + 1 })));
    summarise();
    next();
  }

  function upload(file, shown, content) {
    const boundary = `voxelnode-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
    const body = new Blob([`--${boundary}\r\nContent-Type: application/dicom\r\n\r\n`, content, `\r\n--${boundary}--\r\n`]);
    const request = new XMLHttpRequest();
    request.open("POST", drop.dataset.target);
    request.setRequestHeader("Content-Type", `multipart/related; type="application/dicom"; boundary=${boundary}`);
    request.setRequestHeader("Accept", "application/dicom+json");
    request.upload.addEventListener("progress", (event) => { shown.progress.value = event.loaded / event.total; });
    request.addEventListener("loadend", () => ended(file, shown, request.status, request.responseText));
    request.send(body);
  }

  const chosen = (file) => ({ name: file.webkitRelativePath || file.name, size: file.size, depth: 0, content: async () => file });

  function next() {
    while (running < MAX_PARALLEL && waiting.length && !isStopped) {
      running += 1;
      send(waiting.shift());
    }
  }

  function take(files) {
    if (!files.length) return;
    isStopped = false;
    byId("transfer").hidden = false;
    count += files.length;
    waiting.push(...files);
    summarise();
    next();
  }

  async function filesIn(entry) {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader(), files = [];
    for (;;) {
      const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!entries.length) return files;
      for (const inner of entries) files.push(...await filesIn(inner));
    }
  }

  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    // Read all entries now: the browser clears the list after the first await.
    const dropped = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry() || item.getAsFile()).filter(Boolean);
    for (const entry of dropped) take((entry instanceof File ? [entry] : await filesIn(entry)).map(chosen));
  });
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", (event) => { take([...event.target.files].map(chosen)); event.target.value = ""; });
  }
  byId("retry").addEventListener("click", () => {
    const again = failed.splice(0);
    count -= again.length;
    done -= again.length;
    refused -= again.length;
    take(again);
  });
  byId("stop").addEventListener("click", () => {
    isStopped = true;
    count -= waiting.length;
    waiting.length = 0;
    summarise();
  });
  addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });
}
