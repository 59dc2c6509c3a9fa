"""Sign-in by an identity provider: OpenID Connect Core 1.0, authorization code flow with PKCE (RFC 7636).

Authlib makes the requests and checks the claims; joserfc checks the signatures. The endpoints (Discovery 1.0) and keys
of the provider are fetched on demand and cached; the node starts without them.
"""

import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import structlog
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet, OctKey
from joserfc.jwt import JWTClaimsRegistry

from node.api import (
    SIGN_IN_SECONDS,
    FederatedIdentity,
    ProviderUnavailable,
    Role,
    Settings,
    SignInFailed,
    UsageError,
    client_context,
    group_members,
)
from node.extensions.oidc.settings import Oidc, WebWithOidc

log = structlog.get_logger()

ALGORITHMS = tuple(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512))
"""Signatures by a key that only the provider has; never `none` or an HMAC with a shared secret."""

ACCESS_TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt", "jwt"})
"""`typ` of access tokens: RFC 9068 2.1, and the values that Keycloak and Entra ID use."""

LEEWAY_SECONDS = 60
"""Tolerated difference between the clocks of the node and the provider."""

TIMEOUT_SECONDS = 10.0
KEEP_SECONDS = 3600.0
RETRY_SECONDS = 10.0
"""Pause after the provider did not answer; sign-ins meanwhile fail at once instead of waiting for the timeout."""

MIN_REFRESH_SECONDS = 60.0
"""Minimum interval between fetches of the keys: a token may name any key, and anyone may send tokens."""

MAX_WAITING = 8
"""Requests that may wait for the provider, each on one of forty threads; another is refused at once."""

MAX_NAME_LENGTH = 59
"""With the prefix `oidc:`, 64 characters, the limit of an account name."""


@dataclass(frozen=True, slots=True)
class _Provider:
    """The metadata of the provider, and when it was fetched."""

    metadata: Mapping[str, Any]
    keys: KeySet
    fetched_at: float


class IdentityProvider:
    """The provider of `[web.oidc]`. Thread-safe.

    Raises UsageError: the secret or the certificates cannot be read.
    """

    def __init__(self, oidc: Oidc, clock: Callable[[], float] = monotonic) -> None:
        self._oidc, self._clock = oidc, clock
        self._secret = _secret_of(oidc)
        try:
            self._tls = client_context(oidc.ca_file)
        except OSError as error:  # SSLError too
            raise UsageError(f"[web.oidc] ca_file cannot be used: {error.strerror or error}") from error
        self._lock = threading.Lock()
        self._provider: _Provider | None = None
        self._retry_at = -RETRY_SECONDS
        self._places = threading.BoundedSemaphore(MAX_WAITING)

    @property
    def end_session_url(self) -> str:
        """The provider's logout page (RP-Initiated Logout 1.0), or an empty string."""
        endpoint = self._provider.metadata.get("end_session_endpoint") if self._provider is not None else None
        is_address = isinstance(endpoint, str) and urlsplit(endpoint).scheme in ("https", "http")
        return f"{endpoint}?{urlencode({'client_id': self._oidc.client_id})}" if is_address else ""

    def authorization_url(self, redirect_uri: str, state: str, nonce: str, code_verifier: str) -> str:
        """Return the address of the provider's login page for a browser (Core 3.1.2.1)."""
        provider = self._known()
        with self._client(provider, redirect_uri) as client:
            url, _ = client.create_authorization_url(
                provider.metadata["authorization_endpoint"], state=state, code_verifier=code_verifier, nonce=nonce
            )
        return str(url)

    def redeem(self, code: str, redirect_uri: str, nonce: str, code_verifier: str) -> FederatedIdentity:
        """Exchange a code for the identity in its ID token (Core 3.1.3).

        Raises SignInFailed if the provider rejected the code or the ID token is invalid, and ProviderUnavailable.
        """
        provider = self._known()
        endpoint, grant = provider.metadata["token_endpoint"], "authorization_code"
        try:
            with self._waiting(), self._client(provider, redirect_uri) as client:
                answer = client.fetch_token(endpoint, grant_type=grant, code=code, code_verifier=code_verifier)
        except OAuthError as error:
            raise SignInFailed(f"the identity provider refused the code ({_word(error.error)})") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise _unavailable(error) from error
        options = {"iss": {"value": self._oidc.issuer}, "aud": {"value": self._oidc.client_id}}
        params = {"nonce": nonce, "client_id": self._oidc.client_id, "access_token": answer.get("access_token")}
        token = self._decoded(answer.get("id_token"))
        with _claims_explained():
            CodeIDToken(token.claims, token.header, options, params).validate(leeway=LEEWAY_SECONDS)
        return self._identity(token.claims)

    def by_access_token(self, value: str) -> FederatedIdentity:
        """Return who an access token is of (RFC 9068), if `[web.oidc] audience` is the audience of it.

        Raises the same exceptions as `redeem`.
        """
        if not self._oidc.audience:
            raise SignInFailed("[web.oidc] audience is not set: access tokens of the provider are not accepted")
        token = self._decoded(value)
        if str(token.header.get("typ", "JWT")).lower() not in ACCESS_TOKEN_TYPES:
            raise SignInFailed("the token is not an access token")
        with _claims_explained():
            JWTClaimsRegistry(
                leeway=LEEWAY_SECONDS,
                iss={"essential": True, "value": self._oidc.issuer},
                aud={"essential": True, "value": self._oidc.audience},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(token.claims)
        return self._identity(token.claims)

    def _client(self, provider: _Provider, redirect_uri: str) -> OAuth2Client:
        methods = provider.metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return OAuth2Client(
            self._oidc.client_id,
            self._secret,
            token_endpoint_auth_method=method if self._secret else "none",
            scope=" ".join(self._oidc.scopes),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            verify=self._tls,
            timeout=TIMEOUT_SECONDS,
        )

    def _decoded(self, value: Any) -> jwt.Token:
        """Check the signature of a token. If its key is unknown, fetch the keys again, but not too often."""
        if not isinstance(value, str):
            raise SignInFailed("the identity provider sent no ID token: is openid among the [web.oidc] scopes?")
        try:
            try:
                return jwt.decode(value, self._known().keys, algorithms=ALGORITHMS)
            except InvalidKeyIdError:
                return jwt.decode(value, self._known(MIN_REFRESH_SECONDS).keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError) as error:
            raise SignInFailed("the token is not signed by the identity provider") from error

    def _identity(self, claims: Mapping[str, Any]) -> FederatedIdentity:
        name = claims.get(self._oidc.name_claim)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable() or " " in name:
            raise SignInFailed(
                f"[web.oidc] name_claim: the token has no {self._oidc.name_claim} of 1 to {MAX_NAME_LENGTH} characters "
                "without spaces"
            )
        is_allowed = self._oidc.allowed is None or name in self._oidc.allowed
        groups = self._groups(claims)
        return FederatedIdentity(f"oidc:{name}", self._role(groups) if is_allowed else None, group_members(groups))

    def _groups(self, claims: Mapping[str, Any]) -> set[str]:
        value = claim_at(claims, self._oidc.role_claim)
        return {item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)}

    def _role(self, groups: set[str]) -> Role | None:
        """Return the highest role that the groups grant, or None."""
        roles = ((Role.ADMIN, self._oidc.admin), (Role.WRITE, self._oidc.write), (Role.READ, self._oidc.read))
        return next((role for role, wanted in roles if groups.intersection(wanted)), None)

    def _known(self, max_age: float = KEEP_SECONDS) -> _Provider:
        """Return the metadata and keys of the provider, fetched again if older than `max_age` seconds.

        Cached data stay in use while the provider is down. Without any, ProviderUnavailable is raised.
        """
        known = self._provider
        if known is not None and self._clock() - known.fetched_at < max_age:
            return known
        try:
            with self._waiting(), self._lock:
                return self._refreshed(max_age)
        except ProviderUnavailable:
            if known is None:
                raise
            return known

    def _refreshed(self, max_age: float) -> _Provider:
        now = self._clock()
        if self._provider is not None and now - self._provider.fetched_at < max_age:
            return self._provider  # another thread fetched them first
        if now - self._retry_at < RETRY_SECONDS:
            raise ProviderUnavailable("the identity provider does not answer")
        try:
            self._provider = self._fetched(now)
        except (httpx2.HTTPError, httpx2.InvalidURL, JoseError, ValueError, KeyError, TypeError) as error:
            self._retry_at = self._clock()
            raise _unavailable(error) from error
        return self._provider

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Wait for the provider unless too many requests already do: it may be slow, and anyone may try to sign in."""
        if not self._places.acquire(blocking=False):
            raise ProviderUnavailable("too many sign-ins at once")
        try:
            yield
        finally:
            self._places.release()

    def _fetched(self, now: float) -> _Provider:
        with httpx2.Client(verify=self._tls, timeout=TIMEOUT_SECONDS) as client:
            metadata = _fetch(client, f"{self._oidc.issuer.rstrip('/')}/.well-known/openid-configuration")
            if metadata["issuer"] != self._oidc.issuer:  # Discovery 4.3
                raise ValueError("the metadata name a different issuer")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                scheme = urlsplit(metadata[name]).scheme
                if scheme != "https" and scheme != urlsplit(self._oidc.issuer).scheme:
                    raise ValueError(f"{name} is not an https URL")
            every = _fetch(client, metadata["jwks_uri"])["keys"]  # providers also list encryption keys
            keys = [key for key in every if key.get("kty") in ("RSA", "EC") and key.get("use", "sig") == "sig"]
        return _Provider(metadata, KeySet.import_key_set({"keys": keys}), now)


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim by its name or by a dotted path such as ``realm_access.roles``, or None."""
    if path in claims:  # a name may be a URL, which contains dots
        return claims[path]
    first, _, rest = path.partition(".")
    inner = claims.get(first)
    return claim_at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _unavailable(error: Exception) -> ProviderUnavailable:
    """Log the problem with the provider; messages of these errors name only machines, never people."""
    log.warning("identity_provider_unavailable", reason=f"{type(error).__name__}: {error}")
    return ProviderUnavailable("the identity provider gave an unexpected answer")


@contextmanager
def _claims_explained() -> Iterator[None]:
    """Convert errors in claims to readable messages, without quoting values of claims."""
    try:
        yield
    except ExpiredTokenError as error:
        raise SignInFailed("the token has expired") from error
    except ClaimError as error:
        raise SignInFailed(f"the token is not for this sign-in ({error.description})") from error


def _fetch(client: httpx2.Client, url: str) -> Any:
    response = client.get(url)
    response.raise_for_status()
    return response.json()


def _secret_of(oidc: Oidc) -> str | None:
    if oidc.client_secret_file is None:
        return None
    try:
        secret = oidc.client_secret_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"[web.oidc] client_secret_file {oidc.client_secret_file} cannot be read: {error}") from error
    if not secret:
        raise UsageError(f"[web.oidc] client_secret_file {oidc.client_secret_file} is empty")
    return secret


def _word(error: Any) -> str:
    """Return an error code such as ``invalid_grant`` (RFC 6749 5.2) if `error` is one."""
    return error if isinstance(error, str) and error.isidentifier() and error.isascii() and len(error) < 64 else "error"


MAX_ENDED = 10_000
"""Number of used states to remember. The provider also accepts each code only once (RFC 6749 4.1.2)."""

COOKIE_ALGORITHMS = ("HS256",)


@dataclass(frozen=True, slots=True)
class SignIn:
    """The state of one sign-in; the provider returns `state` and `nonce`."""

    state: str
    nonce: str
    code_verifier: str
    redirect_uri: str
    next_path: str


class ProvidedSignIns:
    """Begins and ends sign-ins: a browser is sent to the provider and returns with a code. Thread-safe.

    The state of a sign-in is in a cookie of that browser, signed by this process. Strangers who begin many sign-ins
    therefore cost no memory, and nobody can make another browser finish a sign-in that it has not begun (RFC 6749
    10.12).
    """

    def __init__(self, provider: IdentityProvider) -> None:
        self.provider = provider
        self._key = OctKey.import_key(secrets.token_bytes(32))
        self._lock = threading.Lock()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self, redirect_uri: str, next_path: str) -> tuple[str, str]:
        """Begin a sign-in; return the address at the provider for the browser, and the value of its cookie."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        url = self.provider.authorization_url(redirect_uri, state, nonce, verifier)
        claims = asdict(SignIn(state, nonce, verifier, redirect_uri, next_path))
        claims["exp"] = (
            int(monotonic()) + SIGN_IN_SECONDS
        )  # this process alone has the key: no step of the clock counts
        return url, jwt.encode({"alg": COOKIE_ALGORITHMS[0]}, claims, self._key, COOKIE_ALGORITHMS)

    def returned(self, cookie: str, state: str) -> SignIn:
        """Return the sign-in from which a browser returns; works once for each.

        Raises SignInFailed if this browser did not begin it, it took too long, or it was already used.
        """
        try:
            claims = jwt.decode(cookie, self._key, COOKIE_ALGORITHMS).claims
            JWTClaimsRegistry(now=lambda: int(monotonic()), exp={"essential": True}).validate(claims)
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


def opened(settings: Settings) -> ProvidedSignIns:
    """Return the sign-ins by a provider. Raises UsageError if the secret or the certificates cannot be read."""
    return ProvidedSignIns(IdentityProvider(settings.table(WebWithOidc).oidc))
