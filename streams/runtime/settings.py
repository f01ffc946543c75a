"""Settings: environment variables SAFEGUARD_*, over a TOML file (SAFEGUARD_CONFIG, else ./safeguard.toml), over files in a
folder (SAFEGUARD_SECRETS, else /run/secrets), one for each setting, as in safeguard_password.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.vocabulary import Effort


class Settings(BaseSettings):
    """All settings of all processes; each uses its own part."""

    model_config = SettingsConfigDict(env_prefix="SAFEGUARD_", extra="forbid", frozen=True)

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, HOST:PORT joined by commas")
    prefix: str = Field(
        "", description="prefix of all topics, groups and transactional ids, for tenants on one cluster"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how the brokers are spoken to"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="how this process says who it is, where the protocol has SASL"
    )
    username: str = Field("", description="user of SASL; of OAUTHBEARER the client's id")
    password: SecretStr | None = Field(None, description="password of SASL; of OAUTHBEARER the client's secret")
    oauth_url: str = Field(
        "", pattern=r"^(https?://.*)?$", description="where OAUTHBEARER's tokens are had, by client credentials"
    )
    oauth_scope: str = Field("", description="scope that is asked for with them")
    ca_file: Path | None = Field(
        None, description="certificates that the brokers' are signed by, PEM; by default those of the system"
    )
    cert_file: Path | None = Field(None, description="certificate of this process, PEM, where brokers ask for one")
    key_file: Path | None = Field(None, description="its key, PEM")
    key_password: SecretStr | None = Field(None, description="password of the key")

    partitions: int = Field(6, ge=1, description="partitions of each topic when it is created")
    replication: int | None = Field(
        None,
        ge=1,
        description="replicas of each topic when it is created; by default 3, or one per broker if they are fewer",
    )
    session_timeout_ms: int = Field(10_000, ge=1000, description="a member silent for so long loses its partitions")

    trace_sample_rate: float = Field(
        0.001, ge=0, le=1, description="of content whose producer gave no traceparent, the share that is traced"
    )
    log_format: Literal["text", "json"] = Field("text", description="form of the log lines on standard error")

    host: str = Field("127.0.0.1", description="address that health endpoints listen on")
    prefilter_port: int = Field(6066, ge=1, le=65_535, description="port of the prefilter's web server")
    reasoner_port: int = Field(6067, description="port of the reasoning worker's health endpoint")
    prefilter_model: Path | None = Field(None, description="fastText model; by default the one in the package")

    audit_rate_near: float = Field(
        0.02, ge=0, le=1, description="share of what passes a gate near its threshold that is judged all the same"
    )
    audit_rate_far: float = Field(0.002, ge=0, le=1, description="share of all else that passes a gate, likewise")

    model: str = Field(
        "small", description="reasoning model: a folder, a hub name, or 'small' for the one in the package"
    )
    servers: str = Field(
        "",
        description="inference servers in place of a model in the worker's process: base URLs of OpenAI-compatible "
        "routes, as in http://gpu-1:8000/v1, joined by commas",
    )
    route: Literal["completions", "chat"] | None = Field(
        None,
        description="how servers are asked: completions with token ids, as vLLM offers them, or chat; by default as "
        "each server says of itself",
    )
    api_key: SecretStr | None = Field(None, description="key of the inference servers")
    inference_timeout: float = Field(
        600.0, gt=0, description="longest wait for a server's answer before it is asked again"
    )

    max_in_flight: int | None = Field(
        None,
        ge=1,
        description="most contents that a reasoning worker judges at once; by default 64, and 8 where its model runs "
        "on a CPU",
    )
    max_tokens_in_flight: int | None = Field(
        None,
        ge=1000,
        description="most tokens of contents and answers that a worker has at the engine at once; by default what fits "
        "the engine's cache, where it says so",
    )
    background_share: float = Field(
        0.25, ge=0, le=1, description="share of both that audits and replays take while there is live content"
    )
    effort_by_lag: dict[Effort, float] = Field(
        {},
        description="live content that has waited longer than so many seconds is judged at this effort at most, as in "
        '{"medium": 30, "low": 120}',
    )
    judgement_cache_size: int = Field(
        10_000, ge=0, description="judgements that a worker keeps, to answer equal content without asking again"
    )
    max_model_len: int = Field(16_384, description="longest prompt and answer together, in tokens")
    max_tokens: int = Field(
        4096, description="longest answer, in tokens; low effort is the better way to shorten answers"
    )
    gpu_memory: float = Field(0.9, gt=0, le=1, description="share of a GPU's memory that the engine takes")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that the model in the worker's process is spread over")

    enforcement_port: int = Field(6068, description="port of the enforcement agent's health endpoint")
    webhook_secret: SecretStr | None = Field(
        None, description="key that signs what enforcement delivers: whsec_ and the base64 of at least 24 random bytes"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the signature is the library's)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (likewise)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = Path(os.environ.get("SAFEGUARD_CONFIG", "safeguard.toml"))
        secrets = Path(os.environ.get("SAFEGUARD_SECRETS", "/run/secrets"))
        sources = (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file))
        return (*sources, SecretsSettingsSource(settings_cls, secrets)) if secrets.is_dir() else sources


def load(**given: Any) -> Settings:
    """Settings, with `given` (None: not given) over environment and file. Raises ConfigurationError naming the setting."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(
            f"SAFEGUARD_{'_'.join(map(str, e['loc'])).upper()}: {e['msg'].lower()}" for e in error.errors()
        )
        raise ConfigurationError(problems) from None
