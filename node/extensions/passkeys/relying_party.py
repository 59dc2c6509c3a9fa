"""The node as a relying party (W3C Web Authentication, Level 2): what a browser is asked, and whether its answer holds.

The library is imported where it is used: a node without it runs, and says what is missing.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from node.errors import UsageError
from node.extensions.passkeys.keys import NewKey, SecurityKey
from node.settings.model import Web
from node.web.access import is_own_origin, own_names, own_origin
from node.web.errors import NotAuthenticated

MISSING = "security keys need a library that is not installed: pip install 'voxelnode[passkeys]'"


def is_installed() -> bool:
    """Return whether this node can check security keys."""
    return find_spec("webauthn") is not None


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """The origin at which a browser has our pages, and its host name, for which keys are (5.1.2)."""

    origin: str
    rp_id: str

    def creation_options(self, account: str, user_id: bytes, known: Sequence[SecurityKey], challenge: bytes) -> str:
        """Return what a browser is asked to make a new key with (5.4), as JSON; `known` are keys that are no new ones.

        The password was given before, so a key needs no PIN and no place for a user name of its own.
        """
        from webauthn import generate_registration_options, options_to_json
        from webauthn.helpers.structs import (
            AuthenticatorSelectionCriteria,
            ResidentKeyRequirement,
            UserVerificationRequirement,
        )

        asked = generate_registration_options(
            rp_id=self.rp_id,
            rp_name="voxelnode",
            user_id=user_id,
            user_name=account,
            challenge=challenge,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.DISCOURAGED,
                user_verification=UserVerificationRequirement.DISCOURAGED,
            ),
            exclude_credentials=[_descriptor(key) for key in known],
        )
        options: str = options_to_json(asked)
        return options

    def request_options(self, keys: Sequence[SecurityKey], challenge: bytes) -> str:
        """Return what a browser is asked to sign with one of some keys (5.5), as JSON."""
        from webauthn import generate_authentication_options, options_to_json
        from webauthn.helpers.structs import UserVerificationRequirement

        asked = generate_authentication_options(
            rp_id=self.rp_id,
            challenge=challenge,
            allow_credentials=[_descriptor(key) for key in keys],
            user_verification=UserVerificationRequirement.DISCOURAGED,
        )
        options: str = options_to_json(asked)
        return options

    def registered(self, answer: str, challenge: bytes) -> NewKey:
        """Return the key that a browser has made (7.1). Raises NotAuthenticated."""
        from webauthn import verify_registration_response
        from webauthn.helpers import bytes_to_base64url

        try:
            made = verify_registration_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=self.rp_id,
                expected_origin=self.origin,
            )
        except Exception as error:  # whatever hostile bytes do to the library
            raise self._wrong() from error
        credential_id = bytes_to_base64url(made.credential_id)
        return NewKey(self.rp_id, credential_id, bytes_to_base64url(made.credential_public_key), made.sign_count)

    def signed(self, answer: str, key: SecurityKey, challenge: bytes) -> int:
        """Return the counter that a key has signed together with a challenge (7.2), for `KeyRepository.use`.

        Raises NotAuthenticated.
        """
        from webauthn import base64url_to_bytes, verify_authentication_response

        try:
            verified = verify_authentication_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=self.rp_id,
                expected_origin=self.origin,
                credential_public_key=base64url_to_bytes(key.public_key),
                credential_current_sign_count=0,  # compared where it is written, so that two answers at once are told
            )
        except Exception as error:  # whatever hostile bytes do to the library
            raise self._wrong() from error
        sign_count: int = verified.new_sign_count
        return sign_count

    def _wrong(self) -> NotAuthenticated:
        return NotAuthenticated(f"what the security key signed is not right for {self.origin}: try again")


def relying_party(request: Request, web: Web) -> RelyingParty:
    """Return the node as the browser that sent a request knows it.

    Raises UsageError if the library is missing, the browser is at a name that is not ours, or where no browser lets
    keys be used: without HTTPS, but for the machine itself, or at an IP address.
    """
    if not is_installed():
        raise UsageError(MISSING)
    headers, scheme = request.headers, request.url.scheme
    origin = headers.get("origin", "").lower() or own_origin(headers, scheme)
    if not is_own_origin(origin, headers, scheme, own_names(web)):
        raise UsageError(
            f"this page is at {origin[:100]!r}, and the node does not know that it is its own: set [web] public_url, "
            "and trusted_proxies if a proxy is in front of it"
        )
    parts = urlsplit(origin)
    name = parts.hostname or ""
    if parts.scheme != "https" and name != "localhost" and not name.endswith(".localhost"):
        raise UsageError(f"security keys need HTTPS, or http://localhost on the machine of the node; this is {origin}")
    if _is_address(name):
        raise UsageError(
            f"security keys are for a name, not for an address: open the node by its name, not as {origin}"
        )
    return RelyingParty(origin, name)


def user_id_of(rp_id: str, account: str, number: int) -> bytes:
    """Return by what a password manager knows an account (5.4.3): it tells nothing, and is the same each time."""
    return hashlib.sha256(f"{rp_id}\0{account}\0{number}".encode()).digest()


def credential_id_in(answer: str) -> str:
    """Return the identifier of the key that an answer is of, unchecked; empty: there is none."""
    try:
        found: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    identifier = found.get("id") if isinstance(found, dict) else None
    return identifier if isinstance(identifier, str) else ""


def _descriptor(key: SecurityKey) -> Any:
    from webauthn import base64url_to_bytes
    from webauthn.helpers.structs import PublicKeyCredentialDescriptor

    return PublicKeyCredentialDescriptor(id=base64url_to_bytes(key.credential_id))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
