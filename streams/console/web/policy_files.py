"""The files of a policy: where its golden set is, and the distilled classifier that its document names."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from safeguard_streams.console.web.guard import NotFoundError
from safeguard_streams.policies import golden
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.policies.parsing import POLICY_ID
from safeguard_streams.policies.reading import FRONT
from safeguard_streams.releases import operator
from safeguard_streams.runtime.settings import Settings

_DISTILLED = re.compile(r"^[ \t]+distilled:[ \t]*['\"]?([0-9a-f]{12})\b", re.MULTILINE)


class Draft(NamedTuple):
    """A text that somebody edits, and where it is to stand. base: names the files in git from which it began; empty
    without a checkout.
    """

    policy_id: str
    document: str
    base: str
    path: Path


def path_of(settings: Settings, policy_id: str) -> Path:
    """Where a policy's document stands, or would stand. Raises NotFoundError for what is no id."""
    if not POLICY_ID.match(policy_id):
        raise NotFoundError("No policy has this id: ids are lower-case words joined by hyphens.")
    return (settings.console_policies or LIBRARY) / policy_id / "policy.md"


def golden_sha(path: Path) -> str:
    """A name of the golden set beside a document: equal for equal sets; empty where there is none."""
    try:
        return hashlib.sha256(path.with_name(golden.NAME).read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


class Classifiers:
    """Texts of distilled.json by the names that documents give them: 12 digits of their hash."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, str] = {}

    async def named_in(self, document: str, path: Path) -> str | None:
        """The classifier that a document names, from the file beside it or from a release; None if there is none."""
        front = FRONT.match(document)
        named = _DISTILLED.search(front[1]) if front else None
        if named is None:
            return None
        name = named[1]
        if name not in self._known:
            self._add(_beside(path))
        if name not in self._known:
            for change in (await operator.history(self._settings)).changes:
                self._add(change.release.distilled if change.release else None)
        return self._known.get(name)

    def _add(self, text: str | None) -> None:
        if text is not None:
            self._known[hashlib.sha256(text.encode()).hexdigest()[:12]] = text


def _beside(path: Path) -> str | None:
    try:
        return path.with_name("distilled.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
