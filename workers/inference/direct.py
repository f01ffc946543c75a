"""One inference server, asked without retries and without waiting, for checks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime.server_urls import direct_url
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.discovery import Address
from safeguard_streams.workers.inference.interface import Completion, InferenceError, InferenceRequest
from safeguard_streams.workers.inference.server import Server
from safeguard_streams.workers.inference.transport import (
    MAX_EXPLANATION,
    Refused,
    RequestFailed,
    Unavailable,
    session_for,
)


class DirectServer:
    """One server that is asked without retries and without waiting: what fails says why at once.

    context: maximum length of prompt and answer in tokens, as the server reports it, or else None.
    """

    def __init__(self, server: Server, api_key: str) -> None:
        self._server = server
        self._api_key = api_key
        self.model = server.model
        self.context = server.max_model_tokens if server.reports_context else None

    @property
    def route(self) -> str:
        """The path of the route in use."""
        assert self._server.route is not None, "it answered a ping"
        return self._server.route.path

    async def generate(self, request: InferenceRequest) -> Completion:
        """Run a request that holds nobody's content: a refusal quotes the server's words.

        Raises InferenceError or DependencyError.
        """
        try:
            return await self._server.generate(request)
        except Refused as refused:
            said = " ".join(refused.explanation.split())
            shown = said.replace(self._api_key, "***") if self._api_key else said
            raise InferenceError(f"{refused}: {shown[:MAX_EXPLANATION]}".removesuffix(": ")) from None
        except (Unavailable, RequestFailed) as failed:
            raise InferenceError(str(failed)) from failed


@contextlib.asynccontextmanager
async def reach(settings: Settings, url: str) -> AsyncIterator[DirectServer]:
    """Reach one server once. Raises ConfigurationError or DependencyError with what to do."""
    harmony.check_vocabulary()
    async with session_for(settings) as http:
        server = Server(Address(direct_url(url)), http, settings)
        try:
            await server.learn()
        except (Unavailable, RequestFailed) as away:
            raise ConfigurationError(
                f"no inference server answers at {server.url} ({away}): start it, or correct SAFEGUARD_SERVERS"
            ) from away
        if server.dialect is not None:
            raise ConfigurationError(
                f"{server.url} has {server.model}, which speaks the dialect {server.dialect.name}: only a model of "
                "gpt-oss is checked like this; `safeguard bench model` measures others"
            )
        await server.find_route()
        yield DirectServer(server, settings.api_key.get_secret_value() if settings.api_key else "")
