"""Which judges the settings ask for: the reasoner alone, a judge by labels alone, or one in front of the reasoner."""

from __future__ import annotations

from collections.abc import Callable

from safeguard_streams.errors import ConfigurationError, DependencyError
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.inference.dialects import DIALECTS, dialect_of
from safeguard_streams.workers.inference.dialects.interface import Dialect
from safeguard_streams.workers.inference.interface import InferenceBackend
from safeguard_streams.workers.inference.remote import ServerBackend
from safeguard_streams.workers.judging.label_judge import LabelJudge
from safeguard_streams.workers.judging.reasoner import Reasoner
from safeguard_streams.workers.judging.stages import PATIENCE, Judging, Stages

# Of one request to the first judge, in seconds. The test request after it, which shows that the server is away, has as
# long, and both end before the first judge is passed over.
REQUEST_TIMEOUT = PATIENCE * 0.4
_OF_FIRST = ("MODEL", "SERVERS", "DIALECT", "API_KEY")


def dialect_spoken(backend: InferenceBackend) -> Dialect | None:
    """What a backend's model speaks; None for gpt-oss."""
    return backend.dialect if isinstance(backend, ServerBackend) else None


def require_policies_followed(backend: InferenceBackend) -> None:
    """Raise ConfigurationError for a guard, whose classes are not the policies."""
    dialect = dialect_spoken(backend)
    if dialect is not None and dialect.classes:
        raise ConfigurationError(
            f"{backend.model} has fixed classes and follows no policy: use it as the first judge, with "
            "SAFEGUARD_FIRST_SERVERS, or measure it with `safeguard bench model`"
        )


async def start_first(settings: Settings) -> ServerBackend | None:
    """The servers of the first judge; None if the settings name none.

    Raises ConfigurationError or DependencyError with what to do; ServersAwayError if none answers in time.
    """
    if not settings.first_servers:
        return None
    own = settings.model_copy(
        update={
            "servers": settings.first_servers,
            "model": settings.first_model or "",
            "dialect": settings.first_dialect,
            "api_key": settings.first_api_key,
            "server_headers": {},
            "inference_timeout": REQUEST_TIMEOUT,
            "route": None,
        }
    )
    if not settings.first_model:
        own.model_fields_set.discard("model")  # the servers say which model it is
    try:
        dialect_of("", own.dialect)  # raises for one that does not exist
        backend = await ServerBackend.start(own)
    except (ConfigurationError, DependencyError) as error:
        raise type(error)(f"the first judge: {_with_names_of_first(str(error))}") from error
    try:
        _check_first(settings, backend)
    except ConfigurationError:
        await backend.close()
        raise
    return backend


def _check_first(settings: Settings, backend: ServerBackend) -> None:
    """Raise ConfigurationError unless the settings say what the first judge may decide."""
    dialect = backend.dialect
    if dialect is None:
        raise ConfigurationError(
            f"the first judge, {backend.model}, is of no known dialect: set SAFEGUARD_FIRST_DIALECT to "
            f"{', '.join(DIALECTS)}"
        )
    if dialect.classes and not settings.first_classes:
        raise ConfigurationError(
            f"the first judge, {backend.model}, follows no policy: set SAFEGUARD_FIRST_CLASSES to its classes by "
            f"policy; they are {', '.join(dialect.classes)}"
        )
    named = dict.fromkeys(name for names in settings.first_classes.values() for name in names)
    unknown = [name for name in named if name not in dialect.classes]
    if unknown or not all(settings.first_classes.values()):
        raise ConfigurationError(
            f"SAFEGUARD_FIRST_CLASSES: {', '.join(unknown) or 'nothing'} is no class of {dialect.name}; its classes: "
            f"{', '.join(dialect.classes) or 'none, because it follows policies'}"
        )


def _with_names_of_first(message: str) -> str:
    """A message about servers, with the names of the first judge's settings."""
    for name in _OF_FIRST:
        message = message.replace(f"SAFEGUARD_{name}", f"SAFEGUARD_FIRST_{name}")
    return message


def arranged(
    settings: Settings, backend: InferenceBackend, first: ServerBackend | None
) -> Callable[[Reasoner], Judging]:
    """What judges, around the reasoner that asks the backend."""
    seconds = settings.content_timeout

    def arrange(reasoner: Reasoner) -> Judging:
        main: Judging = reasoner
        if isinstance(backend, ServerBackend) and backend.dialect is not None:
            main = LabelJudge(backend, backend.dialect, {}, seconds)
        if first is None or first.dialect is None:
            return main
        asked_first = LabelJudge(first, first.dialect, settings.first_classes, seconds)
        low, high = map(float, settings.first_band.split(":"))
        return Stages(asked_first, main, (low, high), settings.first_check)

    return arrange
