"""Log-in by the plant's own accounts: OpenID Connect, with a code that the station exchanges (RFC 7636).

The browser is sent to the provider with a secret state, a nonce, and the hash of a verifier. It comes back
with a code, which is worth nothing without the verifier. The provider's signed statement of who it is has to
be of this provider, for this station, of this log-in and of now. Its groups say the role.
"""

from __future__ import annotations

import secrets
import time
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
from blemish.station.log_ins import LogIns
from blemish.station.security import ROLES, Forbidden, Role, Unauthorized, is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.station.log_ins import Begun

TIMEOUT_S = 10.0
"""Seconds without an answer of the provider."""
KNOWN_S = 600.0
"""Seconds for which is kept what the provider says of itself."""
LEEWAY_S = 60
"""Seconds by which the clocks of provider and station may differ."""
ALGORITHMS = ("RS256", "PS256", "ES256")
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
"""What the provider has to say of itself."""
_NAMES = ("preferred_username", "email", "sub")


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
        self.log_ins = LogIns()
        self._said: tuple[float, dict[str, Any]] | None = None  # by the provider of itself, and until when

    def begin(self, redirect: str, address: str) -> tuple[str, str]:
        """Return where a browser at `address` logs in, and the state that it brings back to `redirect`.

        Raises Unauthorized when the provider does not answer.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        about = self._about(address)
        with self._session(redirect) as session:
            page, _ = session.create_authorization_url(
                about["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )
        self.log_ins.add(state, nonce=nonce, verifier=verifier, redirect=redirect, address=address)
        return page, state

    def finish(self, state: str, code: str) -> Person:
        """Exchange the code that a browser brought back for who it is. A state works once.

        Raises Unauthorized where the provider does not stand for it, and Forbidden for who is in no group
        that has a role here.
        """
        begun = self.log_ins.take(state)
        try:
            about = self._about(begun.address)
            with self.log_ins.turn(begun.address):
                claims = self._claims(about, begun, code)
            return self._person_of(claims)
        except (
            requests.RequestException,
            AuthlibBaseError,
            JoseError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:
            raise Unauthorized(f"the provider's answer is not accepted ({type(error).__name__})") from error

    def _claims(self, about: dict[str, Any], begun: Begun, code: str) -> dict[str, Any]:
        with self._session(begun.redirect) as session:
            answer = session.fetch_token(
                about["token_endpoint"], code=code, code_verifier=begun.verifier, timeout=TIMEOUT_S
            )
        keys = KeySet.import_key_set(requests.get(about["jwks_uri"], timeout=TIMEOUT_S).json())
        claims = jwt.decode(answer["id_token"], keys, algorithms=list(ALGORITHMS)).claims
        jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
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

    def _session(self, redirect: str) -> Any:  # a session of requests, which authlib's types do not say
        return OAuth2Session(
            self.client,
            self.secret,
            scope="openid profile email",
            redirect_uri=redirect,
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic" if self.secret else "none",
        )

    def _about(self, asked_from: str) -> dict[str, Any]:
        """Return what the provider says of itself, which is asked again after KNOWN_S.

        Raises Unauthorized when it does not answer, or many ask.
        """
        said = self._said
        if said is not None and time.monotonic() < said[0]:
            return said[1]
        with self.log_ins.turn(asked_from):
            about = self._ask_about()
        self._said = time.monotonic() + KNOWN_S, about
        return about

    def _ask_about(self) -> dict[str, Any]:
        address = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            about = requests.get(address, timeout=TIMEOUT_S).json()
        except (requests.RequestException, ValueError) as error:
            raise Unauthorized("the provider of the log-in does not answer; try again later") from error
        if not isinstance(about, dict) or about.get("issuer") != self.issuer:
            named = about.get("issuer") if isinstance(about, dict) else None
            raise Unauthorized(f"the provider calls itself {named}, and not {self.issuer}")
        lacking = [key for key in _ENDPOINTS if not isinstance(about.get(key), str)]
        if lacking:
            raise Unauthorized(f"the provider does not say its {lacking[0]}; ask whoever runs it")
        return about


def _role_of(text: str) -> tuple[str, Role]:
    group, _, name = text.rpartition("=")
    known: dict[str, Role] = {role: role for role in ROLES}
    role = known.get(name)
    if not group or role is None:
        raise UsageError(f"--oidc-roles {text}: must be GROUP=ROLE, with a role of {', '.join(ROLES)}")
    return group, role
