"""Texts judged without Kafka, with a scripted backend."""

import asyncio
import json

import msgspec
import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import small_model
from safeguard_streams.policies.files import load_library
from safeguard_streams.runtime import settings
from safeguard_streams.workers.evaluation import offline
from safeguard_streams.workers.evaluation.offline import OfflineJudge
from safeguard_streams.workers.inference import harmony
from safeguard_streams.workers.inference.interface import Completion
from safeguard_streams.workers.inference.script import Answer

POLICY = load_library()["fraud-spam"]


class LengthBackend:
    """Judges texts with more than three words as violating; long texts take longer."""

    model = "scripted"
    max_model_tokens = 8000
    concurrency = 4
    cache_tokens = None
    revision = None
    continues = False
    healthy = True

    def __init__(self):
        self.in_flight = self.peak = 0

    async def generate(self, request):
        words = len(harmony.decode_tokens(request.user).split())
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(0.001 * words)
        self.in_flight -= 1
        violates = words > 3
        final = {
            "violation": int(violates),
            "rule_ids": [(POLICY.violating if violates else POLICY.safe)[0]],
            "confidence": "high",
            "reason": "Words.",
        }
        return Completion(Answer("Count.", json.dumps(final)).tokens, 100, 0)

    async def close(self):
        return


async def test_judgements_come_in_the_order_of_the_texts_and_progress_goes_to_the_callback(capsys):
    backend, progress = LengthBackend(), []
    judge = OfflineJudge(backend, 500, lambda *state: progress.append(state))
    texts = [" ".join(["word"] * count) for count in (9, 1, 5, 2, 7, 3, 4, 8)]
    judgements = await judge.judge(POLICY, texts, "title")
    decisions = [judgement.findings[POLICY.id].decision for judgement in judgements]
    assert decisions == ["violates" if len(text.split()) > 3 else "safe" for text in texts]
    assert progress == [("title", count, len(texts)) for count in range(len(texts) + 1)]
    assert backend.peak == backend.concurrency, "no more at once than the backend serves"
    assert capsys.readouterr() == ("", ""), "the library prints nothing"


FOREIGN = msgspec.structs.replace(POLICY, id="my-own", text=POLICY.text.replace("FS1", "FS6"))


@pytest.mark.parametrize(
    ("given", "starts"), [({"model": "small"}, 0), ({"model": "small", "servers": "http://gpu-1:8000/v1"}, 1)]
)
async def test_the_small_model_judges_no_text_that_it_has_not_learned(monkeypatch, given, starts):
    """In this process it is not even loaded; a server says only when it answers which model it has."""
    started, closed = [], []

    class Small(LengthBackend):
        model = small_model.learned().model

        async def close(self):
            closed.append(self)

    async def start(current):
        started.append(current)
        return Small()

    monkeypatch.setattr(offline, "start_backend", start)
    with pytest.raises(ConfigurationError, match="has not learned my-own"):
        async with offline.offline_judge(settings.load(**given), lambda *_: None, [POLICY, FOREIGN]):
            pytest.fail("it judged")
    assert len(started) == len(closed) == starts
    async with offline.offline_judge(settings.load(**given), lambda *_: None, [POLICY]) as judge:
        assert judge.model == Small.model
