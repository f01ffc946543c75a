"""The small model's record of what it learned, and what it says about other texts."""

import hashlib
import importlib.resources

import pytest

from safeguard_streams.demo.second_act import LENIENT
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import small_model
from safeguard_streams.policies.files import load, load_library
from safeguard_streams.policies.parsing import parse

LIBRARY = load_library()
NAME = small_model.learned().model


def edited(policy, **changes):
    """A policy with changes in its document: of the text, the id or the front matter."""
    document = policy.document
    for old, new in changes.items():
        assert old in document
        document = document.replace(old, new)
    return parse(document, "edited")


def test_it_has_learned_the_policies_of_the_package_and_the_lenient_one_to_the_letter():
    """After a change of one of these texts, retrain the model: safeguard reason train-small."""
    assert small_model.unlearned([*LIBRARY.values(), load(LENIENT)]) == []


def test_the_record_is_of_the_shipped_model():
    model = importlib.resources.files("safeguard_streams") / "workers/small/model.safetensors"
    assert f"small-gpt-oss-{hashlib.sha256(model.read_bytes()).hexdigest()[:12]}" == NAME


def test_an_edit_of_the_text_is_not_learned_and_one_of_the_front_matter_is():
    policy = LIBRARY["fraud-spam"]
    assert small_model.unlearned([edited(policy, FS1="FS6")]) == ["fraud-spam (an edited text)"]
    other = edited(policy, **{"id: fraud-spam": "id: my-own"})
    assert small_model.unlearned([other]) == [], "the text alone is what the model reads"
    foreign = edited(policy, **{"id: fraud-spam": "id: my-own", "FS1": "FS6"})
    assert small_model.unlearned([policy, foreign]) == ["my-own (not a policy of the package)"]


@pytest.mark.parametrize("name", ["small", NAME, f"/models/{NAME}", "small-gpt-oss-0123456789ab"])
def test_the_small_model_is_refused_a_text_that_it_has_not_learned(name):
    foreign = edited(LIBRARY["fraud-spam"], **{"id: fraud-spam": "id: my-own", "FS1": "FS6"})
    with pytest.raises(ConfigurationError, match=r"has not learned my-own .*safeguard model check"):
        small_model.require_learned(name, [LIBRARY["self-harm"], foreign])
    small_model.require_learned(name, LIBRARY.values())
    assert "my-own" in small_model.warning([foreign])
    assert small_model.warning(LIBRARY.values()) == ""


@pytest.mark.parametrize("name", ["openai/gpt-oss-safeguard-20b", "scripted", "smaller", "/models/small-one"])
def test_other_models_read_any_text(name):
    foreign = edited(LIBRARY["fraud-spam"], FS1="FS6")
    small_model.require_learned(name, [foreign])
