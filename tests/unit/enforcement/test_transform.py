"""Enforcement rules, state and transform: which action a verdict leads to, and what stands on a content item."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from safeguard_streams.bus.kafka import reading
from safeguard_streams.cli import app
from safeguard_streams.client.recent_ids import RecentIds
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    Action,
    EnforcementInput,
    PolicyStanding,
    Standing,
    Verdict,
    decode,
    encode,
)
from safeguard_streams.enforcement import rules as rules_of
from safeguard_streams.enforcement import state, verdict_actions
from safeguard_streams.enforcement.action_decision import Situation, decide_action
from safeguard_streams.enforcement.rules import Cap, EnforcementRule, EnforcementRules, RuleChoice
from safeguard_streams.enforcement.state import EnforcementState
from safeguard_streams.enforcement.transform import Enforcer, Lookups
from safeguard_streams.errors import ConfigurationError, RecordError
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.memory_broker import StoredRecord

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
RULES = EnforcementRules(
    (
        EnforcementRule("threats", "remove", rules=("HH3",)),
        EnforcementRule("sure", "limit", policies=("hate",), min_score=0.9, confidence=("high",)),
        EnforcementRule("chat", "label", surfaces=("chat",)),
    )
)


def verdict(number=0, content="c1", policy="hate", decision="violates", **more):
    return Verdict(
        verdict_id=f"v{number}",
        content_id=content,
        content_sha256="sha",
        policy_id=policy,
        policy_version="p1",
        decision=decision,
        stage="reasoner",
        lane="live",
        model="m",
        decided_at=WHEN,
        **more,
    )


def person(content="c1", action="allow", name="d1"):
    return Action(name, content, action, WHEN, by="ann", why="seen")


async def empty(_):
    return EnforcementState()


class Enforced:
    """An enforcer that receives verdicts in one partition, and all the actions that it wrote."""

    def __init__(self, rules=RULES, partitions=1, dry_run=False, **lookups):
        self.enforcer = Enforcer(rules, partitions, empty, dry_run=dry_run, lookups=Lookups(**lookups))
        self.state = self.enforcer.states[0] = EnforcementState(partitions)
        self.actions, self.standings, self.offset = [], [], 0
        self.dry_run = dry_run

    def __call__(self, *inputs, requeued=False):
        """Follow verdicts and moderators' records; returns the actions."""
        return asyncio.run(self.follow(*inputs, requeued=requeued))

    async def follow(self, *inputs, requeued=False):
        records = [self.record(one, requeued) for one in inputs]
        outputs = await self.enforcer.process(records)
        assert {o.topic for o in outputs} <= {topics.ACTIONS} if self.dry_run else {topics.ACTIONS, topics.STANDING}
        actions = [decode(o.value, Action) for o in outputs if o.topic == topics.ACTIONS]
        self.standings += [
            StoredRecord(o.topic, 0, 0, 0, o.key, o.value) for o in outputs if o.topic == topics.STANDING
        ]
        self.actions += actions
        return actions

    def record(self, one, requeued=False):
        self.offset += 1
        if self.dry_run:
            value = one
        elif isinstance(one, Verdict):
            value = EnforcementInput(verdict=one)
        else:
            value = EnforcementInput(action=one, requeued=requeued)
        return StoredRecord(topics.ENFORCEMENT, 0, self.offset, 0, one.content_id.encode(), encode(value))

    def restored(self):
        """The state that another owner would restore from the records written."""
        state = EnforcementState(self.state.partitions)
        for record in self.standings:
            state.add(record, record.value and decode(record.value, Standing))
        for action in self.actions:
            state.add_recent(action)
        return state


@pytest.mark.parametrize(
    ("given", "action", "rule"),
    [
        (verdict(rule_ids=("HH1", "HH3")), "remove", "threats"),
        (verdict(rule_ids=("HH3.a",)), "remove", "threats"),  # a sub-rule
        (verdict(rule_ids=("HH30",)), "review", "violates, no rule matches"),
        (verdict(score=0.95, confidence="high"), "limit", "sure"),
        (verdict(score=0.89, confidence="high"), "review", "violates, no rule matches"),
        (verdict(score=0.95, confidence="low"), "review", "violates, no rule matches"),
        (verdict(confidence="high"), "review", "violates, no rule matches"),  # without a score no threshold is reached
        (verdict(policy="fraud", score=0.95, confidence="high"), "review", "violates, no rule matches"),
        (verdict(policy="fraud", surface="chat"), "label", "chat"),
        (verdict(policy="fraud", surface=" Chat"), "label", "chat"),  # as the scope of a policy is compared
        (verdict(policy="fraud", surface="chats"), "review", "violates, no rule matches"),
        (verdict(policy="fraud", surface=""), "review", "violates, no rule matches"),
        (verdict(policy="fraud"), "review", "violates, no rule matches"),
        (verdict(decision="safe", rule_ids=("HH3",)), "allow", "safe, no rule matches"),
        (verdict(decision="undetermined"), "review", "undetermined, no rule matches"),
    ],
)
def test_the_first_rule_that_matches_decides(given, action, rule):
    assert RULES.choose(given) == (action, rule)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[rule]]\nname = 'a'\naction = 'ban'", "Invalid enum value 'ban' - at `$.rule[0].action` (rule 'a'); choose"),
        ("[[rule]]\nname = 'a'\naction = 'ban'", "choose from: allow, review, label, limit, remove"),
        (
            "[[rule]]\nname = 'a'\naction = 'limit'\ndecision = 'violatess'",
            "'violatess' - at `$.rule[0].decision` (rule 'a'); choose from: violates, safe, undetermined",
        ),
        (
            "[[rule]]\nname = 'a'\naction = 'limit'\nconfidence = ['hgh']",
            "'hgh' - at `$.rule[0].confidence[0]` (rule 'a'); choose from: low, medium, high",
        ),
        ("[[rule]]\naction = 'remove'", "missing required field `name`"),
        ("rule = [3]", "at `$.rule[0]`"),
        ("[[rule]]\nname = 'a'\naction = 'remove'\npolicy = 'x'", "unknown field `policy`"),
        ("[[rule]]\nname = 'a'\naction = 'remove'\nmin_score = 1.5", "<= 1.0 - at `$.rule[0].min_score`"),
        ("[cap]\nmax_actions = 0", ">= 1 - at `$.cap.max_actions`"),
        ("[cap]\nwindow = 'soon'", "$.cap.window"),
        ("[webhook]\nurl = 'ftp://x'", "$.webhook.url"),
        ("[webhook]\nurl = 'https://user:hidden@x/'", "SAFEGUARD_WEBHOOK_AUTHORIZATION"),
        ("[webhook]\nurl = 'https://hidden@x/'", "SAFEGUARD_WEBHOOK_AUTHORIZATION"),
        ("[webhook]\nurl = 'https://x/?token=hidden'", "SAFEGUARD_WEBHOOK_AUTHORIZATION"),
        ("[webhook]\nurl = 'https://x/#hidden'", "SAFEGUARD_WEBHOOK_AUTHORIZATION"),
        ("[webhook]\nurl = 'https:///hidden'", "with a host"),
        ("[webhook]\nurl = 'https://x:hidden/'", "with a host"),
        ("[webhook]\nurl = 'https://[hidden/'", "with a host"),
        ("[webhook]\nurl = 'https://x/hid den'", "spaces"),
        ('[webhook]\nurl = "https://x/hid\\nden"', "spaces"),
        ('[webhook]\nurl = "https://x/hid\\u0085den"', "spaces"),
        ('[webhook]\nurl = "https://x/hid\\u2028den"', "spaces"),
        ('[webhook]\nurl = "https://x/hid\\u200bden"', "spaces"),
        ("[webhook]\nurl = 'https://x..hidden/'", "with a host"),
        (f"[webhook]\nurl = 'https://hidden{'x' * 64}/'", "with a host"),
        ("[webhook]\nurl = 'https://x'\ntimeout = nan", "$.webhook.timeout"),
        ("[webhook]\nurl = 'https://x'\ntimeout = inf", "$.webhook.timeout"),
        ("[webhook]\nurl = 'https://x'\ntimeout = -1", "$.webhook.timeout"),
        ("[webhook]\nurl = 'https://x'\ntimeout = 1e9", "$.webhook.timeout"),
        ("[webhook]\nurl = 'https://x'\nretry_for = '99999999999d'", "$.webhook.retry_for"),
        ("[webhook]\nurl = 'https://x'\nmax_attempts = 0", "$.webhook.max_attempts"),
        ("[webhook]\nurl = 'https://x'\nretries = 1", "unknown field `retries`"),
        ("[cap]\nwindow = '99999999999d'", "$.cap.window"),
        ('[cap]\nwindow = "1h\\n"', "$.cap.window"),
        ('[authors]\nexpires = """\n90d\n"""', "$.authors.expires"),
        ('[statements]\nterritory = ["DE\\n"]', "$.statements.territory"),
        ('[statements]\nterms = "https://x\\n"', "$.statements"),
        ('[statements]\nterms = "https://x\\u202ey"', "$.statements"),
        ("[cap]\nmax_actions = 1" + "0" * 400, "$.cap.max_actions"),
        ("[cap]\nmax_actions = 1" + "0" * 5000, "not TOML"),
        ("[caps.hate]\nmax_actions = 1.5", "$.caps"),
        ("[[rule]]\nname = 'a'\naction = 'remove'\nmin_score = nan", "$.rule[0].min_score"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("[cap\nmax_actions = 1", "line 1"),
        ("[webhook", "not TOML"),
        ("[[rule]]\nname = 'a'\naction = 'remove'\n" * 2, "two rules are named 'a'"),
    ],
)
def test_an_invalid_file_is_refused_with_the_place_of_the_error(tmp_path, text, problem):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        rules_of.load(path)
    assert problem in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigurationError, match="No such file"):
        rules_of.load(tmp_path / "none.toml")


def test_the_rules_in_the_package_name_policies_and_rules_that_exist(tmp_path):
    assert "no problems found" in CliRunner().invoke(app, ["enforce", "check"]).stdout
    path = tmp_path / "rules.toml"
    for line, message in (
        (
            'policies = ["hat"]',
            "no policy 'hat'; there are: biomedical-misinformation, fraud-spam, gaming-conduct, hate-",
        ),
        ('rules = ["HH9"]', "rule 'a': 'HH9' is not a rule of"),
        (
            'policies = ["gaming-conduct"]\nrules = ["HH3"]',
            "'HH3' is not a rule of gaming-conduct; there are: GC1, GC2",
        ),
        (
            'policies = ["gaming-conduct"]\nsurfaces = ["loby"]',
            "the surface 'loby'; they cover: clan, game-chat, lobby",
        ),
        ("[caps.hat]\nmax_actions = 5", "no policy 'hat'"),
    ):
        path.write_text(f'[[rule]]\nname = "a"\naction = "remove"\n{line}\n')
        done = CliRunner().invoke(app, ["enforce", "check", str(path)])
        assert message in done.stderr, line
        assert done.exit_code == 1
    path.write_text('[[rule]]\nname = "a"\naction = "remove"\npolicies = ["hat", "hit"]\nrules = ["HH9"]\n')
    said = CliRunner().invoke(app, ["enforce", "check", str(path)]).stderr.splitlines()
    assert [name in line for name, line in zip(("'hat'", "'hit'"), said, strict=True)] == [True, True], "one a line"
    path.write_text('[[rule]]\nname = "a"\naction = "remove"\nsurfaces = ["anything"]\n')
    assert "no problems found" in CliRunner().invoke(app, ["enforce", "check", str(path)]).stdout
    path.write_text('[[rule]]\nname = "a"\naction = "remove"\npolicies = ["gaming-conduct"]\nsurfaces = ["Lobby "]\n')
    assert "no problems found" in CliRunner().invoke(app, ["enforce", "check", str(path)]).stdout


def test_an_action_names_its_verdict_and_what_stands_now():
    run = Enforced()
    (action,) = run(verdict(1, rule_ids=("HH3",), reason="It threatens."))
    assert action.reason == "It threatens."
    assert (action.verdict_id, action.policy_id, action.policy_version, action.rule_ids) == (
        "v1",
        "hate",
        "p1",
        ("HH3",),
    )
    assert (action.action, action.previous, action.effective, action.state, action.changes) == (
        *("remove", "allow", "remove", "applied"),
        True,
    )
    assert action.rule == "threats"
    (other,) = run(verdict(2, policy="fraud", surface="chat"))
    assert (other.action, other.effective) == ("label", "remove"), "the severest of its policies stands"
    (again,) = run(verdict(3, rule_ids=("HH3",)))
    assert not again.changes
    assert again.reverses == action.action_id
    assert run.state.restricted() == run.restored().restricted() == {"c1": "remove"}


def test_a_superseding_verdict_reverses_an_action_and_its_own_reversal_restores_it():
    run = Enforced()
    run(
        verdict(1, rule_ids=("HH3",)),
        verdict(2, "c2", decision="safe"),
        verdict(3, "c3", policy="fraud", surface="chat"),
    )
    before = run.state.restricted()
    (back,) = run(verdict(4, decision="safe", supersedes="v1"))
    assert (back.action, back.previous, back.effective, back.changes) == ("allow", "remove", "allow", True)
    assert back.reverses == run.actions[0].action_id
    assert run.state.restricted() == {"c3": "label"}
    run(verdict(5, rule_ids=("HH3",), supersedes="v4"))
    assert run.state.restricted() == run.restored().restricted() == before


def test_a_safe_verdict_on_allowed_content_leads_to_no_action():
    run = Enforced()
    assert run(verdict(1, decision="safe")) == []


def test_a_repeated_verdict_leads_to_one_action():
    run = Enforced()
    assert len(run(verdict(1, rule_ids=("HH3",)), verdict(1, rule_ids=("HH3",)))) == 1
    assert run(verdict(1, rule_ids=("HH3",))) == []
    run.enforcer.states[0] = run.restored()
    assert run(verdict(1, rule_ids=("HH3",))) == [], "the next owner ignores it too"


def test_an_older_verdict_that_comes_again_is_recognised_by_what_stands():
    run = Enforced()
    run(*(verdict(number, rule_ids=("HH3",)) for number in range(5)))
    run.actions.clear()  # as when retention deletes them
    run.enforcer.states[0] = run.restored()
    assert run(*(verdict(number, decision="safe") for number in range(5))) == []
    assert run.restored().restricted() == {"c1": "remove"}


async def test_a_state_of_another_number_of_partitions_is_refused_until_its_records_are_replaced(monkeypatch):
    run = Enforced(partitions=2)
    await run.follow(verdict(1, rule_ids=("HH3",)), verdict(2, "c2", rule_ids=("HH3",)))
    served(monkeypatch, run.standings)
    with pytest.raises(ConfigurationError, match="written with 2 partitions.*safeguard enforce repartition"):
        await EnforcementState.restore(settings.load(), 0, 3, timedelta(hours=1))
    moved = msgspec.structs.replace(run.state["c1"], partitions=3)
    run.standings.append(StoredRecord(topics.STANDING, 0, 0, 0, b"c1", encode(moved)))
    run.standings.append(StoredRecord(topics.STANDING, 0, 0, 0, b"c2", None))
    restored = await EnforcementState.restore(settings.load(), 0, 3, timedelta(hours=1))
    assert restored.restricted() == {"c1": "remove"}


def served(monkeypatch, standings, others=()):
    """Let readers of topics find these records."""

    async def read_all(_, names, partition, **__):
        for record in [*(standings if names == [topics.STANDING] else []), *others]:
            yield record

    monkeypatch.setattr(reading, "read_all", read_all)
    monkeypatch.setattr(state.kafka, "read_all", read_all)


@pytest.mark.parametrize("value", [b"hello", b"{}", b"[1]", b"\xff", b"", None])
@pytest.mark.parametrize("key", [None, b"", b"\xff", b"c2"])
async def test_foreign_records_and_tombstones_end_no_restore(key, value, monkeypatch):
    run = Enforced()
    await run.follow(verdict(1, rule_ids=("HH3",)))
    served(monkeypatch, run.standings, [StoredRecord(topics.STANDING, 0, 0, 0, key, value)])
    restored = await EnforcementState.restore(settings.load(), 0, 1, timedelta(hours=1))
    assert restored.restricted() == {"c1": "remove"}
    decided = await EnforcementState.of_decisions(settings.load(), 0, 1)
    assert decided.restricted() == {}


def test_what_another_tool_writes_about_a_decision_is_made_plain_and_cut():
    run = Enforced()
    odd = datetime.min  # noqa: DTZ901  (without an offset, and before every time zone)
    (action,) = run(
        msgspec.structs.replace(person(), acted_at=odd, by="a\x1b[2Jnn", why="satire\r\n\u202e" + "x" * 10**6)
    )
    decision = run.restored()["c1"].decision
    assert (action.by, action.why, action.acted_at) == (decision.by, decision.why, decision.at)
    assert decision.at == datetime.min.replace(tzinfo=UTC)
    assert decision.by == "a\ufffd[2Jnn"
    assert decision.why == "satire\ufffd\ufffd\ufffd" + "x" * 1991


@pytest.mark.parametrize("acted_at", [WHEN, WHEN.replace(tzinfo=None), WHEN - timedelta(days=900)])
def test_a_requeued_decision_overrides_no_newer_one(acted_at):
    run = Enforced()
    run(person())
    late = msgspec.structs.replace(person(action="remove", name="d0"), acted_at=acted_at)
    assert run(late, requeued=True) == []
    later = msgspec.structs.replace(late, action_id="d2", acted_at=acted_at + timedelta(days=901))
    assert [action.effective for action in run(later, requeued=True)] == ["remove"]
    assert run(late) != [], "written in its place"


def test_an_undetermined_verdict_reverses_nothing():
    run = Enforced()
    run(verdict(1, rule_ids=("HH3",)))
    (kept,) = run(verdict(2, decision="undetermined"))
    assert (kept.action, kept.changes, kept.decision) == ("remove", False, "undetermined")
    (new,) = run(verdict(3, "c9", decision="undetermined"))
    assert (new.action, new.changes) == ("review", True)


def test_a_moderator_overrides_current_and_future_verdicts():
    run = Enforced()
    run(verdict(1, rule_ids=("HH3",)))
    (decided,) = run(person())
    assert (decided.action, decided.previous, decided.effective, decided.sequence) == ("allow", "remove", "allow", 2)
    assert run.state.restricted() == {}
    (action,) = run(verdict(2, rule_ids=("HH3",)), verdict(3, policy="fraud", decision="safe"))
    assert (action.state, action.effective, action.changes) == ("overridden", "allow", False)
    run(person(action="remove", name="d2"))
    assert run.state.restricted() == run.restored().restricted() == {"c1": "remove"}
    assert run.restored()["c1"].decision.by == "ann"


def test_actions_above_the_cap_are_held_until_the_window_has_passed(monkeypatch):
    moment = WHEN
    monkeypatch.setattr(verdict_actions, "now", lambda: moment)
    run = Enforced(EnforcementRules(RULES.rule, Cap(3, "1h"), {"fraud": Cap(100, "1m")}))
    first = [run(verdict(n, f"c{n}", rule_ids=("HH3",)))[0] for n in range(6)]
    assert [a.state for a in first] == ["applied"] * 3 + ["held"] * 3
    assert [a.alert for a in first] == [False] * 3 + [True] + [False] * 2, "one alert for all"
    assert [a.effective for a in first[3:]] == ["allow"] * 3
    assert "above the cap of 3 in 1h" in first[3].why
    assert run.state.held() == {"hate": 3}
    assert len(run.state.restricted()) == 3
    (other,) = run(verdict(7, "c3", policy="fraud", surface="chat"))
    assert other.state == "applied", "another policy has its own cap"
    run.enforcer.states[0] = run.restored()
    (still,) = run(verdict(8, "c8", rule_ids=("HH3",)))
    assert (still.state, still.alert) == ("held", False), "the next owner knows"
    moment += timedelta(hours=1)
    (later,) = run(verdict(9, "c9", rule_ids=("HH3",)))
    assert later.state == "applied"
    (dropped,) = run(verdict(10, "c4", decision="safe", supersedes="v4"))
    assert (dropped.action, dropped.changes) == ("allow", False), "it was never applied"
    assert run.restored().held() == {"hate": 3}


def test_the_caps_partition_shares_sum_up_to_the_cap():
    for cap in (1, 5, 6, 7, 1000):
        assert sum(Cap(cap).partition_share(p, 6) for p in range(6)) == cap


def test_a_release_counts_once_and_only_while_its_action_is_held():
    run = Enforced(EnforcementRules(RULES.rule, Cap(1)))
    run(verdict(0, "c0", rule_ids=("HH3",)))
    (held,) = run(verdict(1, rule_ids=("HH3",)))
    release = msgspec.structs.replace(
        held, state="applied", releases=held.action_id, action_id="r1", by="ann", alert=False, sequence=None
    )
    (released,) = run(release, release)
    assert (released.action_id, released.effective, released.changes) == ("r1", "remove", True)
    assert run.state.restricted()["c1"] == "remove"
    assert run.state.held() == {}
    (back,) = run(verdict(2, rule_ids=(), decision="safe"))
    assert (back.state, back.previous) == ("held", "remove"), "a reversal is a change too"
    assert run(release) == []
    assert run.state.held() == run.restored().held() == {"hate": 1}, "that action was released before"


def test_a_dry_run_marks_its_actions_and_changes_nothing_that_stands():
    run = Enforced(dry_run=True)
    (action,) = run(verdict(1, rule_ids=("HH3",)))
    assert action.dry_run
    assert action.action_id != Enforced()(verdict(1, rule_ids=("HH3",)))[0].action_id
    assert run.restored().restricted() == {}
    assert run.state.restricted() == {"c1": "remove"}


def test_an_invalid_verdict_fails_its_batch_before_the_others_count_as_seen():
    run = Enforced()
    good = run.record(verdict(1, rule_ids=("HH3",)))
    for value in (b"{}", b'{"verdict": {}}', b"nonsense", None):
        bad = StoredRecord(topics.ENFORCEMENT, 0, 1, 0, b"c2", value)
        with pytest.raises(RecordError):
            asyncio.run(run.enforcer.process([good, bad]))
    assert len(asyncio.run(run.enforcer.process([good]))) == 2


def test_old_ids_are_forgotten():
    seen = RecentIds(2)
    assert [seen.add(name) for name in ("a", "b", "a", "c", "b", "a")] == [True, True, False, True, True, True]


HATE = PolicyStanding("hate", action="remove", action_id="a1")
HELD = PolicyStanding("hate", held=Action("a1", "c1", "remove", WHEN, policy_id="hate", state="held"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("remove", "applied", "", False)),
        ({"cap_reached": True}, ("remove", "held", "above the cap of 3 in 1h", True)),
        ({"cap_reached": True, "alerted": True}, ("remove", "held", "above the cap of 3 in 1h", False)),
        ({"cap_reached": True, "standing": HATE}, ("remove", "applied", "", False)),
        (
            {"cap_reached": True, "overruled": "a moderator decided: label"},
            ("remove", "overridden", "a moderator decided: label", False),
        ),
        ({"chosen": RuleChoice("allow", "r")}, None),
        ({"chosen": RuleChoice("allow", "r"), "overruled": "a moderator decided: label"}, None),
        (
            {"cap_reached": True, "share": 2},
            ("remove", "held", "above this partition's share of the cap, 2 of 3 in 1h", True),
        ),
        (
            {"chosen": RuleChoice("allow", "r"), "standing": HELD},
            ("allow", "applied", "", False),
        ),
        (
            {"verdict": verdict(decision="undetermined"), "chosen": RuleChoice("review", "r"), "standing": HATE},
            ("remove", "applied", "", False),
        ),
    ],
)
def test_the_decision_depends_on_the_situation_alone(changes, expected):
    situation = Situation(
        verdict(), RuleChoice("remove", "r"), PolicyStanding("hate"), "", Cap(3, "1h"), 3, False, False
    )
    decision = decide_action(msgspec.structs.replace(situation, **changes))
    assert expected == (decision and (decision.chosen.action, decision.state, decision.why, decision.alert))


steps = st.lists(
    st.tuples(
        st.sampled_from(["c1", "c2"]),
        st.sampled_from(["hate", "fraud"]),
        st.sampled_from(["violates", "safe", "undetermined"]),
        st.sampled_from(["HH3", "HH1"]),
        st.sampled_from(["verdict", "allow", "remove"]),
    ),
    max_size=30,
)


@given(steps)
def test_the_state_matches_the_plain_definition_of_what_stands(events):
    """The severest of each policy's last determined verdict, or review; a moderator's decision overrides them all."""
    run = Enforced(EnforcementRules(RULES.rule, Cap(10_000)))
    model, decided = {}, {}
    for number, (content, policy, decision, cited, kind) in enumerate(events):
        if kind != "verdict":
            run(person(content, kind, f"d{number}"))
            decided[content] = kind
            continue
        run(verdict(number, content, policy, decision, rule_ids=(cited,)))
        if content in decided:
            continue
        violating = "remove" if cited == "HH3" else "review"
        chosen = {"safe": "allow", "undetermined": "review"}.get(decision, violating)
        if not (decision == "undetermined" and model.get((content, policy)) == "remove"):
            model[content, policy] = chosen
    order = ["allow", "review", "remove"]
    expected = {}
    for content in {content for content, _ in model} | set(decided):
        standing = [action for (name, _), action in model.items() if name == content]
        action = decided.get(content) or max(standing, key=order.index)
        if action != "allow":
            expected[content] = action
    assert run.state.restricted() == run.restored().restricted() == expected
    assert max(Counter(a.verdict_id for a in run.actions if a.verdict_id).values(), default=1) == 1


def test_a_dry_run_takes_no_advice_about_an_appeal_for_a_verdict():
    run = Enforced(dry_run=True)
    assert run(msgspec.structs.replace(verdict(1, rule_ids=("HH3",)), appeal_id="p1")) == []
    assert [action.action for action in run(verdict(2, rule_ids=("HH3",)))] == ["remove"]
