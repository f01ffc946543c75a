"""The parser accepts exactly the required format, and names each failure."""

import json
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_harmony import Role

from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.policies.parsing import parse as load
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.judging.instructions import instructions_for
from safeguard_streams.workers.judging.parse import Malformed, one_line, parse

POLICY = load_library()["hate-harassment"]
FINAL = {"violation": 1, "rule_ids": ["HH1"], "confidence": "high", "reason": "It attacks a group."}
ANALYSIS = "It violates HH1.<|end|>"
LEAD = "<|start|>assistant<|channel|>final<|message|>"


def tokens(text):
    return encoding().encode(text, allowed_special="all")


def completion(final=None, *, analysis=ANALYSIS, lead=LEAD, end="<|return|>"):
    text = final if isinstance(final, str) else json.dumps({**FINAL, **(final or {})})
    return tokens(f"{analysis}{lead}{text}{end}")


def read(output):
    return parse(output, [POLICY]).answers[POLICY.id]


def test_an_answer_in_the_required_format_is_read():
    answer = read(completion())
    assert parse(completion(), [POLICY]).analysis == "It violates HH1."
    assert answer.violates
    assert answer.rule_ids == ("HH1",)
    assert answer.confidence == "high"
    assert encoding().decode([completion()[answer.decision_at]]) == "1"
    safe = read(completion({"violation": 0, "rule_ids": ["HH5"]}))
    assert not safe.violates
    assert encoding().decode([completion({"violation": 0, "rule_ids": ["HH5"]})[safe.decision_at]]) == "0"


def test_the_json_constraint_of_a_final_message_is_accepted():
    lead = "<|start|>assistant<|channel|>final <|constrain|>json<|message|>"
    assert read(completion(lead=lead)).violates


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([], "cut_off"),
        (completion(end=""), "cut_off"),
        (completion(end="<|end|>"), "cut_off"),
        (completion(end="<|call|>"), "cut_off"),
        (tokens("plain<|return|>"), "no_final"),
        (tokens('{"violation":0}<|return|>'), "no_final"),
        (completion(analysis="<|channel|>analysis<|message|>It violates HH1.<|end|>"), "structure"),
        (tokens(f"{LEAD.removeprefix('<|start|>assistant')}{json.dumps(FINAL)}<|return|>"), "structure"),
        (completion(end="<|return|><|return|>"), "structure"),
        (tokens("only this<|return|>"), "no_final"),
        (completion(analysis=" <|end|>"), "no_analysis"),
        (tokens(f"<|end|>{LEAD}{json.dumps(FINAL)}<|return|>"), "no_analysis"),
        (tokens(f"{ANALYSIS}{LEAD}{json.dumps(FINAL)}<|end|>{LEAD}{json.dumps(FINAL)}<|return|>"), "several_finals"),
        (completion(lead="<|start|>assistant<|channel|>commentary<|message|>"), "channel"),
        (completion(lead="<|start|>assistant to=functions.x<|channel|>final<|message|>"), "channel"),
        (completion(lead="<|start|>assistant<|channel|>final to=browser<|message|>"), "channel"),
        (completion(lead="<|start|>user<|channel|>final<|message|>"), "channel"),
        (completion(lead="<|start|>assistant<|channel|>final <|constrain|>xml<|message|>"), "structure"),
        (completion("violation: 1"), "not_json"),
        (completion(json.dumps(FINAL) + "\nThat is all."), "not_json"),
        (completion("```json\n" + json.dumps(FINAL) + "\n```\nThat is all."), "not_json"),
        (completion("[" * 5000), "not_json"),
        (completion("1"), "fields"),
        (completion("[1]"), "fields"),
        (completion({"violation": True}), "fields"),
        (completion({"violation": 2}), "fields"),
        (completion({"violation": "1"}), "fields"),
        (completion({"violation": 1.0}), "fields"),
        (completion({"violation": None}), "fields"),
        (completion({"confidence": "certain"}), "fields"),
        (completion({"reason": " "}), "fields"),
        (completion({"reason": "x" * 1001}), "fields"),
        (completion({"rule_ids": []}), "fields"),
        (completion({"rule_ids": "HH1"}), "fields"),
        (completion({"rule_ids": ["HH1", "HH1"]}), "fields"),
        (completion({"extra": 1}), "fields"),
        (completion('{"violation":1,"violation":0,"rule_ids":["HH5"],"confidence":"low","reason":"x"}'), "fields"),
        (completion(json.dumps(FINAL).replace("attacks", chr(92) + "ud83d")), "not_text"),
        (completion(lead="<|start|>assistant<|channel|> final<|message|>"), "channel"),
        (completion({"rule_ids": ["HH9"]}), "unknown_rule"),
        (completion({"rule_ids": ["HH5"]}), "contradiction"),
        (completion({"rule_ids": ["HH1", "HH4"]}), "contradiction"),
        (completion({"violation": 0}), "contradiction"),
    ],
)
def test_each_failure_has_its_reason(output, reason):
    with pytest.raises(Malformed) as caught:
        parse(output, [POLICY])
    assert caught.value.reason == reason


def check(output):
    """The output is malformed, or its answer keeps every rule of the parser."""
    try:
        accepted = parse(output, [POLICY])
    except Malformed:
        return
    answer = accepted.answers[POLICY.id]
    written = json.loads(accepted.final)
    assert written["violation"] in {0, 1}
    assert bool(written["violation"]) == answer.violates
    assert set(answer.rule_ids) <= set(POLICY.violating if answer.violates else POLICY.safe)
    assert answer.rule_ids
    assert output[-1] == 200002


special = st.integers(199_998, 201_090)
ordinary = st.integers(0, 199_997)


@given(st.lists(st.one_of(special, ordinary), max_size=40))
def test_no_tokens_make_the_parser_raise_anything_else(output):
    check(output)


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_output_is_never_read_as_something_that_it_does_not_say(data):
    output = completion(data.draw(st.sampled_from([None, {"violation": 0, "rule_ids": ["HH5"]}])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(output) - 1))
        kind = data.draw(st.sampled_from(["drop", "put", "change", "swap"]))
        if kind == "drop" and len(output) > 1:
            del output[at]
        elif kind == "put":
            output.insert(at, data.draw(st.one_of(special, st.integers(0, 300))))
        elif kind == "change":
            output[at] = data.draw(st.one_of(special, st.integers(0, 300)))
        else:
            output[at], output[-1 - at] = output[-1 - at], output[at]
    check(output)


def read_by_harmony(output):
    """The text of the single final message that harmony's own parser reads; None if there is no such message."""
    try:
        whole = [*harmony.opened_analysis(), *output]
        messages = encoding().parse_messages_from_completion_tokens(whole, Role.ASSISTANT, strict=True)
    except Exception:
        return None
    channels = [message.channel for message in messages]
    if channels.count("final") != 1 or channels[-1] != "final" or set(channels) > {"analysis", "final"}:
        return None
    if any(message.recipient for message in messages):
        return None
    return "".join(part.text for part in messages[-1].content)


def damaged(draw, outputs):
    """An output with some tokens dropped, duplicated, moved, or taken from another output."""
    output = list(draw.choice(outputs))
    for _ in range(draw.choice((0, 1, 1, 2, 3, 6))):
        at, other = draw.randrange(len(output)), draw.choice(outputs)
        kind = draw.randrange(5)
        if kind == 0 and len(output) > 1:
            del output[at : at + draw.choice((1, 1, 1, 8))]
        elif kind == 1:
            output[at:at] = other[draw.randrange(len(other)) :][: draw.choice((1, 1, 3, 12))]
        elif kind == 2:
            output[at] = draw.choice((15, 16, 200002, 200005, 200006, 200007, 200008, draw.randrange(201_088)))
        elif kind == 3:
            output[at:at] = output[: draw.randrange(len(output))]
        else:
            output = output[: at + 1] + other[draw.randrange(len(other)) :]
        if not output:
            return [200002]
    return output


def test_the_parser_accepts_no_output_of_a_hundred_thousand_that_breaks_its_rules():
    draw = random.Random(11)
    outputs = [
        completion({"violation": violation, "rule_ids": [rule], "reason": reason})
        for violation, rules in ((1, POLICY.violating), (0, POLICY.safe))
        for rule in rules
        for reason in ("It attacks a group.", 'It says \\"0\\" and {"violation": 0}.', "仇恨 🙂 é")
    ]
    accepted = 0
    for _ in range(100_000):
        output = damaged(draw, outputs)
        try:
            answer = parse(output, [POLICY]).answers[POLICY.id]
        except Malformed:
            continue
        accepted += 1
        final = read_by_harmony(output)
        assert final is not None, "harmony finds no single final message in it"
        written = json.loads(final[final.index("{") : final.rindex("}") + 1])
        assert set(written) == set(FINAL)
        assert written["violation"] is (1 if answer.violates else 0)
        assert tuple(written["rule_ids"]) == answer.rule_ids
        assert set(answer.rule_ids) <= set(POLICY.violating if answer.violates else POLICY.safe)
        assert output[answer.decision_at] == (16 if answer.violates else 15)
    assert accepted > 10_000, "most outputs are damaged, and some are not"


BUNDLE = [load_library()[name] for name in ("fraud-spam", "hate-harassment")]
TOGETHER = {
    "hate-harassment": {**FINAL, "rule_ids": ["HH2"]},
    "fraud-spam": {"violation": 0, "rule_ids": ["FS4"], "confidence": "low", "reason": "It sells nothing."},
}


def test_each_policy_of_a_bundle_has_its_answer_and_its_decision_token():
    output = completion(json.dumps(TOGETHER))
    answers = parse(output, BUNDLE).answers
    fraud, hate = answers["fraud-spam"], answers["hate-harassment"]
    assert (fraud.violates, fraud.rule_ids) == (False, ("FS4",))
    assert (hate.violates, hate.rule_ids) == (True, ("HH2",))
    assert [harmony.decode_tokens([output[a.decision_at]]) for a in (fraud, hate)] == ["0", "1"]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (FINAL, "fields"),
        ({"hate-harassment": FINAL}, "fields"),
        ({**TOGETHER, "another": FINAL}, "fields"),
        ({**TOGETHER, "fraud-spam": FINAL}, "unknown_rule"),
        ({**TOGETHER, "fraud-spam": {**TOGETHER["fraud-spam"], "violation": 1}}, "contradiction"),
        ([TOGETHER], "fields"),
        ({**TOGETHER, "fraud-spam": None}, "fields"),
    ],
)
def test_a_bundle_with_one_wrong_part_is_malformed_as_a_whole(output, reason):
    with pytest.raises(Malformed) as caught:
        parse(completion(json.dumps(output)), BUNDLE)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("It is \x1b[31mred\x1b[0m.", "It is red ."),
        ("a\x1b]0;title\x07b", "a b"),
        ("a\x9b2Jb\x9dx\x9cc", "a b c"),
        ("one\nline\r\n2026-01-01 ERROR forged", "one line 2026-01-01 ERROR forged"),
        ("a\u2028b\u2029c\x85d\x0be\x00f\x7fg", "a b c d e f g"),
        ("\u202eevil\u202c \u2066x\u2069 \u200ey", "evil x y"),
        ("zero\u200bwidth \ufeffmark \U000e0041tag", "zerowidth mark tag"),
        ("👩\u200d👩\u200d👧 and می\u200cخواهم", "👩\u200d👩\u200d👧 and می\u200cخواهم"),
        ("[/x] stays; so does <b>", "[/x] stays; so does <b>"),
    ],
)
def test_a_reason_is_one_line_that_a_terminal_shows_as_it_is(reason, shown):
    assert read(completion({"reason": reason})).reason == shown


@pytest.mark.parametrize("reason", ["\x1b[2J", "\u200b\u202e", "\u200d", "\x00\n"])
def test_a_reason_without_a_character_to_show_is_none(reason):
    with pytest.raises(Malformed, match="fields"):
        read(completion({"reason": reason}))


@given(st.text(max_size=60))
def test_a_reason_has_no_control_and_no_second_line(text):
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert all(c in "\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cf", "Zl", "Zp"} for c in shown)
    assert one_line(shown) == shown


WORDS = {"VALID": "safe", "ALLOWED": "safe", "INVALID": "violates"}


def worded(output=WORDS):
    """The policy with its own words for the decision."""
    return load(with_changes(POLICY.document, "judging", output=output))


def test_a_policys_own_words_are_read_by_their_meaning_and_have_no_score():
    policy = worded()
    answer = parse(completion({"violation": "INVALID"}), [policy]).answers[policy.id]
    assert (answer.violates, answer.rule_ids, answer.decision_at) == (True, ("HH1",), None)
    for word in ("VALID", "ALLOWED"):
        assert not parse(completion({"violation": word, "rule_ids": ["HH5"]}), [policy]).answers[policy.id].violates


@pytest.mark.parametrize(
    ("fields", "policy", "reason"),
    [
        ({"violation": 1}, worded(), "fields"),
        ({"violation": True}, worded(), "fields"),
        ({"violation": "invalid"}, worded(), "fields"),
        ({"violation": "INVALID "}, worded(), "fields"),
        ({"violation": "1"}, worded(), "fields"),
        ({"violation": ["INVALID"]}, worded(), "fields"),
        ({"violation": "VALID"}, worded(), "contradiction"),
        ({"violation": "INVALID"}, POLICY, "fields"),
        ({"violation": "1"}, POLICY, "fields"),
    ],
)
def test_only_the_policys_words_are_accepted(fields, policy, reason):
    with pytest.raises(Malformed, match=reason):
        parse(completion(fields), [policy])


def test_in_a_bundle_each_policy_has_its_own_words_and_only_numbers_have_positions():
    policy, other = worded(), load_library()["fraud-spam"]
    final = {
        policy.id: {**FINAL, "violation": "INVALID"},
        other.id: {**FINAL, "violation": 0, "rule_ids": ["FS4"]},
    }
    output = completion(json.dumps(final))
    answers = parse(output, [policy, other]).answers
    assert (answers[policy.id].violates, answers[other.id].violates) == (True, False)
    assert answers[policy.id].decision_at is None
    assert encoding().decode([output[answers[other.id].decision_at]]) == "0"


def test_the_prompt_of_a_bundle_asks_for_each_policys_words():
    bundled = [load(with_changes(worded().document, "judging", bundle="all"))]
    bundled.append(load(with_changes(load_library()["fraud-spam"].document, "judging", bundle="all")))
    text = instructions_for(bundled[0], bundled).text
    assert '"hate-harassment":{"violation":"VALID" or "ALLOWED" or "INVALID",' in text
    assert '"fraud-spam":{"violation":0 or 1,' in text
    assert 'Under hate-harassment, "VALID" stands for violation 0, "ALLOWED" stands for violation 0, "INVALID"' in text


def test_sub_rules_are_cited_as_rules():
    text = POLICY.document.replace("HH2", "HH1.a")
    policy = load(text)
    answer = parse(completion({"rule_ids": ["HH1.a", "HH1"]}), [policy]).answers[policy.id]
    assert answer.rule_ids == ("HH1.a", "HH1")
    with pytest.raises(Malformed, match="unknown_rule"):
        parse(completion({"rule_ids": ["HH1.b"]}), [policy])
