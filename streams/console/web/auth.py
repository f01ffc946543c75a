"""How people sign in: at an OpenID Connect provider, at a trusted proxy, or not at all, on this machine alone."""

from __future__ import annotations

import getpass
import hmac
import ipaddress
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from safeguard_streams.console.web import sessions
from safeguard_streams.console.web.roles import Person, roles_of
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases.people import LONGEST_NAME, made_plain
from safeguard_streams.runtime.settings import Settings

log = logging.getLogger(__name__)

SIGNED_IN = "/signed-in"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PROXY_HEADERS = ("x-safeguard-proxy", "x-forwarded-user", "x-forwarded-groups", "x-forwarded-email")
_METADATA = "/.well-known/openid-configuration"


class SignInError(Exception):
    """The provider or the browser did not complete a sign-in. The message is safe to show."""


class SignIn(Protocol):
    """One way to sign in. hosts: names by which browsers may call this console; empty for any."""

    about: str
    hosts: tuple[str, ...]

    def person(self, request: Request, /) -> Person | None:
        """Who sends a request; None for nobody that is known."""

    async def begin(self, request: Request, /) -> Response:
        """The response that leads a browser to sign in."""

    async def complete(self, request: Request, /) -> None:
        """Begin a session from the provider's answer. Raises SignInError."""


class LocalUser:
    """Without a provider: everybody on this machine is one user, with all roles.

    Other machines reach nothing, because the server listens on a loopback address. Nor do other sites in this browser,
    by a name of theirs that leads here: only the names of a loopback address are served.
    """

    def __init__(self, host: str) -> None:
        if host not in _LOOPBACK:
            raise ConfigurationError(
                f"without sign-in the console serves 127.0.0.1 only, not {host}: set SAFEGUARD_CONSOLE_OIDC_ISSUER or "
                "SAFEGUARD_CONSOLE_PROXY_SECRET"
            )
        try:
            name = getpass.getuser()
        except (KeyError, OSError):  # as in a container that runs under a bare number
            name = "local user"
        self._person = Person(name, ("admin",))
        self.about = f"no sign-in: everybody on this machine is {name}, with all roles"
        self.hosts: tuple[str, ...] = (*_LOOPBACK, "[::1]")

    def person(self, _: Request) -> Person | None:
        return self._person

    async def begin(self, _: Request) -> Response:
        return RedirectResponse("/", status_code=303)

    async def complete(self, _: Request) -> None:
        raise SignInError("this console has no sign-in")


class TrustedProxy:
    """A proxy signs people in and says who they are in headers, which only it can send."""

    hosts: tuple[str, ...] = ()

    def __init__(self, settings: Settings) -> None:
        secret = settings.console_proxy_secret
        self._secret = secret.get_secret_value() if secret else ""
        self._roles = settings.console_roles
        try:
            self._networks = [
                ipaddress.ip_network(one.strip()) for one in settings.console_proxy_addresses.split(",") if one.strip()
            ]
        except ValueError as error:
            raise ConfigurationError(f"SAFEGUARD_CONSOLE_PROXY_ADDRESSES: {error}") from None
        self.about = f"sign-in at the proxy, from {settings.console_proxy_addresses}"

    def person(self, request: Request) -> Person | None:
        if any(len(request.headers.getlist(name)) > 1 for name in _PROXY_HEADERS):
            return None  # a proxy that adds its headers to those of the browser
        given = request.headers.get("x-safeguard-proxy", "")
        name = name_of(_as_sent(request.headers.get("x-forwarded-user", "")))
        if not name or not self._is_proxy(request) or not hmac.compare_digest(given.encode(), self._secret.encode()):
            return None
        groups = _as_sent(request.headers.get("x-forwarded-groups", "")).split(",")
        mail = name_of(_as_sent(request.headers.get("x-forwarded-email", "")))
        return Person(name, roles_of((group.strip() for group in groups), self._roles), mail)

    def _is_proxy(self, request: Request) -> bool:
        try:
            address = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    async def begin(self, _: Request) -> Response:
        raise SignInError("sign in at the proxy; this request did not come through it")

    async def complete(self, _: Request) -> None:
        raise SignInError("sign in at the proxy")


class OpenIdConnect:
    """A provider signs people in: authorization code flow with PKCE, state and nonce."""

    def __init__(self, settings: Settings) -> None:
        from authlib.integrations.starlette_client import OAuth

        if not settings.console_oidc_client_id:
            raise ConfigurationError("SAFEGUARD_CONSOLE_OIDC_CLIENT_ID: name the console's client at the provider")
        if not settings.console_roles:
            raise ConfigurationError("SAFEGUARD_CONSOLE_ROLES: map the provider's groups to roles, or nobody has any")
        self._settings = settings
        secret = settings.console_oidc_client_secret
        self._client: Any = OAuth().register(
            "provider",
            client_id=settings.console_oidc_client_id,
            client_secret=secret.get_secret_value() if secret else None,
            server_metadata_url=settings.console_oidc_issuer.rstrip("/") + _METADATA,
            client_kwargs={
                "scope": settings.console_oidc_scopes,
                "code_challenge_method": "S256",
                "token_endpoint_auth_method": "client_secret_basic" if secret else "none",
            },
        )
        self.about = f"sign-in at {settings.console_oidc_issuer}"
        named = urlsplit(settings.console_url).hostname
        self.hosts: tuple[str, ...] = (named,) if named else (*_LOOPBACK, "[::1]", settings.host)

    def person(self, request: Request) -> Person | None:
        return sessions.signed_in(request, self._settings.console_session_hours * 3600)

    async def begin(self, request: Request) -> Response:
        base = self._settings.console_url.rstrip("/") or str(request.base_url).rstrip("/")
        request.session.clear()  # an attempt that was abandoned leaves nothing
        try:
            response: Response = await self._client.authorize_redirect(request, base + SIGNED_IN)
        except Exception as error:  # Authlib and httpx raise many kinds; each means that the provider did not answer
            log.warning("sign-in not begun error=%s", type(error).__name__)
            raise SignInError("the sign-in provider does not answer; try again in a minute") from error
        return response

    async def complete(self, request: Request) -> None:
        try:
            token = await self._client.authorize_access_token(request)
        except Exception as error:  # the same; a forged or repeated answer is one of them
            log.warning("sign-in refused error=%s", type(error).__name__)
            raise SignInError("the sign-in was not completed; sign in once more") from error
        person = self._person_of(token.get("userinfo") or {})
        sessions.sign_in(request, person)
        log.info("person signed in by=%r roles=%s", person.name, ",".join(person.roles) or "none")

    def _person_of(self, claims: Mapping[str, Any]) -> Person:
        name = name_of(claims.get(self._settings.console_name_claim))
        if not name:
            raise SignInError(f"the provider sent no claim {self._settings.console_name_claim}; ask your administrator")
        groups = _listed(claims.get(self._settings.console_groups_claim))
        return Person(name, roles_of(groups, self._settings.console_roles), name_of(claims.get("email")))


def name_of(claimed: object) -> str:
    """A person's name as records carry it: plain text of bounded length; empty if there is none."""
    return " ".join(made_plain(claimed).split())[:LONGEST_NAME] if isinstance(claimed, str) else ""


def _as_sent(header: str) -> str:
    """A header's text, which proxies send as UTF-8 and servers read as Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _listed(claimed: object) -> Iterable[str]:
    """Groups, which some providers send as one text."""
    if isinstance(claimed, str):
        return claimed.split()
    return [group for group in claimed if isinstance(group, str)] if isinstance(claimed, list) else ()


def chosen(settings: Settings) -> SignIn:
    """The way to sign in that the settings name. Raises ConfigurationError where they contradict each other."""
    if settings.console_oidc_issuer and settings.console_proxy_secret:
        raise ConfigurationError(
            "set SAFEGUARD_CONSOLE_OIDC_ISSUER or SAFEGUARD_CONSOLE_PROXY_SECRET, not both: who signs people in?"
        )
    if settings.console_oidc_issuer:
        return OpenIdConnect(settings)
    if settings.console_proxy_secret:
        return TrustedProxy(settings)
    return LocalUser(settings.host)
