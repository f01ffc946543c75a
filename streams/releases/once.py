"""A change of a policy that somebody was asked about, made once: never after another change, and never twice.

The answer to a question may arrive twice: by a double click, a retried request, or a process that was killed after it
wrote. The second one finds the change of the first at the place where its own would stand, and writes nothing.
"""

from __future__ import annotations

import msgspec

from safeguard_streams.contract.records import Change, PolicyChange
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy, Plan, ReleaseHistory
from safeguard_streams.runtime.settings import Settings


class Asked(msgspec.Struct, frozen=True):
    """What somebody agreed to.

    changes: how many changes the policy had when the question was shown. document: of the release to make, if the
    action makes one.
    """

    policy_id: str
    changes: int
    action: Change
    by: ChangedBy
    document: str | None = None

    def made_by(self, change: PolicyChange) -> bool:
        """Whether a change is what this request asks for."""
        document = change.release.document if change.release else None
        wanted = (self.action, self.by.by, self.by.why, self.document)
        return (change.action, change.changed_by, change.why, document) == wanted


def changes_of(current: ReleaseHistory, policy_id: str) -> list[PolicyChange]:
    """The changes of one policy, oldest first."""
    return [one for one in current.changes if one.policy_id == policy_id]


def made_before(current: ReleaseHistory, asked: Asked) -> PolicyChange | None:
    """The change that the same request made before; None if there was no change since the question.

    Raises ConfigurationError where another change of the policy came after the question.
    """
    since = changes_of(current, asked.policy_id)[asked.changes :]
    if not since:
        return None
    if not asked.made_by(since[0]):
        raise ConfigurationError(
            f"{since[0].changed_by} changed {asked.policy_id} meanwhile ({since[0].action}). Nothing was written: look "
            "at what is in force, and ask once more"
        )
    return since[0]


async def change(settings: Settings, asked: Asked, plan: Plan) -> PolicyChange | None:
    """Make a planned change, unless the same request made it before. None: what it asks for stands already.

    Raises ConfigurationError as `made_before` does.
    """
    before: list[PolicyChange] = []

    def planned(current: ReleaseHistory) -> list[PolicyChange]:
        done = made_before(current, asked)
        if done is None:
            return plan(current)
        before.append(done)
        return []

    made = await operator.change(settings, planned)
    return next(iter([*before, *made]), None)
