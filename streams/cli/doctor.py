"""safeguard doctor."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import msgspec
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.cli.output import say
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.operations import diagnosis, host_checks
from safeguard_streams.operations.acls import ROLES
from safeguard_streams.operations.checks import Check, failed
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.security import client_options


def doctor(
    role: Annotated[
        str | None, typer.Option(help=f"Also check that this user has the rights of a role: {', '.join(ROLES)}.")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Check what commonly goes wrong, and say what to do about each problem. Exit with status 1 if a check failed.

    Changes nothing. Ends within a minute, whatever does not answer.
    """
    if role is not None and role not in ROLES:
        raise ConfigurationError(f"no role {role!r}; choose one of: {', '.join(ROLES)}")
    checks = _checks(bootstrap, role)
    if as_json:
        print(msgspec.json.encode(checks).decode())
    else:
        for check in checks:
            say(f"{check.result:<8} {check.name}: {check.found}")
            if check.remedy:
                say(f"{'':<8} -> {check.remedy}")
    if any(check.result == "failed" for check in checks):
        raise typer.Exit(1)


def _checks(bootstrap: str | None, role: str | None) -> list[Check]:
    try:
        current = settings.load(bootstrap=bootstrap)
        client_options(current)
    except ConfigurationError as error:
        remedy = "correct the environment, safeguard.toml or the folder of secrets; the reference lists all settings"
        return [failed("settings", str(error), remedy), host_checks.variables(os.environ)]
    with kafka.watched(kafka.Reading()):
        return asyncio.run(diagnosis.diagnose(current, os.environ, role))
