"""`safeguard policy test` and `safeguard policy diff`: the commands that judge texts under a policy with a model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from safeguard_streams.cli.options import Bootstrap, Json, Library, extra, policy_path
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
from safeguard_streams.workers.cli.progress import announce_start, progress_bars
from safeguard_streams.workers.cli.reason import Model, Servers, settings_for
from safeguard_streams.workers.evaluation import golden_eval

Backend = Annotated[
    Literal["local", "remote"] | None,
    typer.Option(
        help="local: the model in this process. remote: the servers of --server or SAFEGUARD_SERVERS, for a GPU on "
        "another machine. Default: remote if servers are named, else local."
    ),
]
GoldenFile = Annotated[
    Path | None, typer.Option("--golden", help="Golden set; default: golden.jsonl beside the policy.")
]
Runs = Annotated[int, typer.Option(min=1, max=20, help="Times to judge each text; at least 2 for a noise floor.")]


def _backend_settings(backend: str | None, model: str | None, server: list[str] | None) -> Settings:
    current = settings_for(model, server)
    if backend == "remote" and not current.servers:
        raise ConfigurationError("--backend remote needs a server: --server http://gpu-1:8000/v1, or SAFEGUARD_SERVERS")
    return current.model_copy(update={"servers": ""}) if backend == "local" else current


def try_golden(
    policy: Annotated[str, typer.Argument(metavar="ID", help="Id of a policy in the library, or a policy.md file.")],
    library: Library = LIBRARY,
    golden: GoldenFile = None,
    runs: Runs = 2,
    min_f1: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Exit with status 1 if the F1 of any run is below this.")
    ] = None,
    backend: Backend = None,
    model: Model = None,
    server: Servers = None,
    as_json: Json = False,
) -> None:
    """Judge a policy's golden set, and show how often the model agrees with its labels.

    Shows the confusion matrix, the recall and precision of each rule with 95% intervals, each disagreement with the
    model's rationale, the noise floor, and the cost in tokens.
    """
    with extra("reasoner-gpu"):
        from safeguard_streams.workers.evaluation import trials
    path = policy_path(policy, library)
    document = load(path)
    golden_path = golden or path.with_name(golden_sets.NAME)
    texts = golden_sets.load(golden_path)
    _require_rules(document, texts, golden_path)
    current = _backend_settings(backend, model, server)

    async def evaluate() -> golden_eval.GoldenReport:
        with progress_bars() as on_progress:
            return await trials.evaluate(current, document, texts, runs, on_progress)

    announce_start(current)
    report = asyncio.run(evaluate())
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        tables.golden_report(report)
    if min_f1 is not None and min(report.f1) < min_f1:
        raise SafeguardError(f"{document.id} {document.version}: F1 {min(report.f1):.3f} is below {min_f1:g}")


def _require_rules(policy: Policy, texts: Sequence[Golden], path: Path) -> None:
    """Raises ConfigurationError when a golden text names a rule that the policy does not have."""
    unknown = sorted({text.rule for text in texts} - set(policy.rules))
    if unknown:
        raise ConfigurationError(f"{path}: {policy.id} has no rule {', '.join(unknown)}; see: safeguard policy check")


class _Version(msgspec.Struct, frozen=True):
    """A policy to compare. golden: where its golden set would be."""

    policy: Policy
    golden: Path


def _version(name: str, library: Path, bootstrap: str | None) -> _Version:
    """A version named by a library id, a file, or ID@WHICH for a release."""
    policy_id, _, which = name.partition("@")
    if not which:
        path = policy_path(name, library)
        return _Version(load(path), path.with_name(golden_sets.NAME))
    release = asyncio.run(operator.history(settings.load(bootstrap=bootstrap))).find(policy_id, which)
    policy = parse(release.document, f"{policy_id} revision {release.revision}", release.distilled)
    return _Version(policy, library / policy_id / golden_sets.NAME)


def diff(
    before: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Policy id in the library, policy.md file, or release: ID@live, ID@shadow, ID@REVISION, ID@VERSION.",
        ),
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="The version to compare with A, named in the same ways.")],
    library: Library = LIBRARY,
    golden: GoldenFile = None,
    text_only: Annotated[bool, typer.Option("--text-only", help="Compare the texts without a model.")] = False,
    runs: Runs = 2,
    backend: Backend = None,
    model: Model = None,
    server: Servers = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Compare two versions of a policy: the text, and the golden verdicts that flip.

    The noise floor shows how many verdicts differ between runs of the first version alone.
    """
    with extra("reasoner-gpu"):
        from safeguard_streams.workers.evaluation import offline
    old, new = _version(before, library, bootstrap), _version(after, library, bootstrap)
    difference = golden_eval.difference(old.policy, new.policy, (before, after))
    if not text_only:
        path = golden or next((v.golden for v in (new, old) if v.golden.is_file()), old.golden)
        texts = golden_sets.load(path)
        current = _backend_settings(backend, model, server)

        async def compare() -> golden_eval.PolicyDifference:
            with progress_bars() as on_progress:
                async with offline.offline_judge(current, on_progress, [old.policy, new.policy]) as judge:
                    return await golden_eval.compare(judge, old.policy, new.policy, texts, runs, difference)

        announce_start(current)
        difference = asyncio.run(compare())
    if as_json:
        print(msgspec.json.encode(difference).decode())
    else:
        tables.difference(difference)
