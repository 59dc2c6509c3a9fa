// dcmjs as a client of DICOMweb: node dicomweb.js URL STUDY INSTANCE; reads the metadata of a study, stores its first
// instance under a new UID as metadata with bulk data, and prints what came of it as JSON.
const dcmjs = require('dcmjs');

const [base, study, instance] = process.argv.slice(2);
const { DicomMetaDictionary } = dcmjs.data;
const BOUNDARY = 'dcmjs';

function part(type, body, location) {
  const head = `--${BOUNDARY}\r\nContent-Type: ${type}\r\n${location ? `Content-Location: ${location}\r\n` : ''}\r\n`;
  return Buffer.concat([Buffer.from(head), Buffer.from(body), Buffer.from('\r\n')]);
}

async function main() {
  const answer = await fetch(`${base}/studies/${study}/metadata`, { headers: { Accept: 'application/dicom+json' } });
  const models = await answer.json();
  const natural = DicomMetaDictionary.naturalizeDataset(models[0]);
  const uri = models[0]['7FE00010'].BulkDataURI;
  const pixels = await (await fetch(uri, { headers: { Accept: 'application/octet-stream' } })).arrayBuffer();
  const model = DicomMetaDictionary.denaturalizeDataset({ ...natural, SOPInstanceUID: instance, PixelData: undefined });
  model['7FE00010'] = { vr: 'OW', BulkDataURI: 'pixels' };
  const body = Buffer.concat([
    part('application/dicom+json', JSON.stringify([model])),
    part('application/octet-stream', Buffer.from(pixels), 'pixels'),
    Buffer.from(`--${BOUNDARY}--\r\n`),
  ]);
  const type = `multipart/related; type="application/dicom+json"; boundary=${BOUNDARY}`;
  const stored = await fetch(`${base}/studies/${study}`, { method: 'POST', body, headers: { 'Content-Type': type } });
  const name = [].concat(natural.PatientName)[0];
  console.log(JSON.stringify({ name: name.Alphabetic, rows: natural.Rows, status: stored.status, told: await stored.text() }));
}

main();
