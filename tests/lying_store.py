"""Stores that do not do what they answer, as gateways and caches in front of a store are known to.

`Lying` stands before another store. What it does wrong begins and ends when a test says so.
"""

import hashlib
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

KEEPS_NOTHING, TRUNCATES, RETURNS_OLD, FLIPS, FLIPS_ONCE = (
    "keeps nothing",
    "truncates",
    "returns old bytes",
    "flips a bit of each read",
    "flips a bit of the first read",
)
ON_WRITING = (KEEPS_NOTHING, TRUNCATES, RETURNS_OLD)
_HOP = frozenset({"connection", "host", "transfer-encoding", "content-length", "accept-encoding", "content-encoding"})


class Lying:
    """A server of HTTP that passes requests on to a store of S3, apart from what it does wrong.

    `fault`: one of the constants of this module; None: it does as it should.
    `looks_at`: headers whose checksums it compares, as S3 does; moto looks at none.
    """

    def __init__(self, store: str) -> None:
        self.fault: str | None = None
        self.looks_at: frozenset[str] = frozenset()
        self._store = store
        self._lock = threading.Lock()
        self._old: bytes | None = None
        self._read: set[str] = set()
        lying = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
                status, reported, content = lying.answer(self.command, self.path, headers, body)
                self.send_response(status)
                for name, value in reported.items():
                    self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(content)))
                with suppress(OSError):  # whoever asked may be gone
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of an answer."""
        name = path.partition("?")[0]
        is_object = "/objects/" in name or "/volumes/" in name or "/trial-" in name
        fault = self.fault if is_object else None
        if method == "PUT" and any(headers.get(name, true) != true for name, true in self._checksums(body)):
            return 400, {}, b"<Error><Code>BadDigest</Code></Error>"
        if method == "PUT" and fault == KEEPS_NOTHING:
            return 200, {"ETag": '"0123456789abcdef0123456789abcdef"'}, b""
        if method == "PUT" and fault == TRUNCATES:
            body = body[: len(body) // 2]
            headers = {name: value for name, value in headers.items() if not name.lower().startswith("x-amz-c")}
        answer = httpx2.request(method, self._store + path, headers=headers, content=body, timeout=60)
        content, kept = answer.content, {"last-modified", "etag", "content-type", "content-range", "accept-ranges"}
        reported = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() in kept or name.lower().startswith("x-amz-meta")
        }
        if method == "HEAD" and "content-length" in answer.headers:
            reported["Content-Length"] = answer.headers["content-length"]
        if method == "GET" and answer.status_code == 200 and is_object:
            content = self._read_wrongly(fault, name, content)
        return answer.status_code, reported, content

    def _checksums(self, body: bytes) -> Iterator[tuple[str, str]]:
        for name, digest in (("x-amz-checksum-sha256", hashlib.sha256), ("content-md5", hashlib.md5)):
            if name in self.looks_at:
                yield name, b64encode(digest(body).digest()).decode()

    def _read_wrongly(self, fault: str | None, name: str, content: bytes) -> bytes:
        with self._lock:
            is_first = name not in self._read
            self._read.add(name)
            self._old = self._old or content
        if fault == RETURNS_OLD:
            return b"\0" * len(content) if self._old == content else self._old
        if fault == FLIPS or (fault == FLIPS_ONCE and is_first):
            return content[:-1] + bytes([content[-1] ^ 1])
        return content

    def forget_reads(self) -> None:
        """Take the next read of each object for its first."""
        with self._lock:
            self._read.clear()


@contextmanager
def lying_store(store: str) -> Iterator[Lying]:
    """Run a `Lying` before the server at a URL."""
    lying = Lying(store)
    thread = threading.Thread(target=lying.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield lying
    finally:
        lying.server.shutdown()
        lying.server.server_close()
        thread.join()
