"""Who may do what: one table of permissions by role. The guard and the templates read it, and nothing else decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import msgspec

from safeguard_streams.runtime.settings import ConsoleRole

# fmt: off
Permission = Literal[
    "look", "items", "reveal", "decide", "rationale", "export", "audit", "quality", "limits",
    "edit", "release", "replay", "flips", "promote",
]
# fmt: on
ROLES: tuple[ConsoleRole, ...] = get_args(ConsoleRole)

# look: figures, policies and replays, without texts of users. items: what verdicts say about single items, and search.
# reveal: the text behind the veil. decide: claim, decide and undo. rationale: what the model thought.
# export: everything that a search finds. audit: who saw and did what. quality: how well people and model agree.
# limits: how much of a harm people see on a day, and how much each of them saw.
# edit: write, check and try the texts of policies. release: change what is in force or in shadow.
# replay: start, pause, cancel and compare replays, which costs judgements and changes nothing for users.
# flips: read the decisions that a replay changes, and say which is right. promote: publish them, and take them back.
GRANTED: Mapping[Permission, frozenset[ConsoleRole]] = {
    "look": frozenset(ROLES),
    "items": frozenset({"reviewer", "author", "auditor", "admin"}),
    "reveal": frozenset({"reviewer", "author", "auditor", "admin"}),
    "decide": frozenset({"reviewer", "admin"}),
    "edit": frozenset({"author", "admin"}),
    "release": frozenset({"author", "admin"}),
    "rationale": frozenset({"auditor", "admin"}),
    "export": frozenset({"auditor", "admin"}),
    "audit": frozenset({"auditor", "admin"}),
    "replay": frozenset({"author", "operator", "admin"}),
    "flips": frozenset({"reviewer", "author", "admin"}),
    "promote": frozenset({"operator", "admin"}),
    "quality": frozenset({"author", "auditor", "admin"}),
    "limits": frozenset({"operator", "admin"}),
}


class Person(msgspec.Struct, frozen=True):
    """Somebody who is signed in. name: what `by` says on every record that this person writes.

    mail: for commits; empty where nobody said it.
    """

    name: str
    roles: tuple[ConsoleRole, ...] = ()
    mail: str = ""

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles has the permission."""
        return not GRANTED[permission].isdisjoint(self.roles)


def roles_of(groups: Iterable[str], mapping: Mapping[str, Iterable[ConsoleRole]]) -> tuple[ConsoleRole, ...]:
    """The roles of a member of these groups, in the table's order. A group without a mapping gives none."""
    given = {role for group in groups for role in mapping.get(group, ())}
    return tuple(role for role in ROLES if role in given)
