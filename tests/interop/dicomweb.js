// dcmjs as a client of DICOMweb: node dicomweb.js URL STUDY INSTANCE; reads the metadata of a study, stores its first
// instance under a new UID as a DICOM file, and prints what came of it as JSON.
const dcmjs = require('dcmjs');

const [base, study, instance] = process.argv.slice(2);
const { DicomDict, DicomMetaDictionary } = dcmjs.data;
async function main() {
  const answer = await fetch(`${base}/studies/${study}/metadata`, { headers: { Accept: 'application/dicom+json' } });
  const models = await answer.json();
  const natural = DicomMetaDictionary.naturalizeDataset(models[0]);
  const uri = models[0]['7FE00010'].BulkDataURI;
  const pixels = await (await fetch(uri, { headers: { Accept: 'application/octet-stream' } })).arrayBuffer();
  const changed = { ...natural, SOPInstanceUID: instance, PixelData: [pixels], _vrMap: { PixelData: 'OW' } };
  const file = new DicomDict({
    '00020002': { vr: 'UI', Value: [natural.SOPClassUID] },
    '00020003': { vr: 'UI', Value: [instance] },
    '00020010': { vr: 'UI', Value: ['1.2.840.10008.1.2.1'] },
  });
  file.dict = DicomMetaDictionary.denaturalizeDataset(changed);
  const body = Buffer.from(file.write());
  const headers = { 'Content-Type': 'application/dicom' };
  const stored = await fetch(`${base}/studies/${study}`, { method: 'POST', body, headers });
  const name = [].concat(natural.PatientName)[0];
  console.log(JSON.stringify({ name: name.Alphabetic, rows: natural.Rows, status: stored.status, told: await stored.text() }));
}

main();
