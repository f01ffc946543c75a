"""Changes of a policy that somebody is asked about: what would happen, and the plan that makes it happen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import Connection, select

from safeguard_streams.console.schema import audit_log
from safeguard_streams.console.web import policy_text
from safeguard_streams.console.web.policy_files import Draft
from safeguard_streams.contract.records import Change, PolicyRelease
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies import golden_gates
from safeguard_streams.policies.difference import Difference, difference
from safeguard_streams.policies.document import Gate, Policy
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy, Plan, ReleaseHistory

Kind = Literal["release", "shadow", "promote", "rollback", "end-shadow"]
ACTIONS: Mapping[Kind, Change] = {
    "release": "release",
    "shadow": "shadow",
    "promote": "release",
    "rollback": "rollback",
    "end-shadow": "end-shadow",
}
IN_FORCE: frozenset[Kind] = frozenset({"release", "promote", "rollback"})  # they change what is in force
_TESTS = 200  # of a policy, in which the newest of a version is looked for


class Wanted(NamedTuple):
    """A change that somebody asks for. draft: the text that it is about; None where something ends.

    distilled: the classifier that the text names. share: of content under a shadow. to: the revision that it promotes,
    ends or returns to.
    """

    kind: Kind
    policy_id: str
    draft: Draft | None
    distilled: str | None
    share: float | None
    to: str


class RuleChange(NamedTuple):
    """A rule that two versions state differently; an empty text where one of them does not have it."""

    rule_id: str
    before: str
    after: str


class Effect(msgspec.Struct, frozen=True):
    """What changes between the version in force and another. differs: None where the former no longer parses."""

    before: PolicyRelease
    differs: Difference | None
    rules: tuple[RuleChange, ...]
    lost: tuple[str, ...]

    @property
    def decides(self) -> bool:
        """Whether content is decided in another way."""
        return self.differs is None or bool(self.differs.decides or self.differs.text)


def effect(before: PolicyRelease | None, after: Policy) -> Effect | None:
    """What differs from the version in force; None where there is none."""
    if before is None:
        return None
    rules = tuple(_rule_changes(before.document, after.document))
    try:
        old = parse(before.document, "version in force", before.distilled)
    except PolicyError:
        return Effect(before, None, rules, ())
    lost = list(_lost(old.gate, after.gate))
    gate = golden_gates.intact(before.golden)
    if gate is not None and before.version != after.version:
        lost.append(f"golden gate {gate.name}, which runs in shadow; it was learned for the version in force")
    return Effect(before, difference(old, after), rules, tuple(lost))


def _rule_changes(before: str, after: str) -> Iterator[RuleChange]:
    old, new = ({rule.rule_id: rule.paragraph for rule in policy_text.read(one).rules} for one in (before, after))
    for rule_id in dict.fromkeys([*old, *new]):
        if old.get(rule_id) != new.get(rule_id):
            yield RuleChange(rule_id, old.get(rule_id, ""), new.get(rule_id, ""))


def _lost(old: Gate, new: Gate) -> Iterator[str]:
    """What escalated content and does so no more."""
    if new.everything:
        return
    if old.everything:
        yield "everything: from now on, only what the other gates find is escalated"
    for name, before, after in (
        ("harms", old.harms, new.harms),
        ("terms", old.terms, new.terms),
        ("patterns", old.patterns, new.patterns),
    ):
        gone = [one for one in before if one not in after]
        if gone:
            yield f"{name}: {', '.join(gone)}"
    if old.distilled and not new.distilled:
        yield "distilled classifier"
    if new.threshold > old.threshold:
        yield f"scores from {old.threshold:g} to {new.threshold:g}: the threshold is higher"
    if new.sample < old.sample:
        yield f"a sample of {old.sample:.2%}, which becomes {new.sample:.2%}"


class Tested(msgspec.Struct, frozen=True):
    """The newest test of a version on its golden set, as the audit log has it. golden: names the golden set."""

    version: str
    golden: str
    texts: int
    right: int
    model: str
    who: str
    at: Any


def last_test(connection: Connection, policy_id: str, version: str) -> Tested | None:
    """The newest test of a version; None if the console knows of none."""
    log = audit_log.c
    rows = connection.execute(
        select(log.who, log.at, log.details)
        .where(log.object == policy_id, log.action == "test policy")
        .order_by(log.at.desc())
        .limit(_TESTS)
    )
    for row in rows:
        if row.details.get("version") == version:
            return msgspec.convert({**row.details, "who": row.who, "at": row.at}, Tested)
    return None


def standing(current: ReleaseHistory, policy_id: str, kind: Kind, to: str) -> PolicyRelease:
    """The release that a change is about and that is there already: the shadow, or the one to return to.

    to: its revision, where the question named it: what is in shadow, and what was before, changes with the answer.
    Raises ConfigurationError when there is no such release.
    """
    if kind == "rollback" and not to:
        return current.previous(policy_id)
    return current.find(policy_id, to or "shadow")


def plan_of(wanted: Wanted, policy: Policy | None, by: ChangedBy, golden: Mapping[str, str | None]) -> Plan:
    """The plan that makes it happen, as the commands make it."""
    if wanted.kind == "rollback":
        return operator.rolling_back(wanted.policy_id, wanted.to, by)
    if policy is None:
        return operator.retiring(wanted.policy_id, by, shadow=True)
    return operator.releasing([policy], by, shadow=wanted.share, golden=golden)
