"""Sign-ins at the identity provider that are under way: a browser has gone there and comes back with a code.

What belongs to a sign-in travels in a cookie of that browser, signed by this process: so strangers who begin many cost
no memory, and nobody can make another's browser end a sign-in that it has not begun (RFC 6749 10.12).
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.jwt import JWTClaimsRegistry

from node.web.errors import SignInFailed
from node.web.identity import FederatedIdentity

if TYPE_CHECKING:
    from node.web.identity_provider import IdentityProvider

SIGN_IN_SECONDS = 600
"""How long a person may take at the provider."""

MAX_ENDED = 10_000
"""States that are remembered as used. The provider takes each code once as well (RFC 6749 4.1.2)."""

ALGORITHMS = ("HS256",)


@dataclass(frozen=True, slots=True)
class SignIn:
    """What belongs to one sign-in, of which `state` and `nonce` come back from the provider."""

    state: str
    nonce: str
    code_verifier: str
    redirect_uri: str
    next_path: str


class SignIns:
    """Begins and ends sign-ins; safe to use from many threads."""

    def __init__(self, provider: IdentityProvider) -> None:
        self.provider = provider
        self._key = OctKey.import_key(secrets.token_bytes(32))
        self._lock = threading.Lock()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self, redirect_uri: str, next_path: str) -> tuple[str, str]:
        """Return the address at the provider to send a browser to, and the value of the cookie that it gets.

        Raises
        ------
        ProviderUnavailable
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        url = self.provider.authorization_url(redirect_uri, state, nonce, verifier)
        claims = {
            "state": state,
            "nonce": nonce,
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
            "next_path": next_path,
            "exp": int(time.time()) + SIGN_IN_SECONDS,
        }
        return url, jwt.encode({"alg": ALGORITHMS[0]}, claims, self._key, ALGORITHMS)

    def returned(self, cookie: str, state: str) -> SignIn:
        """Return the sign-in that a browser comes back from; each can be had once.

        Raises
        ------
        SignInFailed
            This browser has not begun it, it took too long, or it has ended before.
        """
        try:
            claims = jwt.decode(cookie, self._key, ALGORITHMS).claims
            JWTClaimsRegistry(exp={"essential": True}).validate(claims)
        except (JoseError, ValueError) as error:
            raise SignInFailed("this sign-in took too long, or was begun elsewhere") from error
        del claims["exp"]
        sign_in = SignIn(**claims)
        if not hmac.compare_digest(sign_in.state.encode(), state.encode("utf-8", "replace")):
            raise SignInFailed("this is not the sign-in that this browser began last")
        with self._lock:
            if state in self._ended:
                raise SignInFailed("this sign-in has ended already")
            self._ended[state] = None
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)
        return sign_in

    def end(self, sign_in: SignIn, code: str) -> FederatedIdentity:
        """Return who signed in. Raises as `IdentityProvider.redeem`."""
        return self.provider.redeem(code, sign_in.redirect_uri, sign_in.nonce, sign_in.code_verifier)
