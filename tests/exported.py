"""Exports without a broker, and a year of records for transparency reports."""

import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec

from safeguard_streams.contract.records import (
    Action,
    Appeal,
    ContentEvent,
    ContentReport,
    PrefilterResult,
    StatementOfReasons,
    Verdict,
    encode,
)
from safeguard_streams.exporting import export
from safeguard_streams.exporting import manifest as manifests
from safeguard_streams.exporting.export import Target
from safeguard_streams.exporting.formats import format_of
from safeguard_streams.releases.erasures import ErasureList

YEAR = 2025
POLICIES = {"hate": "remove", "fraud-spam": "limit", "self-harm": "review"}
CATEGORIES = {
    "hate": "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "fraud-spam": "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
}


def write(folder, kind, records, form="parquet", until=None):
    """An export of records of one kind in one partition. They were written on the first day of their month."""
    table = export.KINDS[kind]
    target = Target(kind, folder, form)
    target.path.mkdir(parents=True, exist_ok=True)
    before = manifests.load(target.path) or manifests.Manifest(kind, table.topic, form)
    run = export._Run(target, table, format_of(form, table.record), before, ErasureList())
    first = before.positions.get("0", 0)
    for number, one in enumerate(records):
        timestamp = int(getattr(one, table.written).replace(day=1).timestamp() * 1000)
        place = {"topic": table.topic, "partition": 0, "offset": first + number}
        run.take(SimpleNamespace(**place, timestamp=timestamp, value=encode(one)))
    return run.end(until or datetime(YEAR + 1, 2, 1, tzinfo=UTC))


class Year:
    """A year of one deployment: what the pipeline and people did about its items, by kind of record."""

    def __init__(self, items=1500, seed=5):
        self.chance = random.Random(seed)
        self.records = {kind: [] for kind in ("verdicts", "actions", "reports", "appeals", "statements")}
        self.sequence = 0
        begin = datetime(YEAR - 1, 12, 20, 8, tzinfo=UTC)
        for number in range(items):  # from before the year to after it
            self.item(f"post-{number:05}", begin + timedelta(days=390 * number / items))

    def likely(self, probability):
        return self.chance.random() < probability

    def later(self, at, hours):
        return at + timedelta(hours=self.chance.expovariate(1 / hours))

    def item(self, content_id, at):
        reported = self.likely(0.2)
        if reported:
            at = self.report(content_id, at)
        audited = not reported and self.likely(0.4)
        for policy in self.chance.sample(list(POLICIES), self.chance.choice([1, 1, 2])):
            at = self.later(at, 0.2)
            self.judged(content_id, policy, at, "report" if reported else "audit" if audited else "label")
        if not reported and self.likely(0.05):
            self.report(content_id, self.later(at, 24))

    def report(self, content_id, at):
        last = at
        for number in range(self.chance.choice([1, 1, 1, 3])):
            last = self.later(last, 5) if number else last
            reporter = self.chance.choice(["user", "user", "user", "trusted_flagger", "authority"])
            event = ContentEvent(content_id, f"text of {content_id}", at)
            one = ContentReport(f"{content_id}-report-{number}", event, reporter, last, "it is bad")
            self.records["reports"] += [one] * self.chance.choice([1, 1, 1, 2])
        return last

    def judged(self, content_id, policy, at, gate):
        violates = {"report": 0.5, "label": 0.4, "audit": 0.06}[gate]
        decision = "violates" if self.likely(violates) else "safe" if self.likely(0.95) else "undetermined"
        rate = 0.2 if gate == "audit" else None
        one = Verdict(
            f"{content_id}-{policy}",
            content_id,
            "0" * 64,
            policy,
            "v1" if at.month < 7 else "v2",
            decision,
            "reasoner",
            "audit" if gate == "audit" else "live",
            "gpt-oss",
            at,
            ("R1",) if decision == "violates" else (),
            prefilter=PrefilterResult(gate, score=0.5, threshold=0.4, rate=rate, stratum="far", fingerprint="f"),
        )
        self.records["verdicts"] += [one] * self.chance.choice([1, 1, 1, 2])
        if self.likely(0.02):
            shadow = msgspec.structs.replace(one, verdict_id=one.verdict_id + "-s", lane="shadow")
            self.records["verdicts"].append(shadow)
        if decision != "safe":
            name = POLICIES[policy] if decision == "violates" else "review"
            self.acted(one, name, self.later(at, 0.05))

    def action(self, content_id, name, at, **fields):
        self.sequence += 1
        return Action(
            **{
                "action_id": f"action-{self.sequence}",
                "content_id": content_id,
                "action": name,
                "acted_at": at,
                "effective": name,
                "sequence": self.sequence,
                **fields,
            }
        )

    def acted(self, verdict, name, at):
        about = {"policy_id": verdict.policy_id, "verdict_id": verdict.verdict_id, "decision": verdict.decision}
        one = self.action(verdict.content_id, name, at, **about)
        if self.likely(0.04):
            self.records["actions"].append(msgspec.structs.replace(one, state="held"))
            return
        if self.likely(0.04):
            dry = msgspec.structs.replace(one, action_id=one.action_id + "-dry", dry_run=True, sequence=None)
            self.records["actions"].append(dry)
        self.records["actions"].append(one)
        if name != "review":
            self.stated(one)
        if name == "review" and self.likely(0.8):
            self.decided(one, self.chance.choice(["allow", "remove", "remove"]), self.later(at, 20))
        elif name != "review" and self.likely(0.2):
            self.appealed(one, self.later(at, 48))
        elif name != "review" and self.likely(0.1):
            self.decided(one, self.chance.choice(["allow", name]), self.later(at, 30))

    def stated(self, action):
        reported = any(one.event.content_id == action.content_id for one in self.records["reports"][-9:])
        one = StatementOfReasons(
            f"s-{action.action_id}",
            "issued",
            action.action_id,
            action.acted_at,
            "en",
            "why",
            action.content_id,
            category=CATEGORIES.get(action.policy_id),
            reporter="user" if reported else None,
            law="a law" if self.likely(0.1) else None,
        )
        self.records["statements"].append(one)
        if self.likely(0.1):
            about = {
                "account_action": self.chance.choice(["limit", "suspend"]),
                "statement_id": f"{one.statement_id}-a",
            }
            self.records["statements"].append(msgspec.structs.replace(one, content_id=None, **about))
        if self.likely(0.05):
            at = self.later(action.acted_at, 50)
            self.records["statements"].append(msgspec.structs.replace(one, state="withdrawn", stated_at=at))

    def decided(self, about, name, at, **fields):
        """A person's decision: as written, and as followed."""
        given = {"by": self.chance.choice(["kim", "lee", "mia"]), "why": "I looked", "previous": about.action, **fields}
        one = self.action(about.content_id, name, at, **given)
        self.records["actions"] += [msgspec.structs.replace(one, sequence=None, effective=None), one]
        if self.likely(0.05) and "outcome" not in fields:
            given |= {"withdraws": one.action_id, "previous": name}
            undone = self.action(about.content_id, about.action, self.later(at, 1), **given)
            self.records["actions"] += [msgspec.structs.replace(undone, sequence=None), undone]

    def appealed(self, about, at):
        named = {"action_id": about.action_id} if self.likely(0.7) else {"verdict_id": about.verdict_id}
        given = f"appeal-{about.action_id}" if self.likely(0.9) else ""
        appeal = Appeal(about.content_id, "author" if self.likely(0.9) else "notifier", at, appeal_id=given, **named)
        self.records["appeals"].append(appeal)
        if self.likely(0.2):
            return
        fields = {"appeal_id": appeal.identity}
        if self.likely(0.3):
            self.decided(about, "allow", self.later(at, 60), outcome="overturned", **fields)
        elif self.likely(0.8):
            kept = {"policy_id": "*", "outcome": "upheld"}
            self.decided(about, about.action, self.later(at, 60), **kept, **fields)
        else:
            kept = {"policy_id": "*", "outcome": "moot", "previous": about.action}
            moot = self.action(about.content_id, about.action, self.later(at, 60), **kept, **fields)
            self.records["actions"].append(moot)
