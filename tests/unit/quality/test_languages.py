"""Figures by language: what an event says counts, then what a text looks like, and a doubt is no language."""

import asyncio
import json
from datetime import UTC, datetime

import msgspec
import pytest
from typer.testing import CliRunner

from safeguard_streams.cli import prefilter
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    ErasureRequest,
    Escalation,
    PrefilterResult,
    Verdict,
    content_sha256,
    encode,
)
from safeguard_streams.policies.document import primary_language
from safeguard_streams.policies.files import load_library
from safeguard_streams.quality import gate_recall, verdict_labels
from safeguard_streams.quality.languages import detected, language_of
from safeguard_streams.runtime.memory_broker import StoredRecord
from safeguard_streams.runtime.settings import Settings

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MS = int(WHEN.timestamp() * 1000)
GERMAN = "Ich habe gestern mit meiner Schwester einen Kuchen gebacken."
ENGLISH = "Yesterday my sister and I were baking a cake together."


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("de", "de"),
        ("pt-BR", "pt"),
        ("zh_Hant_TW", "zh"),
        (" EN ", "en"),
        (None, None),
        ("", None),
        ("und", None),
        ("zxx", None),
        ("unknown", None),
        ("english", None),
        ("x-klingon", None),
    ],
)
def test_a_tag_is_a_language_or_none(tag, language):
    assert primary_language(tag) == language


def test_the_event_is_believed_and_a_text_without_a_tag_is_detected():
    assert language_of(GERMAN, "fr-CA") == "fr"
    assert language_of(GERMAN) == "de"
    assert language_of(ENGLISH, "und") == "en"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ayer horneé un pastel con mi hermana y quedó muy rico.", "es"),
        ("Hier, ma sœur et moi avons fait un gâteau au chocolat.", "fr"),
        ("昨天我和姐姐一起做了一个蛋糕。", "zh"),
        ("昨日、姉と一緒にケーキを焼きました。", "ja"),
        ("어제 언니와 함께 케이크를 구웠어요.", "ko"),
        ("Вчера мы с сестрой испекли вкусный пирог.", "ru"),
        ("أمس خبزت كعكة مع أختي وكانت لذيذة جدا.", "ar"),
        ("เมื่อวานฉันอบเค้กกับพี่สาว", "th"),
    ],
)
def test_a_sentence_has_its_language(text, language):
    assert detected(text) == language


@pytest.mark.parametrize("text", ["", " ", "12345", "👍👍", "\ud800", "lol", "ok", "aaaaaaaaaaaa" * 100_000])
def test_what_is_no_sentence_has_no_language(text):
    assert detected(text) == "und"


def judged(number, decision, language=None, text=GERMAN, gate="label"):
    text = f"{text} {number}"
    result = PrefilterResult(gate, "hate", 0.4, 0.5, 0.5 if gate == "audit" else None, fingerprint="f")
    digest, lane = content_sha256(text), "audit" if gate == "audit" else "live"
    verdict = Verdict(
        f"v{number}", f"c{number}", digest, "hate", "1", decision, "reasoner", lane, "m", WHEN, prefilter=result
    )
    event = ContentEvent(f"c{number}", text, WHEN, language=language)
    return verdict, Escalation(event, "hate", "1", 1, result, lane, WHEN)


@pytest.fixture
def verdicts(monkeypatch):
    """Verdicts in German by their tag, in German and English by detection, and one on an erased item."""
    pairs = [judged(n, "violates", language="de-AT", text=ENGLISH) for n in range(4)]  # the tag counts
    pairs += [judged(n, "violates", text=GERMAN, gate="audit") for n in range(4, 6)]
    pairs += [judged(n, "violates", text=ENGLISH) for n in range(6, 9)]
    pairs += [judged(9, "violates", text=ENGLISH), judged(10, "safe", text=ENGLISH, gate="audit")]

    async def read_decoded(_settings, names, _kind, **_):
        for verdict, escalation in pairs:
            if topics.VERDICTS in names:
                yield StoredRecord(names[0], 0, 0, MS, None, b""), verdict
            else:
                yield StoredRecord(names[0], 0, 0, MS, None, b""), escalation
                yield StoredRecord(names[0], 0, 1, MS, None, b""), escalation

    async def read(erasures, _settings):
        erasures.take(StoredRecord(topics.ERASURES, 0, 0, MS, b"c9", encode(ErasureRequest("c9", WHEN, "ann"))))

    async def wait_for_broker(_settings, **_):
        pass

    monkeypatch.setattr(verdict_labels.kafka, "read_decoded", read_decoded)
    monkeypatch.setattr(verdict_labels.kafka, "wait_for_broker", wait_for_broker)
    monkeypatch.setattr(verdict_labels.ErasureList, "read", read)


def test_recall_by_language_counts_each_item_once_and_reads_no_erased_text(verdicts):
    found = asyncio.run(gate_recall.by_language(Settings(), None, None, language_of))["hate"]
    assert list(found) == ["de", "en", "und"], "most items first"
    assert found["de"].caught == 4
    assert found["de"].missed == pytest.approx(4), "two audited items at a rate of one half"
    assert found["de"].recall == pytest.approx(0.5)
    assert (found["en"].caught, found["en"].missed) == (3, 0)
    assert (found["und"].caught, found["und"].recall) == (1, None)


def test_the_command_shows_each_language_and_prints_the_same_as_json(verdicts):
    shown = CliRunner().invoke(prefilter.app, ["recall", "--by-language"]).output
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert {"hate:", "language", "de", "en", "und", "und:"} <= set(rows)
    assert "0.500" in rows["de"]
    printed = json.loads(CliRunner().invoke(prefilter.app, ["recall", "hate", "--by-language", "--json"]).output)
    assert printed["hate"]["de"]["recall"] == pytest.approx(0.5)
    assert list(printed["hate"]) == ["de", "en", "und"]


def test_a_detected_language_exempts_no_text():
    policy = load_library()["hate-harassment"]
    scope = msgspec.structs.replace(policy.applies_to, languages=("de",))
    german_only = msgspec.structs.replace(policy, applies_to=scope)
    assert detected(ENGLISH) == "en"
    assert all(german_only.applies(None, tag) for tag in (None, "", "und", "de-CH"))
    assert not german_only.applies(None, "en"), "only what the event itself says counts"
