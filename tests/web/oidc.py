"""An identity provider on loopback, as small as one can be, and as dishonest as a test wants it."""

import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "voxelnode", "a secret of the client"


@cache
def rsa_key(name: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


@dataclass
class Provider:
    """Answers discovery, keys, authorization (it asks nobody) and token requests; `claims` are what it says of people.

    `claims` override those of a right ID token; a value of None leaves one out.
    """

    claims: dict[str, Any] = field(default_factory=lambda: {"roles": ["radiology"]})
    metadata: dict[str, Any] = field(default_factory=dict)
    key: str = "first"
    published: list[str] = field(default_factory=lambda: ["first"])
    denies: bool = False
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                provider._post(self)

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Another name of this machine than the node has: for a browser it is another site.
        self.issuer = f"http://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def signed(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token; claims that are None are left out."""
        now = int(time.time())
        all_claims = {"iss": self.issuer, "sub": "5f3c", "iat": now, "exp": now + 300} | claims
        kept = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": self.key} | (header or {}), kept, rsa_key(self.key))

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.asked.append(parts.path)
        query = dict(parse_qsl(parts.query))
        if parts.path == "/.well-known/openid-configuration":
            _answer(handler, 200, self._metadata())
        elif parts.path == "/keys":
            keys = [rsa_key(name).as_dict(private=False) for name in self.published]
            _answer(handler, 200, {"keys": [{"kty": "OKP", "crv": "X25519", "x": "AA", "use": "enc"}, *keys]})
        elif parts.path == "/authorize":
            assert query["client_id"] == CLIENT
            assert query["response_type"] == "code"
            assert query["code_challenge_method"] == "S256"
            assert query["scope"].split() == ["openid", "profile"]
            code = f"code{len(self.codes)}"
            self.codes[code] = query
            answer = {"error": "access_denied"} if self.denies else {"code": code}
            handler.send_response(302)
            handler.send_header("Location", f"{query['redirect_uri']}?{urlencode({**answer, 'state': query['state']})}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        elif parts.path == "/ended":
            _answer(handler, 200, {"ended": query["client_id"]})
        else:
            _answer(handler, 200 if parts.path == "/favicon.ico" else 404, {})

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/ended",
        } | self.metadata

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        form = dict(parse_qsl(handler.rfile.read(int(handler.headers["Content-Length"])).decode()))
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        request = self.codes.pop(form.get("code", ""), None)
        if handler.headers["Authorization"] != f"Basic {basic}":
            _answer(handler, 401, {"error": "invalid_client"})
        elif request is None or not _fits(form, request):
            _answer(handler, 400, {"error": "invalid_grant", "error_description": "<b>no</b>"})
        else:
            claims = {"aud": CLIENT, "nonce": request["nonce"]} | self.claims
            _answer(handler, 200, {"access_token": "x", "token_type": "Bearer", "id_token": self.signed(**claims)})


def _fits(form: dict[str, str], request: dict[str, str]) -> bool:
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return challenge == request["code_challenge"] and form["redirect_uri"] == request["redirect_uri"]


def _answer(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
