"""What the small model in the package has learned: the texts of a few policies, and no other.

It cannot read a policy. Under a text that it was not trained on, its answers mean nothing, and a golden set or a replay
would blame the text. The bus side needs to know this, too, and therefore the record is read here: learned.json beside
the model, which its training writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import msgspec

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.document import Policy

SMALL = "small"  # the name in settings
_NAME = "small-gpt-oss-"  # how its name begins in verdicts and on servers
_REAL_MODEL = "for a real model, see: safeguard model check"


class Learned(msgspec.Struct, frozen=True):
    """The record of a training. texts: by the name of the policy, the digest of the text that the model has learned."""

    model: str
    texts: dict[str, str]


@cache
def learned() -> Learned:
    """What the shipped model has learned."""
    record = files("safeguard_streams").joinpath("workers/small/learned.json").read_bytes()
    return msgspec.json.decode(record, type=Learned)


def digest(text: str) -> str:
    """The sha256 of a policy's text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_small(model: str) -> bool:
    """Whether a model is the small one, by its name in settings, in verdicts or on a server."""
    name = model.rpartition("/")[2]
    return name == SMALL or name.startswith(_NAME)


def unlearned(policies: Iterable[Policy]) -> list[str]:
    """For each policy whose text the small model has not learned, its id and why it has not."""
    known = learned().texts
    return [
        f"{policy.id} ({'an edited text' if policy.id in known else 'not a policy of the package'})"
        for policy in policies
        if digest(policy.text) not in known.values()
    ]


def warning(policies: Iterable[Policy]) -> str:
    """A line about the policies that the small model cannot judge by; empty if there are none."""
    names = unlearned(policies)
    if not names:
        return ""
    return f"warning: the small model has not learned {_listed(names)}: its verdicts mean nothing; {_REAL_MODEL}"


def require_learned(model: str, policies: Iterable[Policy]) -> None:
    """Raises ConfigurationError when the model is the small one and has not learned the text of a policy."""
    names = unlearned(policies) if is_small(model) else []
    if names:
        raise ConfigurationError(
            f"the small model has not learned {_listed(names)}: an F1 or a flip of its answers would mean nothing; "
            f"{_REAL_MODEL}; to try the steps without one: safeguard model scripted"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names)
