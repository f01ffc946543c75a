"""`policy release` and `replay start` warn while the small model judges, and only then."""

import asyncio

import pytest
from typer.testing import CliRunner

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.cli import app
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, encode, now
from safeguard_streams.policies.files import load_library
from tests.conftest import own_topics

SMALL, REAL = "small-gpt-oss-0123456789ab", "openai/gpt-oss-safeguard-20b"
NOTICE = "warning: the small model has not learned my-own (not a policy of the package)"


@pytest.fixture
def current(embedded_address):
    made = own_topics(embedded_address)
    asyncio.run(kafka_bus.create_topics(made))
    return made


@pytest.fixture
def on_both(broker):
    asyncio.run(kafka_bus.create_topics(broker))
    return broker


@pytest.fixture
def own(tmp_path):
    """The path of a policy that the small model has not learned."""
    policy = tmp_path / "policy.md"
    document = load_library()["fraud-spam"].document
    policy.write_text(document.replace("id: fraud-spam", "id: my-own").replace("FS1", "FS6"), encoding="utf-8")
    return str(policy)


def said(current, *words, status=0, **more):
    """Standard error of a command that ends with this status. more: settings."""
    environment = {"SAFEGUARD_BOOTSTRAP": current.bootstrap, "SAFEGUARD_PREFIX": current.prefix, **more}
    result = CliRunner(env=environment).invoke(app, words)
    assert result.exit_code == status, (result.output, result.exception)
    return result.stderr


async def judge_with(current, *models):
    """Write a verdict by each model, the last one the newest."""
    async with kafka_bus.producer(current) as producer:
        for number, model in enumerate(models):
            verdict = Verdict("v", f"c{number}", "s", "p", "1", "safe", "reasoner", "live", model, now())
            await producer.send_and_wait(current.prefix + topics.VERDICTS, encode(verdict), key=f"{number}".encode())


@pytest.mark.parametrize(
    ("models", "warned"), [((), True), ((REAL, SMALL), True), ((SMALL, REAL), False), ((SMALL, "scripted"), False)]
)
def test_a_release_warns_as_long_as_the_small_model_judges(on_both, own, models, warned):
    asyncio.run(judge_with(on_both, *models))
    assert (NOTICE in said(on_both, "policy", "release", own)) is warned
    assert "not learned" not in said(on_both, "policy", "release", "fraud-spam")


def test_a_replay_warns_as_long_as_the_small_model_judges(current, own):
    """It does so before it looks for events, of which there are none here."""
    assert NOTICE in said(current, "replay", "start", own, status=1)
    asyncio.run(judge_with(current, REAL))
    assert "not learned" not in said(current, "replay", "start", own, status=1)


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({}, True),
        ({"SAFEGUARD_SERVERS": "http://gpu-1:8000/v1"}, False),
        ({"SAFEGUARD_SERVERS": "http://gpu-1:8000/v1", "SAFEGUARD_MODEL": SMALL}, True),
        ({"SAFEGUARD_MODEL": REAL}, False),
    ],
)
def test_before_the_first_verdict_the_settings_tell(current, own, more, warned):
    assert (NOTICE in said(current, "policy", "release", own, **more)) is warned
