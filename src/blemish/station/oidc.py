"""Log-in by the plant's own accounts: OpenID Connect, with a code that the station exchanges (RFC 7636).

The browser is sent to the provider with a secret state, a nonce, and the hash of a verifier. It comes back
with a code, which is worth nothing without the verifier. The provider's signed statement of who it is has to
be of this provider, for this station, of this log-in and of now. Its groups say the role.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from blemish.core.errors import UsageError
from blemish.station.security import ROLES, Forbidden, Role, Unauthorized, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TIMEOUT_S = 10.0
"""Seconds without an answer of the provider."""
LOG_IN_S = 600.0
"""Seconds that a person has for the log-in at the provider."""
AT_A_TIME = 4
"""Questions to the provider that may be open at a time: one that hangs keeps no others waiting."""
MOST_BEGUN = 1000
"""Log-ins that may be under way at a time; one more ends the oldest."""
ALGORITHMS = ("RS256", "PS256", "ES256")
_NAMES = ("preferred_username", "email", "sub")


@dataclass(frozen=True)
class _Begun:
    """A log-in that is under way: what its answer must fit."""

    nonce: str
    verifier: str
    redirect: str
    until: float


@dataclass(frozen=True)
class Person:
    """Who has logged in."""

    name: str
    role: Role


class Provider:
    """The provider of the plant's accounts."""

    def __init__(self, issuer: str, *, client: str, secret: str | None, roles: Sequence[str]) -> None:
        """Take its address, the name and secret under which it knows the station, and `GROUP=ROLE` of groups.

        Raises UsageError for an address without https, and for roles of another form.
        """
        place = urlsplit(issuer)
        if place.scheme != "https" and not (place.scheme == "http" and is_loopback(place.hostname or "")):
            raise UsageError(f"--oidc {issuer}: must be the https:// address of the provider")
        self.issuer, self.client, self.secret = issuer, client, secret
        self.roles: dict[str, Role] = dict(map(_role_of, roles))
        if not self.roles:
            raise UsageError("--oidc-roles: say which group has which role, as inspectors=judge")
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(AT_A_TIME)
        self._begun: dict[str, _Begun] = {}

    def begin(self, redirect: str) -> tuple[str, str]:
        """Return where a browser logs in, and the state that it brings back to `redirect`."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        with self._turn(), self._session(redirect) as session:
            address, _ = session.create_authorization_url(
                self._about()["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )
        now = time.monotonic()
        with self._lock:
            left = {each: begun for each, begun in self._begun.items() if begun.until > now}
            for each in list(left)[: max(0, len(left) - MOST_BEGUN + 1)]:
                del left[each]
            self._begun = left | {state: _Begun(nonce, verifier, redirect, now + LOG_IN_S)}
        return address, state

    def finish(self, state: str, code: str) -> Person:
        """Exchange the code that a browser brought back for who it is. A state works once.

        Raises Unauthorized where the provider does not stand for it, and Forbidden for who is in no group
        that has a role here.
        """
        with self._lock:
            begun = self._begun.pop(state, None)
        if begun is None or begun.until < time.monotonic():
            raise Unauthorized("this log-in was not begun here, or took too long; log in again")
        try:
            with self._turn():
                claims = self._claims(begun, code)
            return self._person_of(claims)
        except (requests.RequestException, AuthlibBaseError, JoseError, ValueError, KeyError) as error:
            raise Unauthorized(f"the provider's answer is not accepted ({type(error).__name__})") from error

    def _claims(self, begun: _Begun, code: str) -> dict[str, Any]:
        about = self._about()
        with self._session(begun.redirect) as session:
            answer = session.fetch_token(
                about["token_endpoint"], code=code, code_verifier=begun.verifier, timeout=TIMEOUT_S
            )
        keys = KeySet.import_key_set(requests.get(about["jwks_uri"], timeout=TIMEOUT_S).json())
        claims = jwt.decode(answer["id_token"], keys, algorithms=list(ALGORITHMS)).claims
        jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self.client},
            exp={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": begun.nonce},
        ).validate(claims)
        return claims

    def _person_of(self, claims: dict[str, Any]) -> Person:
        name = next(str(claims[key]) for key in _NAMES if claims.get(key))
        groups = claims.get("groups")
        named = groups if isinstance(groups, list) else ()
        found = [self.roles[each] for each in named if isinstance(each, str) and each in self.roles]
        if not found:
            raise Forbidden(f"{name}: is in no group that has a role at this station")
        return Person(name, ROLES[max(map(ROLES.index, found))])

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            raise Unauthorized("many log in at once; try again in some seconds")
        try:
            yield
        finally:
            self._turns.release()

    def _session(self, redirect: str) -> Any:  # a session of requests, which authlib's types do not say
        return OAuth2Session(
            self.client,
            self.secret,
            scope="openid profile email",
            redirect_uri=redirect,
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic" if self.secret else "none",
        )

    def _about(self) -> dict[str, Any]:
        """Return what the provider says of itself. Raises Unauthorized when it does not answer."""
        address = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            about = requests.get(address, timeout=TIMEOUT_S).json()
        except (requests.RequestException, ValueError) as error:
            raise Unauthorized("the provider of the log-in does not answer; try again later") from error
        if about.get("issuer") != self.issuer:
            raise Unauthorized(f"the provider calls itself {about.get('issuer')}, and not {self.issuer}")
        return about


def _role_of(text: str) -> tuple[str, Role]:
    group, _, name = text.rpartition("=")
    known: dict[str, Role] = {role: role for role in ROLES}
    role = known.get(name)
    if not group or role is None:
        raise UsageError(f"--oidc-roles {text}: must be GROUP=ROLE, with a role of {', '.join(ROLES)}")
    return group, role
