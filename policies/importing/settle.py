"""What the text of a policy leaves open: questions with the safest answer as default."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.importing import ids
from safeguard_streams.policies.importing.outline import Outline, Rule
from safeguard_streams.policies.vocabulary import Side


class Question(msgspec.Struct, frozen=True):
    """A question. choices: the answers that there are; none stands for any text. default: the safest answer.

    assumed: what the default means, for the report when nobody answers.
    """

    text: str
    default: str
    assumed: str
    choices: tuple[str, ...] = ()


Ask = Callable[[Question], str]
SIDES = ("violates", "safe")


def settle(outline: Outline, ask: Ask) -> None:
    """Give each rule a side, and each word of the answers a meaning. Raises ConfigurationError if no rule violates."""
    if not outline.rules:
        raise ConfigurationError(
            "no rules were found: number them, as in SP1 and SP2.a, or list them below headings such as "
            "Violates and Safe"
        )
    for level in dict.fromkeys(ids.base(rule.id) for rule in outline.rules if rule.side is None):
        _ask_side(outline, level, ask)
    if not any(rule.side == "violates" for rule in outline.rules):
        raise ConfigurationError(
            "no rule of this policy violates: say below each rule or heading what it means, as in Output: INVALID"
        )
    for word, side in outline.words.items():
        if side is None:
            outline.words[word] = _asked_word(word, ask)


def _ask_side(outline: Outline, level: str, ask: Ask) -> None:
    """Ask what a level's rules mean. By convention the level 0 is safe."""
    open_rules = [rule for rule in outline.rules if rule.side is None and ids.base(rule.id) == level]
    default: Side = "safe" if level.rstrip("0123456789") + "0" == level else "violates"
    ends = "its number is 0" if default == "safe" else "nothing says that it is safe"
    answer = ask(
        Question(
            f"Does content under {level} ({_shown(open_rules[0])}) violate the policy, or is it safe?",
            default,
            f"{level} {'is safe' if default == 'safe' else 'violates'}: {ends}",
            SIDES,
        )
    )
    for rule in open_rules:
        rule.side = "violates" if answer == "violates" else "safe"


def _asked_word(word: str, ask: Ask) -> Side | None:
    answer = ask(
        Question(
            f"What does the answer {word} say of content?",
            "neither",
            f"the word {word} is kept in the text without a meaning",
            (*SIDES, "neither"),
        )
    )
    return "violates" if answer == "violates" else "safe" if answer == "safe" else None


def _shown(rule: Rule) -> str:
    return rule.text if len(rule.text) <= 60 else f"{rule.text[:57]}..."
