"""safeguard policy test and diff: what asks a model about a policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from safeguard_streams.cli.options import Bootstrap, Json, Library, needs_extra, policy_path
from safeguard_streams.errors import ConfigurationError, SafeguardError
from safeguard_streams.policies import golden as golden_sets
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import LIBRARY, load
from safeguard_streams.policies.golden import Golden
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.cli import tables
from safeguard_streams.workers.cli.reason import Model, Servers, settings_for
from safeguard_streams.workers.evaluation import golden_eval

Engine = Annotated[
    Literal["local", "remote"] | None,
    typer.Option(
        help="local: the model in this process; remote: the servers of --server or SAFEGUARD_SERVERS, for a GPU that is "
        "elsewhere. By default remote where servers are named."
    ),
]
GoldenFile = Annotated[
    Path | None, typer.Option("--golden", help="Golden set; by default golden.jsonl beside the policy.")
]
Runs = Annotated[int, typer.Option(min=1, max=20, help="Times that every text is judged; two show the noise floor.")]


def _engine(engine: str | None, model: str | None, server: list[str] | None) -> Settings:
    current = settings_for(model, server)
    if engine == "remote" and not current.servers:
        raise ConfigurationError("--engine remote needs a server: --server http://gpu-1:8000/v1, or SAFEGUARD_SERVERS")
    return current.model_copy(update={"servers": ""}) if engine == "local" else current


def try_golden(
    policy: Annotated[str, typer.Argument(metavar="ID", help="Id of a policy in the library, or a policy.md file.")],
    library: Library = LIBRARY,
    golden: GoldenFile = None,
    runs: Runs = 2,
    min_f1: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Exit with status 1 when the F1 of any run is below it.")
    ] = None,
    engine: Engine = None,
    model: Model = None,
    server: Servers = None,
    as_json: Json = False,
) -> None:
    """Judge a policy's golden set: confusion, recall and precision of each rule with 95 % intervals, each disagreement
    with the model's rationale, the noise floor, and the cost in tokens.
    """
    try:
        from safeguard_streams.workers.evaluation import offline
    except ImportError as error:
        raise needs_extra(error, "reasoner-gpu") from error
    path = policy_path(policy, library)
    document = load(path)
    texts = golden_sets.load(golden or path.with_name(golden_sets.NAME))
    _known_rules(document, texts, golden or path.with_name(golden_sets.NAME))

    async def work() -> golden_eval.Report:
        async with offline.measurement(_engine(engine, model, server)) as measured:
            done = await golden_eval.run(measured, document, texts, runs)
            return golden_eval.report(document, measured.model, texts, done)

    found = asyncio.run(work())
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        tables.report(found)
    if min_f1 is not None and min(found.f1) < min_f1:
        raise SafeguardError(f"{document.id} {document.version}: F1 {min(found.f1):.3f} is below {min_f1:g}")


def _known_rules(policy: Policy, texts: Sequence[Golden], path: Path) -> None:
    unknown = sorted({text.rule for text in texts} - set(policy.rules))
    if unknown:
        raise ConfigurationError(f"{path}: {policy.id} has no rule {', '.join(unknown)}; see: safeguard policy check")


class _Version(msgspec.Struct, frozen=True):
    """A policy to be compared, and where its golden set would be."""

    policy: Policy
    golden: Path


def _version(name: str, library: Path, bootstrap: str | None) -> _Version:
    """A library id, a file, or ID@WHICH for a release."""
    policy_id, _, which = name.partition("@")
    if not which:
        path = policy_path(name, library)
        return _Version(load(path), path.with_name(golden_sets.NAME))
    found = asyncio.run(operator.history(settings.load(bootstrap=bootstrap))).find(policy_id, which)
    policy = parse(found.document, f"{policy_id} revision {found.revision}", found.distilled)
    return _Version(policy, library / policy_id / golden_sets.NAME)


def diff(
    before: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A policy of the library, a policy.md file, or a release: ID@live, ID@shadow, ID@REVISION, ID@VERSION.",
        ),
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    library: Library = LIBRARY,
    golden: GoldenFile = None,
    text_only: Annotated[bool, typer.Option("--text-only", help="Ask no model.")] = False,
    runs: Runs = 2,
    engine: Engine = None,
    model: Model = None,
    server: Servers = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """What changed between two versions of a policy: its text, and which golden verdicts flip, beside the noise floor of the
    first version judged twice.
    """
    try:
        from safeguard_streams.workers.evaluation import offline
    except ImportError as error:
        raise needs_extra(error, "reasoner-gpu") from error
    old, new = _version(before, library, bootstrap), _version(after, library, bootstrap)
    found = golden_eval.difference(old.policy, new.policy, (before, after))
    if not text_only:
        path = golden or next((v.golden for v in (new, old) if v.golden.is_file()), old.golden)
        texts = golden_sets.load(path)

        async def work() -> golden_eval.Difference:
            async with offline.measurement(_engine(engine, model, server)) as measured:
                olds = await golden_eval.run(measured, old.policy, texts, runs)
                news = await golden_eval.run(measured, new.policy, texts, runs)
            return msgspec.structs.replace(
                found,
                texts=len(texts),
                f1=(golden_eval.f1(texts, olds[0]), golden_eval.f1(texts, news[0])),
                noise=golden_eval.noise(olds),
                flips=tuple(golden_eval.flips(texts, olds, news)),
            )

        found = asyncio.run(work())
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        tables.difference(found)
