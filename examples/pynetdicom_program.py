import argparse
import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pynetdicom
from pynetdicom import sop_class

import voxelnode


def use(volume, message):
    """What your program does with a volume."""
    print("volume", volume["path"], volume["shape"], message["series_instance_uid"], flush=True)


class Messages(BaseHTTPRequestHandler):
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for volume in message["volumes"]:
            if volume["kind"] == "volume" and volume["format"] == "nifti":
                use(volume, message)
        self.send_response(204)  # delivered; if `use` raises, the message comes again
        self.end_headers()

    def log_message(self, *_):
        pass


stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
ae = pynetdicom.AE("PROGRAM")
for context in pynetdicom.AllStoragePresentationContexts:
    syntaxes = pynetdicom.ALL_TRANSFER_SYNTAXES
    ae.add_supported_context(context.abstract_syntax, syntaxes, scu_role=True, scp_role=True)
for service in ("Find", "Move", "Get"):
    ae.add_supported_context(getattr(sop_class, f"StudyRootQueryRetrieveInformationModel{service}"))
ae.add_supported_context(sop_class.Verification)
messages = HTTPServer(("127.0.0.1", 0), Messages)
threading.Thread(target=messages.serve_forever, daemon=True).start()
keys = {
    "hooks.program.kind": "webhook",
    "hooks.program.on": ["volume-written"],
    "hooks.program.url": f"http://127.0.0.1:{messages.server_port}/",
}
parser = argparse.ArgumentParser()
parser.add_argument("root")
parser.add_argument("port", type=int)
parser.add_argument("--create", action="store_true", help="make the root in a folder that is not one yet")
given = parser.parse_args()
with voxelnode.handlers(given.root, keys, create=given.create) as handlers:
    server = ae.start_server(("127.0.0.1", given.port), block=False, evt_handlers=handlers)
    stop.wait()
    server.shutdown()
