"""Encryption and authentication for Kafka clients: the options that every client takes, from the settings.

TLS trusts a given CA's certificate or the system's, and mutual TLS adds a certificate of the client. SASL takes user
and password (SCRAM, PLAIN), or tokens of an OAuth 2.0 server (OAUTHBEARER, client credentials: RFC 6749, section
4.4).
"""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import cache
from ssl import SSLContext, SSLError
from typing import Any

import orjson
from aiokafka.abc import AbstractTokenProvider
from aiokafka.helpers import create_ssl_context

from safeguard_streams.errors import BusError, ConfigurationError
from safeguard_streams.runtime.settings import Settings

TOKEN_SECONDS = 10.0  # timeout of a request to the OAuth server
_MARGIN = 30.0  # seconds for which a token must remain valid


def client_options(settings: Settings) -> dict[str, Any]:
    """Options for every aiokafka client. Raises ConfigurationError naming the settings that are missing or wrong."""
    return {"bootstrap_servers": settings.bootstrap, "client_id": "safeguard", **_security_options(settings)}


def _security_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = _context(settings)
    if not settings.security_protocol.startswith("SASL"):
        return options
    options["sasl_mechanism"] = settings.sasl_mechanism
    if settings.sasl_mechanism == "OAUTHBEARER":
        if not (settings.oauth_url and settings.username and settings.password):
            raise ConfigurationError(
                "OAUTHBEARER needs a token server: set SAFEGUARD_OAUTH_URL, SAFEGUARD_USERNAME (the client's id) and "
                "SAFEGUARD_PASSWORD (its secret)"
            )
        secret = settings.password.get_secret_value()
        options["sasl_oauth_token_provider"] = _provider(
            settings.oauth_url, settings.username, secret, settings.oauth_scope
        )
        return options
    if not (settings.username and settings.password):
        raise ConfigurationError(f"{settings.sasl_mechanism} needs SAFEGUARD_USERNAME and SAFEGUARD_PASSWORD")
    options["sasl_plain_username"] = settings.username
    options["sasl_plain_password"] = settings.password.get_secret_value()
    return options


def _context(settings: Settings) -> SSLContext:
    secret = settings.key_password.get_secret_value() if settings.key_password else None
    try:
        context: SSLContext = create_ssl_context(
            cafile=settings.ca_file, certfile=settings.cert_file, keyfile=settings.key_file, password=secret
        )
    except (OSError, SSLError) as error:
        raise ConfigurationError(
            "the certificates cannot be used; see SAFEGUARD_CA_FILE, SAFEGUARD_CERT_FILE, SAFEGUARD_KEY_FILE and "
            f"SAFEGUARD_KEY_PASSWORD: {error.strerror or type(error).__name__}"
        ) from None
    return context


class OAuthTokenProvider(AbstractTokenProvider):
    """Tokens of an OAuth server, each kept until shortly before it expires."""

    def __init__(self, url: str, client: str, secret: str, scope: str) -> None:
        self._url = url
        parts = urllib.parse.urlsplit(url)
        self._server = f"{parts.scheme}://{parts.hostname or ''}"  # for messages: path and query may hold a token
        self._form = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
        if scope:
            self._form["scope"] = scope
        self._token = ""
        self._valid_until = 0.0

    async def token(self) -> str:
        """A token that is valid for a while. Raises BusError when the server gives none."""
        if time.monotonic() > self._valid_until:
            self._token, seconds = await asyncio.to_thread(self._request)
            self._valid_until = time.monotonic() + max(0.0, seconds - _MARGIN)
        return self._token

    def _request(self) -> tuple[str, float]:
        """A new token, and for how many seconds it is valid."""
        body = urllib.parse.urlencode(self._form).encode()
        request = urllib.request.Request(self._url, body, {"Accept": "application/json"})  # noqa: S310  (http, https: see settings)
        try:
            with urllib.request.urlopen(request, timeout=TOKEN_SECONDS) as response:  # noqa: S310  (the same)
                answer = orjson.loads(response.read())
            return str(answer["access_token"]), float(answer.get("expires_in", 60))
        except urllib.error.HTTPError as error:
            raise BusError(f"{self._server} returned no token: HTTP {error.code}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BusError(f"{self._server} returned no token: {type(error).__name__}") from None


@cache
def _provider(url: str, client: str, secret: str, scope: str) -> OAuthTokenProvider:
    """One provider for all clients of a process."""
    return OAuthTokenProvider(url, client, secret, scope)
