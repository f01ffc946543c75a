"""Settings: environment variables SAFEGUARD_*, a TOML file, and a folder of secrets, in this order of precedence.

The file is SAFEGUARD_CONFIG, or else ./safeguard.toml. The folder is SAFEGUARD_SECRETS, or else /run/secrets, with
one file for each setting, such as safeguard_password.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Lane
from safeguard_streams.errors import ConfigurationError, nearest
from safeguard_streams.policies.vocabulary import Effort
from safeguard_streams.runtime.brokers import check_brokers
from safeguard_streams.runtime.server_urls import check_servers

log = logging.getLogger(__name__)

# Kubernetes sets SAFEGUARD_REASONER_PORT=tcp://10.0.0.1:8002 in every pod for a Service named safeguard-reasoner. That
# is not meant as a setting, and is left out.
_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://[^/]*:[0-9]+\Z", re.IGNORECASE)
_OF_A_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)\Z")
_PREFIX = "SAFEGUARD_"
_OTHER_VARIABLES = {"SAFEGUARD_CONFIG", "SAFEGUARD_SECRETS"}  # they name where settings are
LANES: tuple[Lane, ...] = get_args(Lane)
ConsoleRole = Literal["reviewer", "author", "auditor", "operator", "admin"]
_USER = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*@", re.IGNORECASE)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*\Z")
_OWN_HEADERS = {"authorization", "content-type", "content-length", "transfer-encoding", "connection", "host"}


def _file() -> Path:
    return Path(os.environ.get("SAFEGUARD_CONFIG", "safeguard.toml"))


def _checked_brokers(brokers: str) -> str:
    try:
        check_brokers(brokers)
    except ConfigurationError:
        raise PydanticCustomError("brokers", "expected HOST:PORT, or several joined by commas") from None
    return brokers


def _each_lane_once(lanes: Any) -> tuple[str, ...]:
    """An environment variable joins lanes by commas, and a file may hold a list."""
    listed = lanes.split(",") if isinstance(lanes, str) else lanes if isinstance(lanes, list | tuple) else ()
    names = tuple(dict.fromkeys(str(lane).strip() for lane in listed))
    if not names or not set(names) <= set(LANES):
        raise PydanticCustomError("lanes", f"expected some of {', '.join(LANES)}, joined by commas")
    return names


def _checked_band(band: str) -> str:
    try:
        low, high = map(float, band.split(":"))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise PydanticCustomError("band", "expected two scores from 0 to 1, the lower first, as in 0.1:0.9")
    return band


def _checked_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value.get_secret_value()):
            raise PydanticCustomError("headers", "expected names and values that HTTP allows in a header")
        if name.lower() in _OWN_HEADERS:
            raise PydanticCustomError("headers", "expected no header of HTTP itself; for Authorization, set API_KEY")
    return headers


class Settings(BaseSettings):
    """All settings of all processes and commands, grouped by the role that uses them."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    # Every process and command: the connection to Kafka.
    bootstrap: Annotated[str, AfterValidator(_checked_brokers)] = Field(
        "127.0.0.1:9092", description="Kafka brokers, HOST:PORT joined by commas"
    )
    prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",  # what Kafka allows in a topic's name
        description="prefix of all topics, groups and transactional ids, for tenants that share a cluster",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="protocol for connecting to brokers"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="authentication mechanism, for protocols with SASL"
    )
    username: str = Field("", description="SASL user, or client id for OAUTHBEARER")
    password: SecretStr | None = Field(None, description="SASL password, or client secret for OAUTHBEARER")
    oauth_url: str = Field(
        "",
        pattern=r"^(https?://.*)?$",
        description="token endpoint for OAUTHBEARER, with the client credentials grant",
    )
    oauth_scope: str = Field("", description="scope to request with each token")
    ca_file: Path | None = Field(
        None, description="CA certificates to trust for brokers, PEM; default: those of the system"
    )
    cert_file: Path | None = Field(None, description="client certificate, PEM, for brokers that require one")
    key_file: Path | None = Field(None, description="private key of the client certificate, PEM")
    key_password: SecretStr | None = Field(None, description="password of the private key")
    delivery: Literal["auto", "exactly-once"] = Field(
        "auto",
        description="exactly-once refuses to start on brokers without transactions; auto falls back to at-least-once",
    )
    session_timeout_ms: int = Field(
        10_000, ge=1000, description="time in ms after which a silent group member loses its partitions"
    )
    group_instance_id: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",  # what Kafka allows in a group.instance.id
        description="name that a process keeps across restarts, such as its pod's: a restart within the session then "
        "moves no partition; default: none",
    )

    # Every process: health pages, logs, traces.
    host: str = Field("127.0.0.1", description="address that the health endpoints listen on")
    log_format: Literal["text", "json"] = Field("text", description="format of log lines on standard error")
    trace_sample_rate: float = Field(
        0.001, ge=0, le=1, description="share of content without a producer's traceparent that is traced"
    )

    # safeguard topics create
    partitions: int = Field(6, ge=1, description="partitions of each new topic")
    replication: int | None = Field(
        None,
        ge=1,
        description="replicas of each new topic; default: 3, or the number of brokers if that is lower",
    )
    actions_retention_days: int = Field(
        topics.ACTIONS_DAYS,
        ge=0,
        le=36_500,
        description="days for which moderation.actions is kept, also applied to an existing topic; 0: without limit. "
        "What stands, moderators' decisions included, is kept in moderation.standing without limit",
    )

    # safeguard referrals purge
    referrals_retention_days: float = Field(
        365.0,
        ge=0,
        le=36_500,
        description="days for which referrals to authorities are kept after their legal hold was released; a referral "
        "under hold is kept without limit",
    )

    # The prefilter.
    prefilter_port: int = Field(6066, ge=1, le=65_535, description="port of the prefilter's web server")
    prefilter_model: Path | None = Field(
        None,
        description="fastText model of the prefilters, also for the console and for commands that try gates; default: "
        "the one in the package",
    )
    audit_rate_near: float = Field(
        0.02, ge=0, le=1, description="share of passed content near a gate's threshold that is judged as an audit"
    )
    audit_rate_far: float = Field(
        0.002, ge=0, le=1, description="share of all other passed content that is judged as an audit"
    )

    # The reasoning worker: which inference backend it uses.
    model: str = Field(
        "small", description="reasoning model: a folder, a hub name, or 'small' for the one in the package"
    )
    servers: str = Field(
        "",
        description="inference servers to use instead of a model in the worker's process: base URLs of "
        "OpenAI-compatible routes, as in http://gpu-1:8000/v1, joined by commas; dns+http://NAME:8000/v1 is a "
        "server at each address that the name has in DNS",
    )
    route: Literal["completions", "chat"] | None = Field(
        None,
        description="route of the servers: completions with token ids, as vLLM offers it, or chat; default: what works "
        "at each server",
    )
    dialect: str | None = Field(
        None,
        description="form of prompts and answers of the servers' model: gpt-oss, cope-a, cope-b, shieldstral, "
        "qwen3guard, llama-guard or shieldgemma; default: by the model's name",
    )
    api_key: SecretStr | None = Field(None, description="API key of the inference servers")
    server_headers: Annotated[dict[str, SecretStr], AfterValidator(_checked_headers)] = Field(
        {},
        description='headers of each request to the servers, such as {"X-Vllm-Priority": "{rank}"}; {rank} is 0 for '
        "live content, 1 for audits and 2 for all other work",
    )
    inference_timeout: float = Field(
        120.0,
        gt=0,
        description="timeout in seconds for the model's response to a request, before the request is retried",
    )
    gpu_memory: float = Field(0.9, gt=0, le=1, description="share of a GPU's memory that vLLM takes")
    tensor_parallel: int = Field(1, ge=1, description="number of GPUs for the model in the worker's process")
    max_model_len: int = Field(16_384, ge=1, description="maximum length of prompt and answer together, in tokens")
    max_tokens: int = Field(
        4096, ge=1, description="maximum length of an answer, in tokens; prefer a lower effort to shorten answers"
    )

    # The reasoning worker: a first judge, whose unsure answers go on to the model above.
    first_servers: str = Field(
        "",
        description="inference servers of a first judge, a model that answers in one token; base URLs as in SERVERS; "
        "default: none",
    )
    first_model: str | None = Field(
        None, description="first judge's name at its servers; default: the one model that they serve"
    )
    first_dialect: str | None = Field(
        None, description="form of the first judge's prompts and answers; default: by its name"
    )
    first_api_key: SecretStr | None = Field(None, description="API key of the first judge's servers")
    first_band: Annotated[str, AfterValidator(_checked_band)] = Field(
        "0.1:1",
        description="scores, as in 0.1:0.9, between which the first judge is unsure; with an upper end of 1 it only "
        "clears, as a guard with fixed classes always does",
    )
    first_classes: dict[str, tuple[str, ...]] = Field(
        {},
        description="classes that a guard as first judge looks for, by policy; it judges under no other policy; as in "
        '  {"hate-harassment": ["S1", "S10"]}',
    )
    first_check: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of content decided by the first judge that the model judges too, and decides; metrics count "
        "how often the two agree",
    )

    # The reasoning worker: what it judges, how much at once, and in which order.
    lanes: Annotated[tuple[Lane, ...], NoDecode, BeforeValidator(_each_lane_once)] = Field(
        LANES,
        description="lanes that a reasoning worker judges, joined by commas, as in audit,shadow,replay for workers "
        "that leave live content to others",
    )
    commit_interval: float = Field(
        0.25,
        ge=0,
        le=60,
        description="time in seconds within which verdicts of a partition share a commit under load; a shorter time "
        "lowers latency and costs processor time",
    )
    reasoner_port: int = Field(6067, ge=0, le=65_535, description="port of the reasoning worker's health endpoint")
    max_in_flight: int | None = Field(
        None,
        ge=1,
        description="maximum number of content items that a reasoning worker judges at once; default: 32 to 256 "
        "by the GPU's memory, 8 for a model on a CPU, or what it learns of each inference server",
    )
    max_tokens_in_flight: int | None = Field(
        None,
        ge=1000,
        description="maximum number of prompt and answer tokens at the inference backend at once; default: what fits "
        "the backend's cache, if it reports that",
    )
    background_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="share of items and tokens in flight that audits and replays may take beside live content",
    )
    effort_by_lag: dict[Effort, float] = Field(
        {},
        description='maximum effort for live content, by seconds waited, as in   {"medium": 30, "low": 120}',
    )
    judgement_cache_size: int = Field(
        10_000, ge=0, description="number of judgements that a worker keeps and reuses for identical content"
    )
    canary_port: int = Field(6069, ge=0, le=65_535, description="port of a canary's health endpoint")

    content_timeout: float = Field(
        300.0,
        gt=0,
        description="time in seconds that requests for one content item may be in progress; afterwards the verdict is "
        "undetermined",
    )
    content_tokens: int = Field(
        32_768,
        ge=1,
        description="number of tokens that the model may write about one content item, for each sample; afterwards the "
        "verdict is undetermined",
    )

    # The enforcement agent.
    enforcement_port: int = Field(6068, ge=0, le=65_535, description="port of the enforcement agent's health endpoint")
    webhook_secret: SecretStr | None = Field(
        None, description="key that signs webhook deliveries: whsec_ and the base64 of at least 24 random bytes"
    )
    webhook_authorization: SecretStr | None = Field(
        None, description="value of the Authorization header of webhook deliveries, as in Bearer TOKEN"
    )

    # The author ledger.
    authors_port: int = Field(6072, ge=0, le=65_535, description="port of the author ledger's health endpoint")

    # The console.
    console_port: int = Field(6071, ge=0, le=65_535, description="port of the console's web server")
    console_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#@]+)?/?$",
        description="address at which browsers reach the console, as in https://console.example.com; default: its "
        "own host and port",
    )
    console_oidc_issuer: str = Field(
        "",
        pattern=r"^(https?://[^?#@]+)?$",
        description="OpenID Connect provider that people sign in at, as in https://login.example.com; default: none, "
        "and the console serves this machine alone",
    )
    console_oidc_client_id: str = Field("", description="the console's client id at the provider")
    console_oidc_client_secret: SecretStr | None = Field(None, description="the console's client secret there")
    console_oidc_scopes: str = Field("openid profile email", description="scopes to request, joined by spaces")
    console_name_claim: str = Field(
        "preferred_username", description="claim with the name that records and the audit log carry"
    )
    console_groups_claim: str = Field("groups", description="claim that lists a person's groups")
    console_roles: dict[str, tuple[ConsoleRole, ...]] = Field(
        {},
        description='roles by group, as in {"trust-and-safety": ["reviewer"], "policy": ["author", "auditor"]}; roles '
        "are reviewer, author, auditor, operator and admin",
    )
    console_proxy_secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="secret that a trusted proxy sends as X-Safeguard-Proxy, with X-Forwarded-User and "
        "X-Forwarded-Groups; set it to sign people in at the proxy",
    )
    console_proxy_addresses: str = Field(
        "127.0.0.1,::1", description="addresses or networks of that proxy, joined by commas, as in 10.0.0.0/8"
    )
    console_session_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="key that signs sessions, the same for all processes of a console; default: a new one at each "
        "start",
    )
    console_session_hours: float = Field(
        8.0, gt=0, le=168, description="time in hours after which people sign in again"
    )
    console_claim_minutes: float = Field(
        15.0, gt=0, le=1440, description="time in minutes after which an item that a reviewer claimed returns"
    )
    console_blind_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of waiting items that reviewers decide before the verdict is shown",
    )
    console_golden_share: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of the items that begin to wait for which a golden text waits, too, to measure reviewers",
    )
    console_second_share: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of what the queue hands out that a colleague decided before, to measure agreement",
    )
    console_database: SecretStr | None = Field(
        None,
        description="URL of the console's database: sqlite:////PATH/console.db, or postgresql://USER:PASSWORD@HOST/NAME",
    )
    console_text_days: float = Field(
        30.0, gt=0, le=36_500, description="days for which the console keeps the text of a content item"
    )
    console_policies: Path | None = Field(
        None,
        description="folder of the policies that the console edits, one ID/policy.md each; in a git checkout, releases "
        "are committed there; default: golden sets come from the package, and nothing is committed",
    )
    projector_port: int = Field(6070, ge=0, le=65_535, description="port of the projector's health endpoint")

    @property
    def catalogue(self) -> tuple[topics.Topic, ...]:
        """The topics of this deployment."""
        return topics.catalogue(self.actions_retention_days)

    def identity(self, stage: str) -> dict[str, str]:
        """Which process of which deployment answers, as /health/ready says: several may run on a host."""
        return {"stage": stage, "prefix": self.prefix}

    @field_validator("oauth_url", "servers", "first_servers")
    @classmethod
    def _without_secrets(cls, urls: str) -> str:
        """A URL appears in messages and traces, so it must hold no user, password or token."""
        if any(_USER.match(url.strip()) for url in urls.split(",")):
            raise ValueError("a URL must hold no user and no password; set USERNAME and PASSWORD, or API_KEY")
        return urls

    @field_validator("servers")
    @classmethod
    def _base_urls(cls, servers: str) -> str:
        try:
            check_servers(servers)
        except ConfigurationError as error:
            raise PydanticCustomError("servers", "{problem}", {"problem": str(error)}) from None
        return servers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic's signature)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the same)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = Path(os.environ.get("SAFEGUARD_SECRETS", "/run/secrets"))
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = {
                name: value for name, value in env_settings.env_vars.items() if not _SERVICE_LINK.match(value or "")
            }
        sources = (init_settings, env_settings, _TomlFile(settings_cls, _file()))
        return (*sources, SecretsSettingsSource(settings_cls, secrets)) if secrets.is_dir() else sources


class _TomlFile(TomlConfigSettingsSource):
    """A file in UTF-8, with or without a byte order mark."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text(encoding="utf-8-sig"))


def load(**given: Any) -> Settings:
    """Settings, with `given` (None: not given) before all sources. Raises ConfigurationError naming the setting."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError("; ".join(_problem(e["type"], e["loc"], e["msg"]) for e in error.errors())) from None
    except SettingsError as error:  # it names the field, and its cause quotes the value
        named = re.search(r'field "(\w+)"', str(error))
        raise ConfigurationError(_problem("json", (named[1] if named else "?",), "is no valid JSON")) from None
    except (ValueError, RecursionError, OSError) as error:  # also for bytes that are no UTF-8, and endless numbers
        raise ConfigurationError(f"{_file()}: cannot be read: {error}") from error


def _problem(kind: str, path: tuple[int | str, ...], message: str) -> str:
    """What is wrong with a setting. Only a file can have an unknown one: unknown variables are of other programs."""
    name = "_".join(map(str, path))
    if kind == "extra_forbidden":
        return f"{_file()}: unknown setting {name}{nearest(name, Settings.model_fields)}"
    return f"SAFEGUARD_{name.upper()}: {message[:1].lower()}{message[1:]}"


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables SAFEGUARD_* that nothing reads, each with the nearest known one, if one is near."""
    fields = {_PREFIX + name.upper() for name in Settings.model_fields}  # read in any case
    unknown = sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(_PREFIX)
        and name.upper() not in fields
        and name not in _OTHER_VARIABLES
        and not _is_of_a_service(name, value)
    )
    known = {name.removeprefix(_PREFIX) for name in fields | _OTHER_VARIABLES}
    near = {name: difflib.get_close_matches(name.upper().removeprefix(_PREFIX), known, 1) for name in unknown}
    return {name: _PREFIX + found[0] if found else None for name, found in near.items()}


def _is_of_a_service(name: str, value: str) -> bool:
    """Whether Kubernetes set a variable, for a Service of whatever name."""
    return bool(_OF_A_SERVICE.search(name) or (name.endswith("_PORT") and _SERVICE_LINK.match(value)))


def misspelled(environment: Mapping[str, str]) -> dict[str, str]:
    """The unknown variables that are near a known one; others may belong to other programs."""
    return {name: near for name, near in unknown_variables(environment).items() if near}


def log_misspelled() -> None:
    """Log the variables of this process that are misspelled. For processes; commands print them."""
    for name, near in misspelled(os.environ).items():
        log.warning("unknown variable ignored name=%s nearest=%s", name, near)
