"""Rows of a console's database, as the projector would write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Engine

from safeguard_streams.console import schema
from safeguard_streams.contract.records import content_sha256, now, verdict_id
from safeguard_streams.policies.files import load_library
from safeguard_streams.quality.proportions import proportion

TEXTS = (
    "you people do not belong here, go back to where you came from",
    "WINNER! claim your 900 prize, call 0900 000 now",
    "he keeps posting where she lives, somebody should pay her a visit",
    "what a lovely photo, thank you for sharing it",
    "Ich finde, das Gesetz geht zu weit. Was meint ihr?",
    "هذا الرأي لا يعجبني ولكن أحترمه",
)
REPLAY, REPLAYED = "2026-11-harsher", "0123456789ab"
REASONS = ("attacks people for where they come from", "lures with a prize", "threatens somebody at home")


def policies() -> list[Any]:
    """Three policies of the library."""
    return [policy for _, policy in sorted(load_library().items())][:3]


def fill(engine: Engine, items: int = 60, hostile: str | None = None) -> None:
    """Items with texts, escalations, verdicts, actions and a queue. hostile: stands in every text field."""
    at, chosen = now(), policies()
    with engine.begin() as connection:

        def add(table: Any, **values: Any) -> None:
            connection.execute(table.insert().values(**values))

        for number, policy in enumerate(chosen):
            release = {
                "policy_id": policy.id,
                "version": policy.version,
                "revision": 2,
                "document": policy.document,
                "why": hostile or "clearer about prizes",
            }
            add(
                schema.policy_releases,
                key=policy.id,
                place="in-force",
                released_at=at - timedelta(days=2),
                released_by=hostile or "mia",
                distilled=False,
                **release,
            )
            for revision in (1, 2):
                document = policy.document if revision == 2 else policy.document.replace(" it ", " this ", 3)
                add(
                    schema.policy_changes,
                    **{**release, "document": document, "revision": revision},
                    change_id=f"{policy.id}-{revision}",
                    action="release",
                    changed_at=at - timedelta(days=10 - 4 * revision),
                    changed_by=hostile or "mia",
                )
            add(
                schema.cleared_counts,
                minute=at.replace(second=0, microsecond=0) - timedelta(minutes=number),
                policy_id="*",
                surface="",
                language="",
                partition=0,
                count=400 + number,
            )
        for number in range(items):
            _item(add, number, at, chosen[number % 3], hostile)
        add(
            schema.replays,
            replay_id=hostile or REPLAY,
            state="running",
            policies=[{"policy_id": chosen[0].id, "version": REPLAYED, "before_version": chosen[0].version}],
            starts={"0": 0},
            ends={"0": 1000},
            sample=0.5,
            noise=0.1,
            surfaces=[],
            languages=[],
            decisions=[],
            created_at=at - timedelta(hours=5),
            created_by=hostile or "mia",
            why=hostile or "the new rule on prizes",
            publications=[],
        )
        _compared(add, items, at, chosen[0], hostile)
        _authors(add, at, chosen[0], hostile)
        add(schema.positions, topic="moderation.verdicts", partition=0, offset=items, projected_at=at, record_at=at)
        add(
            schema.dead_letters,
            letter="0@1",
            topic="content.events",
            partition=0,
            offset=4,
            stage="prefilter",
            error="RecordError",
            reason="text: is missing",
            attempts=1,
            failed_at=at,
            letter_at=at,
        )


def _compared(add: Any, items: int, at: Any, policy: Any, hostile: str | None) -> None:
    """What a comparison of the replay found: what was safe violates."""
    of = {"replay_id": hostile or REPLAY, "policy_id": policy.id}
    flips = [number for number in range(0, items, 3) if number % 5 % 3 == 1]
    for place, number in enumerate(flips):
        content_id = (hostile and f"{hostile[:200]}{number}") or f"post-{number:03d}"
        add(
            schema.replay_flips,
            **of,
            content_id=content_id,
            place=place,
            content_sha256=content_sha256(hostile or TEXTS[number % len(TEXTS)]),
            flip="to_violates",
            before="safe",
            after="violates",
            rules_before=[hostile or policy.safe[0]],
            rules_after=[hostile or policy.violating[0]],
            verdict_before=verdict_id(content_id, "live"),
            verdict_after=verdict_id(content_id, "replay"),
        )

    def share(count: int, out_of: int) -> dict[str, Any]:
        return msgspec.to_builtins(proportion(count, out_of))

    group = {"to_violates": len(flips), "to_safe": 1, "compared": 40}
    diff = {
        **dict.fromkeys(("unreadable", "waiting", "unknown", "edited", "judged_since", "undetermined", "erased"), 2),
        "events": 500,
        "compared": 40,
        "to_violates": share(len(flips), 40),
        "to_safe": share(1, 40),
        "noise": share(1, 12),
        "violating_before": share(90, 500),
        "violating_after": share(90 + len(flips), 500),
        "rules": {hostile or policy.violating[0]: group, hostile or policy.safe[0]: group},
        "languages": {hostile or "en": group, "": {"to_violates": 0, "to_safe": 0, "compared": 3}},
        "decisions": {"safe": {"violates": len(flips), "safe": 20}, "violates": {"safe": 1}},
        "tokens": {"prompt": 80_000, "cached": 0, "completion": 9_000},
        "seconds": 77.5,
    }
    add(
        schema.replay_work,
        key=f"compare {of['replay_id']} {policy.id}",
        kind="compare",
        who=hostile or "mia",
        given={},
        **dict.fromkeys(("changed_at", "alive_until", "ended_at"), at),
        **dict.fromkeys(("tries", "done", "total"), 0),
        result={"diff": diff, "headline": hostile or "More items flip than noise explains."},
        **of,
    )


def _authors(add: Any, at: Any, policy: Any, hostile: str | None) -> None:
    """Two authors that wait for a review, by a threshold and by a person, and one whom a person suspended."""
    days = timedelta(days=1)
    ends = {"taken-back": None, "forgiven": (hostile or "mia", hostile or "a quotation")}
    for number, name in enumerate((hostile or "author-3", "author-1", "author-5")):
        given = []
        for place, state in enumerate(("given", "given", "taken-back", "forgiven")):
            by, why = ends.get(state) or (None, None)
            strike = {
                "strike_id": f"strike-{number}-{place}",
                "state": state,
                "policy_id": policy.id,
                "rule_ids": [hostile or policy.violating[0]],
                "severity": ("high", "low")[place % 2],
                "rule": hostile or "any other",
                "weight": 1 + 2 * (place == 0),
            }
            when, until = at - (1 + 30 * place) * days, at + (89 - 100 * (place == 1)) * days
            ended = {} if state == "given" else {"ended_at": at - 2 * days, "by": by, "why": why}
            about = {"content_id": (hostile and f"{hostile[:200]}3") or "post-003", "verdict_id": "v", "action_id": "a"}
            row = {**strike, **about, "author_id": name, "at": when, "expires_at": until, **ended}
            add(schema.strikes, **row)
            given.append({**strike, "at": when.isoformat(), "expires_at": until.isoformat()})
        decided = {} if number == 0 else dict.fromkeys(("decided_by", "decided_why"), hostile or "mia")
        action = ("review", "review", "suspend")[number]
        if number:
            decided |= {"decision": action, "decision_id": f"decided-{number}", "decided_at": at - days}
            said = {"decision_id": f"decided-{number}", "state": "decided", "action": action, "by": hostile or "mia"}
            add(schema.author_decisions, author_id=name, at=at - days, why=hostile or "bought", **said)
        add(
            schema.author_standings,
            author_id=name,
            action=action,
            rule=None if number else hostile or "spam twice in a week",
            weight=3,
            since=at - timedelta(hours=3 + number),
            strikes=[given[0], *given[2:]],
            followed=[f"decided-{number}"] if number else [],
            **decided,
        )
        for place, (done, before) in enumerate((("warn", "none"), ("none", "warn"), (action, "none"))):
            add(
                schema.author_actions,
                action_id=f"{number}-{place}",
                author_id=name,
                action=done,
                previous=before,
                acted_at=at - (9 - 3 * place) * days,
                sequence=place,
                weight=3,
                rule=None if number else hostile or "spam twice in a week",
                content_id="post-003",
                by=(hostile or "mia") if number and place == 2 else None,
                why=hostile,
                statement=(hostile or "Your account was limited.\nIt broke a rule.") if place == 2 else None,
            )


def _item(add: Any, number: int, at: Any, policy: Any, hostile: str | None) -> None:
    content_id, when = (
        (hostile and f"{hostile[:200]}{number}") or f"post-{number:03d}",
        at - timedelta(minutes=11 * number),
    )
    text = hostile or TEXTS[number % len(TEXTS)]
    sha, origin = content_sha256(text), f"0@{number}"
    decision = ("violates", "safe", "undetermined")[number % 5 % 3]
    rule = policy.violating[0] if decision == "violates" else policy.safe[0]
    judged = {
        "content_id": content_id,
        "policy_id": policy.id,
        "policy_version": policy.version,
        "content_sha256": sha,
        "origin": origin,
    }
    waits = decision != "safe"
    add(
        schema.items,
        content_id=content_id,
        text=text,
        language=hostile or ("de" if "Gesetz" in text else "en"),
        surface=hostile or ("comment", "profile")[number % 2],
        author_id=hostile or f"author-{number % 7}",
        context=[{"role": hostile or "user", "text": text}] * 2,
        attributes={hostile or "thread": hostile or "t-7"},
        created_at=when,
        content_sha256=sha,
        event_partition=0,
        event_offset=number,
        text_at=when,
        text_expires_at=at + timedelta(days=30),
        effective="review" if waits else "allow",
        held=0,
    )
    add(
        schema.escalations,
        escalation_id=f"e{number}",
        **judged,
        policy_revision=2,
        lane="live",
        gate=("label", "terms", "sample")[number % 3],
        label=hostile or "hate",
        score=0.42,
        threshold=0.05,
        escalated_at=when,
    )
    lanes = [("live", schema.verdicts, {}), ("shadow", schema.replay_verdicts, {})]
    if number % 3 == 0 and decision != "undetermined":  # a replay of the first policy: what was safe violates
        replayed = {"replay_id": REPLAY, "policy_version": REPLAYED, "decision": "violates"}
        lanes.append(("replay", schema.replay_verdicts, replayed))
    for lane, table, more in lanes:
        add(
            table,
            **{**judged, "decision": decision, **more},
            verdict_id=verdict_id(content_id, lane),
            lane=lane,
            stage="reasoner",
            model=hostile or "gpt-oss-safeguard-20b",
            decided_at=when + timedelta(seconds=2 + number % 4),
            rule_ids=[hostile or rule],
            score=0.9 - number / 100,
            confidence="high",
            reason=hostile or REASONS[number % 3],
            gate="label",
            gate_label=hostile or "hate",
            gate_score=0.42,
            gate_threshold=0.05,
            truncated=False,
            cached=False,
            latency={},
            malformed=0,
            surface=hostile or "comment",
        )
    add(
        schema.verdict_rules,
        verdict_id=verdict_id(content_id, "live"),
        rule_id=hostile or rule,
        policy_id=policy.id,
        decision=decision,
        decided_at=when,
    )
    add(
        schema.rationales,
        verdict_id=verdict_id(content_id, "live"),
        content_id=content_id,
        policy_id=policy.id,
        policy_version=policy.version,
        model=hostile or "gpt-oss-safeguard-20b",
        attempts=[{"analysis": hostile or f"The post {number} names a group.", "final": hostile or "{}"}],
        omitted=0,
        cut=0,
        created_at=when,
    )
    for table, extra in (
        (schema.verdict_counts, {"decision": decision}),
        (schema.escalation_counts, {"gate": "label"}),
    ):
        add(
            table,
            minute=when.replace(second=0, microsecond=0),
            policy_id=policy.id,
            lane="live",
            count=3 + number % 7,
            **extra,
        )
    if not waits:
        return
    add(
        schema.actions,
        action_id=verdict_id(content_id, "action"),
        **judged,
        action="review",
        acted_at=when + timedelta(seconds=5),
        state="applied",
        effective="review",
        previous="allow",
        decision=decision,
        rule_ids=[hostile or rule],
        reason=hostile or REASONS[number % 3],
        rule=hostile or "to-review",
        alert=False,
        dry_run=False,
        any_text=False,
    )
    add(
        schema.review_items,
        content_id=content_id,
        policy_id=policy.id,
        cause="undetermined" if decision == "undetermined" else "rule",
        state="open",
        action="review",
        effective="review",
        rule=hostile or "to-review",
        priority=1.0,
        since=when,
        edited=False,
        content_sha256=sha,
        origin=origin,
    )
