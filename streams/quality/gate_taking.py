"""Takes a proposed gate: its files into the policy's library, and its release."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import check
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import LIBRARY, PolicyFiles, load
from safeguard_streams.quality.gate_evidence import PolicyState
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy, PlannedRelease
from safeguard_streams.runtime.settings import Settings


def policy_folder(library: Path, state: PolicyState) -> Path:
    """The policy's folder in a library that may be written.

    Raises ConfigurationError where there is no such library, or its policy is not the one in force.
    """
    name, folder = state.policy.id, library / state.policy.id
    require_own(library)
    path = folder / "policy.md"
    if not path.exists():
        return folder
    there = load(path)
    if (there.document, there.distilled_file) != (state.release.document, state.release.distilled):
        raise ConfigurationError(
            f"{path} differs from the release in force, revision {state.release.revision}: release it first, or move "
            f"policy.md and distilled.json away, and the new {name} is made from the release"
        )
    return folder


def require_own(library: Path) -> None:
    """Raises ConfigurationError unless the library is a folder other than the package's own."""
    if library.resolve() == LIBRARY.resolve():
        raise ConfigurationError(
            "an upgrade would replace what is written into the package: give --library with a folder of your own. "
            "The policy's files are written there"
        )
    if not library.is_dir():
        raise ConfigurationError(
            f"there is no folder {library}: create it, or give --library with that of your policies"
        )


async def take(
    settings: Settings,
    state: PolicyState,
    files: PolicyFiles,
    folder: Path,
    changed_by: ChangedBy,
    *,
    shadow: float | None = None,
) -> tuple[list[PlannedRelease], list[PolicyRelease]]:
    """Write a policy's files and release it, or release it as a shadow on this share of content.

    The files are as before if it is not released. Raises ConfigurationError where another release came in between.
    """
    planned: list[PlannedRelease] = []

    def review(plan: Sequence[PlannedRelease]) -> None:
        planned.extend(plan)
        (one,) = plan
        if one.in_force is None or one.in_force.revision != state.release.revision:
            raise ConfigurationError(f"{state.policy.id} was released or retired meanwhile: ask for advice again")
        if one.unchanged:
            raise ConfigurationError(f"{state.policy.id} has this gate already")

    with written(folder, files) as path:
        (policy,) = check.require([check.check(path, named_by_folder=True)])
        golden = {policy.id: _kept_golden(state, policy)}
        released = await operator.release(settings, [policy], changed_by, shadow=shadow, golden=golden, review=review)
    return planned, released


def _kept_golden(state: PolicyState, policy: Policy) -> str | None:
    """The golden gate of the release in force, if it stays in shadow beside the policy's new gate."""
    golden = state.golden
    fits = golden is not None and policy.distilled is None and golden.harms == policy.gate.harms
    return state.release.golden if fits else None


@contextlib.contextmanager
def written(folder: Path, files: PolicyFiles) -> Iterator[Path]:
    """Write policy.md and distilled.json, and give the path of the former. Where the block fails, both are as before.

    Raises ConfigurationError when they cannot be written.
    """
    wanted = {folder / "policy.md": files.document, folder / "distilled.json": files.distilled}
    try:
        folder.mkdir(exist_ok=True)
        former = {path: path.read_bytes() if path.exists() else None for path in wanted}
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        _write({path: None if text is None else text.encode() for path, text in wanted.items()})
        yield folder / "policy.md"
    except BaseException:
        _write(former)
        raise


def _write(contents: dict[Path, bytes | None]) -> None:
    for path, content in contents.items():
        try:
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
