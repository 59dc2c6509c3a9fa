// One request of dcmjs-dimse to a node: node client.js VERB PORT [ARGUMENT]...; prints what came of it as JSON.
const { Client, Server, Scp, requests, responses, constants, log } = require('dcmjs-dimse');

log.level = 'error';
const [verb, port, first, second] = process.argv.slice(2);
const told = { statuses: [] };

class Receiver extends Scp {
  associationRequested(association) {
    this.association = association;
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      context.setResult(constants.PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    this.sendAssociationAccept();
  }

  cStoreRequest(request, callback) {
    callback(kept(request));
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

function kept(request) {
  (told.stored ??= []).push(request.getAffectedSopInstanceUid());
  const response = responses.CStoreResponse.fromRequest(request);
  response.setStatus(constants.Status.Success);
  return response;
}

function asked() {
  switch (verb) {
    case 'echo':
      return new requests.CEchoRequest();
    case 'find':
      return requests.CFindRequest.createStudyFindRequest({ PatientName: first });
    case 'get':
      return requests.CGetRequest.createStudyGetRequest(first);
    case 'move':
      return requests.CMoveRequest.createStudyMoveRequest('DCMJS', first);
    case 'store':
      return new requests.CStoreRequest(first);
    default:
      throw new Error(verb);
  }
}

const server = verb === 'move' ? new Server(Receiver) : undefined;
server?.listen(Number(second));
const client = new Client();
const request = asked();
request.on('response', (response) => {
  told.statuses.push(response.getStatus());
  if (response.hasDataset() && verb === 'find') {
    (told.found ??= []).push(response.getDataset().getElement('StudyInstanceUID'));
  }
});
client.on('cStoreRequest', (stored, callback) => callback(kept(stored)));
client.on('networkError', (error) => {
  console.error(error);
  process.exit(1);
});
client.on('closed', () => {
  server?.close();
  console.log(JSON.stringify(told));
  process.exit(0);
});
client.addRequest(request);
client.send('127.0.0.1', Number(port), 'DCMJS', 'VOXELNODE');
