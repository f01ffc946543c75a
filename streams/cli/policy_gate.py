"""`safeguard policy gate`, and the golden gates that `safeguard policy release` learns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli import gate_tables
from safeguard_streams.cli.options import Bootstrap, Json, Library, LoadedPolicy, extra, load_policy
from safeguard_streams.cli.output import console, say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.errors import ConfigurationError, PolicyError
from safeguard_streams.policies import golden
from safeguard_streams.policies.check import Checked
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import LIBRARY, load_library
from safeguard_streams.policies.golden import Golden
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.durations import moment

if TYPE_CHECKING:  # these need the extras `encoder` and `quality`
    from safeguard_streams.quality.golden_gate import Fitted
    from safeguard_streams.quality.golden_live import LiveComparison


def gate(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Ids in the library, or policy.md files; default: the whole library."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Compare the golden gate in shadow with the present one, by live verdicts.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="With --live: put the golden gate into policy.md and distilled.json.")
    ] = False,
    target_recall: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of violating content to escalate.")
    ] = 0.95,
    since: Annotated[
        str | None,
        typer.Option(help="With --live: read verdicts written from this time on: 2026-01-31T12:00:00Z, or 7d."),
    ] = None,
    library: Library = LIBRARY,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Learn golden gates from golden sets, and show what to expect of them. Needs the extra encoder.

    `safeguard policy release` learns the same gates and runs them in shadow. With --live, shows from verdicts whether
    that of one policy is better than its present gate.
    """
    for option, given in (("--write", write), ("--since", since is not None)):
        if given and not live:
            raise typer.BadParameter("needs --live", param_hint=option)
    if live and len(ids or ()) != 1:
        raise typer.BadParameter("name one policy for --live", param_hint="ID")
    loaded = [load_policy(name, library) for name in ids or sorted(load_library(library))]
    if live:
        start = moment(since, "--since") if since else None
        _live(loaded[0], settings.load(bootstrap=bootstrap), target_recall, start, write=write, as_json=as_json)
        return
    fitted = _fitted(loaded, target_recall, settings.load(bootstrap=bootstrap).prefilter_model)
    if as_json:
        print(msgspec.json.encode([_row(one) for one in fitted]).decode())
    elif len(fitted) == 1:
        gate_tables.show_fitted(fitted[0])
    elif fitted:
        gate_tables.show_several(fitted)


def _fitted(loaded: Sequence[LoadedPolicy], target_recall: float, model: Path | None) -> list[Fitted]:
    sets = list(_golden_sets(loaded))
    with extra("all-cpu"):
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.quality.golden_corpus import corpus
        from safeguard_streams.quality.golden_gate import learn, shared_vectors
    corpora = []
    for policy, rows in sets:
        try:
            corpora.append((policy, corpus(policy, rows)))
        except ConfigurationError as error:
            if len(loaded) == 1:
                raise
            say(error, error=True)
    with console(stderr=True).status("learning golden gates"):
        vectors, classifier = shared_vectors(), Classifier(model or SHIPPED)
        return [learn(policy, texts, classifier, vectors, target_recall) for policy, texts in corpora]


def _golden_sets(loaded: Sequence[LoadedPolicy]) -> Iterator[tuple[Policy, Sequence[Golden]]]:
    """The golden sets that can be read. Of several, the others are named."""
    for policy, path in loaded:
        try:
            yield policy, golden.load(path.with_name(golden.NAME))
        except PolicyError as error:
            if len(loaded) == 1:
                raise
            say(error, error=True)


def _row(one: Fitted) -> dict[str, object]:
    return {
        "policy": one.gate.policy_id,
        "name": one.gate.name,
        "rows": one.gate.rows,
        "target_recall": one.target_recall,
        "threshold": one.gate.threshold,
        "present": one.present,
        "golden": one.golden,
    }


def _live(
    loaded: LoadedPolicy,
    current: settings.Settings,
    target_recall: float,
    since: datetime | None,
    *,
    write: bool,
    as_json: bool,
) -> None:
    """Compare by live verdicts and, with write, take the golden gate into force."""
    policy, path = loaded
    with extra("all-cpu"):
        from safeguard_streams.quality import gate_taking, golden_live

    if write:
        gate_taking.require_own(path.parent.parent)

    async def work() -> tuple[LiveComparison, list[Path]]:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        comparison = await golden_live.from_kafka(current, policy.id, target_recall, since)
        if not write:
            return comparison, []
        learned = await golden_live.released(current, policy, comparison)
        return comparison, golden_live.take_into_force(policy, learned, comparison, path.parent)

    with shown_reading():
        comparison, files = asyncio.run(work())
    if as_json:
        row = {**msgspec.to_builtins(comparison), "better": comparison.better, "files": [str(file) for file in files]}
        print(msgspec.json.encode(row).decode())
        return
    gate_tables.show_live(comparison, files)


def golden_for_release(
    checked: Sequence[Checked], standing: Mapping[str, PolicyRelease], model: Path | None = None
) -> dict[str, str | None]:
    """The golden gates to release, as JSON by policy id. Says which policies get none, and why.

    model: the prefilters' fastText model, if not that of the package.
    Where the extras are not installed, none is learned, and policies keep what they have.
    """
    try:
        with extra("all-cpu"), console(stderr=True).status("learning golden gates"):
            from safeguard_streams.quality.golden_release import golden_releases

            gates, notices = golden_releases(checked, standing, model)
    except ConfigurationError as error:
        say(f"no golden gate was learned: {error}", error=True)
        return {}
    for notice in notices:
        say(notice, error=True)
    return gates


def with_coverage(checked: Sequence[Checked], model: Path | None = None) -> list[Checked]:
    """The results of checks, with warnings of gates that would miss golden texts, where the prefilter is installed.

    model: the prefilters' fastText model, if not that of the package.
    """
    try:
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.quality import golden_coverage
    except ImportError:
        say("gates were not tried on golden sets, which needs the extra prefilter", error=True)
        return list(checked)
    return golden_coverage.with_coverage(checked, lambda: Classifier(model or SHIPPED))
