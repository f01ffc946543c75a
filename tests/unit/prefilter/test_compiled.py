"""Which events the policies in force cover, and what no policy knows."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from safeguard_streams.contract.records import ContentEvent
from safeguard_streams.policies.document import AppliesTo
from safeguard_streams.policies.files import load_library
from safeguard_streams.prefilter import compiled
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.compiled import CompiledPolicies
from safeguard_streams.releases.feed import PolicySet, Released


@pytest.fixture
def policies():
    policy = replace(load_library()["fraud-spam"], applies_to=AppliesTo(("chat",), ("en", "pt-BR")))
    released = Released(policy, 1)
    return CompiledPolicies(PolicySet({policy.id: released}), Classifier())


@pytest.fixture
def counted(monkeypatch):
    counts = {}

    def add(amount, attributes):
        key = (attributes["field"], attributes["value"])
        counts[key] = counts.get(key, 0) + amount

    monkeypatch.setattr(compiled, "_values", set())
    monkeypatch.setattr(type(compiled.metrics.UNKNOWN_SCOPE), "add", lambda _, *given: add(*given))
    return counts


def event(surface=None, language=None):
    return ContentEvent("c", "text", datetime.now(UTC), surface=surface, language=language)


@pytest.mark.parametrize("language", ["en", "EN-us", "pt_br", "", "und", None, "english"])
def test_an_event_is_covered_by_its_language_range(policies, counted, language):
    assert policies.covers([event("chat", language), event("CHAT", language)]).tolist() == [[True]] * 2
    assert counted == {}


def test_what_no_policy_knows_is_exempt_and_counted(policies, counted):
    events = [event("mail"), event("mail"), event("chat", "de"), event("", ""), event("chat", "pt")]
    assert policies.covers(events)[:, 0].tolist() == [False, False, False, True, False]
    assert counted == {("surface", "mail"): 2, ("language", "de"): 1, ("language", "pt"): 1}


def test_the_counted_values_are_few_and_labels(policies, counted):
    policies.covers([event(f"surface-{number}") for number in range(100)])
    policies.covers([event("some words that somebody wrote"), event("x" * 10_000), event("surface-0")])
    assert len(counted) == 21
    assert counted["surface", "surface-0"] == 2
    assert counted["surface", "other"] == 82
    assert sum(counted.values()) == 103
