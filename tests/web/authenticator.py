"""A security key in software (WebAuthn 6), which also does what no real one does."""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

PRESENT, WITH_KEY = 0x01, 0x40
"""Flags of the authenticator data: somebody touched the key; the data of a new credential follow."""


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Authenticator:
    """One credential. `origin` is where the browser says that it is; `rp_id`: None for the one that is asked for."""

    origin: str
    rp_id: str | None = None
    flags: int = PRESENT
    sign_count: int = 0
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    private_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def create(self, options: dict[str, Any]) -> str:
        """Make the credential; the answer of the browser as JSON."""
        point = self.private_key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: point.x.to_bytes(32, "big"), -3: point.y.to_bytes(32, "big")}
        about = bytes(16) + struct.pack(">H", len(self.credential_id)) + self.credential_id + cbor2.dumps(cose)
        data = self._data(options["rp"]["id"], WITH_KEY) + about
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        said = {"attestationObject": encoded(attestation)}
        return self._answer(said, self._client_data("webauthn.create", options))

    def get(self, options: dict[str, Any]) -> str:
        """Sign a challenge; the answer of the browser as JSON."""
        client_data, data = self._client_data("webauthn.get", options), self._data(options["rpId"])
        signed = self.private_key.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(SHA256()))
        return self._answer({"authenticatorData": encoded(data), "signature": encoded(signed)}, client_data)

    def _data(self, rp_id: str, flags: int = 0) -> bytes:
        named = hashlib.sha256((self.rp_id or rp_id).encode()).digest()
        return named + bytes([self.flags | flags]) + struct.pack(">I", self.sign_count)

    def _client_data(self, kind: str, options: dict[str, Any]) -> bytes:
        said = {"type": kind, "challenge": options["challenge"], "origin": self.origin, "crossOrigin": False}
        return json.dumps(said).encode()

    def _answer(self, said: dict[str, str], client_data: bytes) -> str:
        key, said = encoded(self.credential_id), {"clientDataJSON": encoded(client_data), **said}
        return json.dumps({"id": key, "rawId": key, "type": "public-key", "response": said})
