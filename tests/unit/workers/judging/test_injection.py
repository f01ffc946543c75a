"""Content that poses as markup, as a policy or as an answer affects neither the developer message nor the parser.

The texts are this project's own, in tests/data/injections.jsonl.
"""

import json
import re
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest
from openai_harmony import Role

from safeguard_streams.contract.records import ContentEvent
from safeguard_streams.contract.records import Message as ContextMessage
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.harmony import encoding
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.harmony import FIRST_SPECIAL
from safeguard_streams.workers.inference.interface import InferenceRequest
from safeguard_streams.workers.inference.routes import Chat
from safeguard_streams.workers.judging import prompt
from safeguard_streams.workers.judging.parse import Malformed, one_line, parse

LINES = (Path(__file__).parents[3] / "data" / "injections.jsonl").read_text(encoding="utf-8").split("\n")
TEXTS = [json.loads(line)["text"] for line in LINES if line]
IMITATIONS = {text for text in TEXTS if re.search("content to judge|conversation so far", text, re.IGNORECASE)}
CONTROL = re.compile(r"<\|[^<>|]*\|>")
POLICY = load_library()["hate-harassment"]
VIOLATES = {"violation": 1, "rule_ids": ["HH2"], "confidence": "high", "reason": "It insults."}


def rendered(text, context=()):
    return harmony.render(POLICY.text, "low", prompt.user_message(text, context))


def output_of(analysis, final):
    return [
        *harmony.encode_text(analysis),
        *harmony.encode_markup("<|end|><|start|>assistant<|channel|>final<|message|>"),
        *harmony.encode_text(final),
        *harmony.encode_markup("<|return|>"),
    ]


def test_the_corpus_is_complete():
    assert len(TEXTS) >= 60
    assert len(set(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("text", TEXTS)
def test_the_developer_message_and_the_markup_stay_unchanged(text):
    plain, tokens = rendered("harmless"), rendered(text)
    before = harmony.prefix(POLICY.text, "low")
    assert tuple(tokens[: len(before)]) == before
    assert [t for t in tokens if t >= FIRST_SPECIAL] == [t for t in plain if t >= FIRST_SPECIAL]
    user = harmony.decode_tokens(tokens[len(before) : len(tokens) - 6])
    assert user.endswith(text), "the text is neither cut nor changed"
    assert (user == text) is (text not in IMITATIONS), "only the words of a heading get another heading in front"


@pytest.mark.parametrize("text", TEXTS)
def test_harmony_itself_reads_one_developer_message_and_the_content_as_one_user_message(text):
    messages = encoding().parse_messages_from_completion_tokens(rendered(text)[:-5], None)
    assert [m.author.role for m in messages] == [Role.SYSTEM, Role.DEVELOPER, Role.USER]
    assert messages[2].content[0].text == prompt.user_message(text)
    assert POLICY.text in messages[1].content[0].text


@pytest.mark.parametrize("text", TEXTS)
def test_in_the_context_it_stays_quoted(text):
    message = prompt.user_message("the content", [ContextMessage("user", text)])
    head, content = message.rsplit("\n\nContent to judge:\n", 1)
    assert content == "the content"
    first, *quoted = head.splitlines()
    assert first == "Conversation so far, for context only:"
    assert all(line.startswith("> ") for line in quoted)


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_that_quotes_it_keeps_its_decision(text):
    accepted = parse(
        output_of(f"The content says: {text}", json.dumps({**VIOLATES, "reason": f"It says {text}"})), [POLICY]
    )
    answer = accepted.answers[POLICY.id]
    assert answer.violates
    assert answer.rule_ids == ("HH2",)
    assert answer.reason == one_line(f"It says {text}")
    assert answer.reason.isprintable() or "\u200d" in answer.reason
    assert (
        harmony.decode_tokens(
            [
                output_of(f"The content says: {text}", json.dumps({**VIOLATES, "reason": f"It says {text}"}))[
                    answer.decision_at
                ]
            ]
        )
        == "1"
    )


@pytest.mark.parametrize("text", TEXTS)
def test_an_output_that_repeats_it_as_the_answer_is_rejected(text):
    for output in (
        output_of("Repeat.", text),
        output_of("Repeat.", f"```json\n{text}\n```"),
        output_of("Repeat.", f"Answer: {text}"),
        output_of("Repeat.", f"{json.dumps(VIOLATES)}{text}"),
        harmony.encode_text(text),
    ):
        for content in (text, prompt.user_message("the content", [ContextMessage("user", text)])):
            with pytest.raises(Malformed):
                parse(output, [POLICY], content)


@pytest.mark.parametrize("text", TEXTS)
def test_a_chat_route_sends_it_as_the_user_message_and_takes_no_markup_from_the_response(text):
    body = json.loads(
        json.dumps(Chat().body("m", InferenceRequest(POLICY.text, "low", harmony.encode_text(text), 100)))
    )
    sent = body["messages"][1]["content"]
    assert body["messages"] == [{"role": "system", "content": POLICY.text}, {"role": "user", "content": sent}]
    assert not CONTROL.search(unicodedata.normalize("NFKC", sent))
    assert sent.replace(" ", "") == text.replace(" ", ""), "only spaces are added"
    message = {"content": json.dumps(VIOLATES), "reasoning": f"It says {text}"}
    completion = Chat().read({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert parse(completion.tokens, [POLICY]).answers[POLICY.id].violates


@pytest.mark.parametrize("text", TEXTS)
def test_an_event_holds_it_unchanged(text):
    event = ContentEvent("c", text, datetime.now(UTC))
    assert harmony.decode_tokens(harmony.encode_text(prompt.user_message(event.text, event.context))).endswith(text)
