"""A server that speaks S3, as a process of its own: moto, of tests/interop/requirements.txt."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

ENVIRONMENT = Path(os.environ.get("VOXELNODE_CLIENT_VENV", Path(__file__).parent / "interop" / ".venv"))

SERVER = """
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


SIGNED = "AWS4-HMAC-SHA256 Credential=admin/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""The server looks at no signature."""


class ObjectStore:
    """The server, as its administrator sees it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def ask(self, method: str, path: str, content: str = "", **headers: str) -> httpx2.Response:
        answer = httpx2.request(
            method, self.url + path, content=content, headers={"authorization": SIGNED, **headers}, timeout=60
        )
        assert answer.status_code < 300, answer.text
        return answer

    def content(self, path: str) -> bytes | None:
        """Return an object, or None if there is none."""
        answer = httpx2.get(self.url + path, headers={"authorization": SIGNED}, timeout=60)
        assert answer.status_code in (200, 404), answer.text
        return answer.content if answer.status_code == 200 else None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run a server without buckets."""
    if not any(ENVIRONMENT.glob("lib/python*/site-packages/moto")):
        pytest.skip("moto is not installed (tests/interop/requirements.txt in tests/interop/.venv)")
    command = [str(ENVIRONMENT / "bin" / "python"), "-c", SERVER]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    store = ObjectStore(process, f"http://127.0.0.1:{int(process.stdout.readline())}")
    try:
        yield store
    finally:
        store.kill()
        process.stdout.close()
