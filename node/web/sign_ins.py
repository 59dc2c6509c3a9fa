"""Sign-ins under way at the identity provider: a browser was sent there and returns with a code.

The state of a sign-in is in a cookie of that browser, signed by this process. Strangers who begin many sign-ins
therefore cost no memory, and nobody can make another browser finish a sign-in that it has not begun (RFC 6749 10.12).
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
from node.web.identity import SIGN_IN_SECONDS, FederatedIdentity

if TYPE_CHECKING:
    from node.web.identity_provider import IdentityProvider

MAX_ENDED = 10_000
"""Number of used states to remember. The provider also accepts each code only once (RFC 6749 4.1.2)."""

ALGORITHMS = ("HS256",)


@dataclass(frozen=True, slots=True)
class SignIn:
    """The state of one sign-in; the provider returns `state` and `nonce`."""

    state: str
    nonce: str
    code_verifier: str
    redirect_uri: str
    next_path: str


class SignIns:
    """Begins and ends sign-ins. Thread-safe."""

    def __init__(self, provider: IdentityProvider) -> None:
        self.provider = provider
        self._key = OctKey.import_key(secrets.token_bytes(32))
        self._lock = threading.Lock()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self, redirect_uri: str, next_path: str) -> tuple[str, str]:
        """Begin a sign-in; return the address at the provider for the browser, and the value of its cookie.

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
        """Return the sign-in from which a browser returns; works once for each.

        Raises
        ------
        SignInFailed
            This browser did not begin it, it took too long, or it was already used.
        """
        try:
            claims = jwt.decode(cookie, self._key, ALGORITHMS).claims
            JWTClaimsRegistry(exp={"essential": True}).validate(claims)
        except (JoseError, ValueError) as error:
            raise SignInFailed("this sign-in took too long, or began in another browser") from error
        del claims["exp"]
        sign_in = SignIn(**claims)
        if not hmac.compare_digest(sign_in.state.encode(), state.encode("utf-8", "replace")):
            raise SignInFailed("this is not the last sign-in that this browser began")
        with self._lock:
            if state in self._ended:
                raise SignInFailed("this sign-in was already used")
            self._ended[state] = None
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)
        return sign_in

    def end(self, sign_in: SignIn, code: str) -> FederatedIdentity:
        """Return the identity of the user. Raises the same exceptions as `IdentityProvider.redeem`."""
        return self.provider.redeem(code, sign_in.redirect_uri, sign_in.nonce, sign_in.code_verifier)
