"""What `safeguard content show` prints: the sample of the guide, and what a user who may not read all is told."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from safeguard_streams.cli import content
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    Attempt,
    ModeratorDecision,
    PolicyStanding,
    PrefilterResult,
    Rationale,
    Standing,
    Verdict,
)
from safeguard_streams.operations.content_report import ItemRecords, ItemVerdict, TextVersion

GUIDE = Path(__file__).parents[3] / "docs/guides/look-up.md"
WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)
EDITED, DECIDED = WHEN + timedelta(minutes=10), WHEN + timedelta(minutes=20)
V1, A1, A2 = (
    "6b86b273ff34fce19d6b804eff5a3f57",
    "4b227777d4dd1fc61c6f884f48641d02",
    "ef2d127de37b942baad06145e54b0c61",
)
POLICY, VERSION, MODEL = "fraud-spam", "5c1b3b9d2a41", "gpt-oss-safeguard-20b"
WHY = "appeal: the edited text is harmless"
ANALYSIS = (
    "The author claims that the reader won 900 and must call a premium number. FS2 covers prizes that ask for contact."
)


def verdict():
    return Verdict(
        V1,
        "post-1",
        "hash",
        POLICY,
        VERSION,
        "violates",
        "reasoner",
        "live",
        MODEL,
        WHEN + timedelta(seconds=2),
        ("FS2",),
        score=0.982,
        confidence="high",
        reason="The text promises a prize and asks the reader to call.",
        prefilter=PrefilterResult("label", "fraud_spam", 0.9871, 0.0514),
        origin="1@0",
    )


def report(**more):
    about = {"author_id": "user-7", "surface": "comment"}
    first = "WINNER!! You have won a guaranteed 900 prize, call 09061701461 now to claim"
    second = "The bread from the market is lovely this week"
    nearest = PrefilterResult("label", "fraud_spam", 0.0031, 0.0514)
    cleared = Verdict(
        "c", "post-1", "hash2", "*", "1", "safe", "prefilter", "live", "m", EDITED, prefilter=nearest, origin="1@1"
    )
    rationale = Rationale(V1, "post-1", POLICY, VERSION, MODEL, (Attempt(ANALYSIS, "{}"),), WHEN)
    removed = Action(
        A1,
        "post-1",
        "remove",
        WHEN + timedelta(seconds=3),
        verdict_id=V1,
        policy_id=POLICY,
        policy_version=VERSION,
        decision="violates",
        rule_ids=("FS2",),
        rule="clear violations",
        effective="remove",
    )
    decided = Action(A2, "post-1", "label", DECIDED, by="ann", why=WHY, effective="label")
    known = ItemRecords(
        content_id="post-1",
        read_partition=1,
        erased_at=None,
        texts=[
            TextVersion("1@0", first, "hash", WHEN, WHEN, **about),
            TextVersion("1@1", second, "hash2", EDITED, EDITED, **about),
        ],
        cleared=[cleared],
        verdicts=[ItemVerdict(verdict(), topics.VERDICTS, stands=True, superseded_by=None, rationale=rationale)],
        waiting=[],
        actions=[removed, decided],
        standing=Standing(
            "post-1",
            "label",
            2,
            (PolicyStanding(POLICY, (V1,), "remove", A1),),
            ModeratorDecision("label", A2, DECIDED, "ann", WHY),
        ),
        dead_letters=[],
        forbidden=[],
        dropped=0,
    )
    return msgspec.structs.replace(known, **more)


def test_the_sample_of_the_guide_is_what_the_command_prints(capsys):
    content._show(report(), None)
    printed = capsys.readouterr()
    assert f"```text\n{printed.out}```\n" in GUIDE.read_text(encoding="utf-8")
    assert printed.err == "read partition 1 of each topic; --all-partitions reads all\n"


def test_what_could_not_be_read_is_named_and_nothing_is_claimed_about_it(capsys):
    forbidden = [topics.EVENTS, topics.STANDING]
    content._show(report(texts=[], standing=None, forbidden=forbidden, dropped=7, read_partition=None), None)
    printed = capsys.readouterr()
    assert printed.out.startswith("post-1: unknown what stands\n")
    assert "text at 1@0\n  no text     this user may not read content.events\n" in printed.out
    assert printed.err.splitlines() == [
        "not shown, because this user may not read them: content.events, moderation.standing",
        "7 earlier records are not shown",
    ]


@pytest.mark.parametrize("since", [None, WHEN])
def test_a_text_past_retention_is_named(capsys, since):
    content._show(report(texts=[], standing=None), since)
    printed = capsys.readouterr().out
    assert printed.startswith("post-1: allowed, nothing stands\n")
    assert ("or written before 2026-01-01T12:00:00+00:00" in " ".join(printed.split())) is (since is not None)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (PrefilterResult("terms", "magic beans"), "a term or pattern matched; magic beans"),
        (PrefilterResult("everything"), "the policy's gate escalates everything"),
        (
            PrefilterResult("audit", "hate", 0.05, 0.2, 0.02, "near"),
            "passed the gate, drawn for the audit; hate 0.05, threshold 0.2; 2.00% of such items are drawn",
        ),
        (PrefilterResult("terms", "magic beans", rate=1.0), "a term or pattern matched; magic beans"),
        (PrefilterResult("live", live=True), "only the version in force escalates it"),
        (PrefilterResult("a later gate"), "a later gate"),
        (None, None),
    ],
)
def test_gates_are_put_in_words(result, words):
    assert content._gate(result) == words


def test_a_constrained_answer_is_named(capsys):
    held = msgspec.structs.replace(verdict(), answer="constrained")
    content._show_verdict(ItemVerdict(held, topics.VERDICTS, True, None, None))
    shown = " ".join(capsys.readouterr().out.split())
    assert "high confidence, constrained answer" in shown
    content._show_verdict(ItemVerdict(verdict(), topics.VERDICTS, True, None, None))
    assert "constrained" not in capsys.readouterr().out
