"""The same as a webhook: it answers 202 at once, works in a thread of its own, and reports to the job.

webhook.py PORT http://node:8080
"""

import json
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urljoin
from urllib.request import Request, urlopen

from lung import write_results


class Webhook(ThreadingHTTPServer):
    """Receives messages of a node, whose pages are at `node`."""

    def __init__(self, port: int, node: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.node = node


class Handler(BaseHTTPRequestHandler):
    """Accepts a message, and begins its job."""

    server: Webhook

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Thread(target=work, args=(message, self.server.node)).start()
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()


def work(message: dict, node: str) -> None:
    """Segment the volume of a message, and give the results to its job."""
    job, token = urljoin(node, message["job"]["url"]), message["job"]["token"]
    [volume] = [one for one in message["volumes"] if one["kind"] == "volume" and one["format"] == "nifti"]
    call("POST", f"{job}/progress", token, {"percent": 0})
    with tempfile.TemporaryDirectory() as out:
        try:
            manifest = write_results(volume["path"], out)  # from another machine: download volume["url"]
        except Exception as error:
            call("POST", f"{job}/outcome", token, {"state": "failed", "detail": type(error).__name__})
            raise
        for file in Path(out).iterdir():
            call("PUT", f"{job}/files/{file.name}", token, file.read_bytes())
    call("POST", f"{job}/outcome", token, {"state": "succeeded", **manifest})


def call(method: str, url: str, token: str, content: dict | bytes) -> None:
    """Send JSON or bytes; any answer but 2xx raises HTTPError, whose body says why."""
    is_json = isinstance(content, dict)
    body = json.dumps(content).encode() if is_json else content
    kind = "application/json" if is_json else "application/octet-stream"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    with urlopen(Request(url, body, headers, method=method), timeout=600):
        pass


if __name__ == "__main__":
    Webhook(int(sys.argv[1]), sys.argv[2]).serve_forever()
