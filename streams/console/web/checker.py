"""Checks texts of policies in a process of its own: `python -m safeguard_streams.console.web.checker`.

It reads a `Question` and writes an `Answer`, each in JSON on one line, until its input ends. Regular expressions and
tokens of a text that somebody is still writing may take any time. Here they hold up no page, and the console ends the
process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

from safeguard_streams.contract.records import PolicyRelease
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import check
from safeguard_streams.policies.check import Checked, CheckReport
from safeguard_streams.policies.files import LIBRARY, PolicyFiles
from safeguard_streams.runtime import settings


class Question(msgspec.Struct, frozen=True):
    """Texts of a policy, and the path where they are to stand, beside their golden set.

    learn: also learn the golden gate of a release; in_force: the release that it would replace.
    """

    path: str
    document: str
    distilled: str | None = None
    learn: bool = False
    in_force: PolicyRelease | None = None


class Answer(msgspec.Struct, frozen=True):
    """The result of the check. notices: what could not be done here, and why.

    golden: golden gates for the release, by policy id, as `operator.releasing` takes them.
    """

    report: CheckReport
    notices: tuple[str, ...] = ()
    golden: dict[str, str | None] = {}


def answer(question: Question) -> Answer:
    """Check as `safeguard policy check` does and, to learn, go on as `safeguard policy release` does."""
    texts = PolicyFiles(question.document, question.distilled)
    checked = check.check_texts(texts, Path(question.path), named_by_folder=True)
    if question.learn:
        return _learned(question, checked)
    coverage = _coverage()
    if coverage is None:
        return Answer(checked.report(), ("The gate was not tried on the golden set: that needs the extra prefilter.",))
    try:
        return Answer(coverage(checked).report())
    except ConfigurationError as error:  # of the prefilter's model
        return Answer(checked.report(), (f"The gate was not tried on the golden set: {error}",))


@cache
def _coverage() -> Callable[[Checked], Checked] | None:
    """Adds what the gate would miss of the golden set; None where the prefilter is not installed."""
    try:
        from safeguard_streams.prefilter.classifier import SHIPPED, Classifier
        from safeguard_streams.quality import golden_coverage
    except ImportError:
        return None
    load = cache(lambda: Classifier(settings.load().prefilter_model or SHIPPED))
    return lambda checked: golden_coverage.with_coverage([checked], load)[0]


def _learned(question: Question, checked: Checked) -> Answer:
    if checked.errors or checked.policy is None:
        return Answer(checked.report())
    standing = {checked.policy.id: question.in_force} if question.in_force is not None else {}
    try:
        from safeguard_streams.quality.golden_release import golden_releases

        gates, notices = golden_releases([checked], standing, settings.load().prefilter_model)
    except ImportError as error:
        return Answer(checked.report(), (f"no golden gate was learned: {error.name} is not installed here",))
    except ConfigurationError as error:
        return Answer(checked.report(), (f"no golden gate was learned: {error}",))
    return Answer(checked.report(), tuple(notices), gates)


def _warm_up() -> None:
    """Check a policy of the package: what the first check loads takes longer than most checks."""
    path = min(LIBRARY.glob("*/policy.md"), default=None)
    if path is not None:
        answer(Question(str(path), path.read_text(encoding="utf-8")))


def main() -> None:
    """Write an empty line when ready, then answer until the input ends, which it does with the console's process."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no answer
    _warm_up()
    answers.write(b"\n")
    for line in sys.stdin.buffer:
        given = answer(msgspec.json.decode(line, type=Question))
        answers.write(msgspec.json.encode(given) + b"\n")


if __name__ == "__main__":
    main()
