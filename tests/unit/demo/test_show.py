"""What the demo prints: every line fits, texts cannot draw, and what it proposes exists."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from rich.cells import cell_len

from safeguard_streams.cli import app
from safeguard_streams.contract.records import Action, Attempt, PrefilterResult, Rationale, Verdict
from safeguard_streams.demo import examples, show
from safeguard_streams.demo.broker import Broker
from safeguard_streams.demo.faults import Killed
from safeguard_streams.demo.labels import LabelFigures
from safeguard_streams.demo.tally import Tally
from safeguard_streams.policies.files import load_library
from safeguard_streams.quality.proportions import proportion
from safeguard_streams.runtime import settings

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = ["a short text", "word " * 200, "字" * 300, "x" * 500, "\x1b[31mred\u202ereversed\x00", ""]


def one_example(text):
    event = examples.LabelledEvent("demo-0001-abc", text, "a set", "fraud-spam", violates=True)
    verdict = Verdict(
        "v", event.content_id, "s", "fraud-spam", "1", "violates", "reasoner", "live", "m", NOW, ("FS2", "FS3"), 0.99,
        reason=text, prefilter=PrefilterResult("label", "fraud_spam", 0.5, 0.0007),
    )  # fmt: skip
    rationale = Rationale("v", event.content_id, "fraud-spam", "1", "m", (Attempt(text, "{}"),), NOW)
    action = Action("a", event.content_id, "remove", NOW, rule="clear violations")
    return examples.Example("A lure, found", event, verdict, rationale, action)


@pytest.mark.parametrize("text", TEXTS)
def test_an_example_fits_and_shows_no_control_character(text):
    lines = show.rendered(show.example("a", one_example(text), load_library())).split("\n")
    assert max(map(cell_len, lines)) <= 80
    assert all(line.isprintable() and line == line.rstrip() for line in lines)
    whole = "\n".join(lines)
    for part in ("demo-0001-abc", "fraud_spam 0.50, threshold 0.0007", "FS2: Lures", "FS3: ", "remove, by the rule"):
        assert part in whole


def test_the_figures_fit_with_the_longest_policy_id():
    figures = LabelFigures(proportion(374, 374), proportion(187, 374), proportion(990, 999), 3, 4)
    lines = show.rendered(show.by_label(dict.fromkeys(load_library(), figures))).split("\n")
    assert max(map(len, lines)) <= 80
    assert "biomedical-misinformation" in "\n".join(lines)
    text = " ".join(" ".join(lines).split())
    assert "374 of 374 100% 187 of 374 50% 990 of 999 99%" in text


def test_the_table_leads_with_what_was_right_and_counts_what_was_wrong():
    figures = LabelFigures(proportion(8, 10), proportion(6, 8), proportion(95, 100), 1, 1)
    text = " ".join(show.rendered(show.by_label({"spam": figures, "hate": figures})).split())
    assert text.startswith("Right: 80% of the violating texts were found, 75% of these under the rule")
    assert "95% of the harmless ones were left alone" in text
    assert "all 16 of 20 80% 12 of 16 75% 190 of 200 95%" in text
    assert "2 violating texts were cleared by the prefilter, 2 were called safe" in text
    assert "and 10 verdicts flagged a harmless text" in text


@pytest.mark.parametrize("transactional", [True, False])
def test_the_count_says_what_it_proves_on_its_broker(transactional):
    broker = Broker("the broker", settings.load(), transactional)
    killed = Killed(("prefilter", "reasoner"), 100, 60, 41.2)
    text = " ".join(show.rendered(show.exactly_once(Tally(), broker, killed)).split())
    assert "prefilter and reasoner, with 40 events on their way; both ready again after 41 s" in text
    assert ("exactly once" in text) is transactional
    assert ("only at least once" in text) is not transactional


def test_every_command_and_every_page_that_the_demo_names_exists():
    commands = [command.format(content_id="x") for command, _ in [*show.NEXT, *show.LOOK_AROUND]]
    for command in commands:
        if command.startswith("safeguard "):
            found, words = typer.main.get_command(app), command.split()[1:]
            while words and hasattr(found, "commands"):
                found, words = found.commands[words[0]], words[1:]
            options = {name for parameter in found.params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, command
        else:
            assert (ROOT / command).is_file(), command


def test_each_example_has_another_text_and_prefers_the_tame_ones(monkeypatch):
    monkeypatch.setattr(examples, "ROLES", (examples.ROLES[0]._replace(prefer=("0684",)),))
    events = {
        name: examples.LabelledEvent(name, text, "a set", "fraud-spam", violates=True)
        for name, text in {"demo-0684-x": "z" * 50, "demo-9999-x": "y" * 45, "other": "x" * 41}.items()
    }
    verdicts = [
        Verdict(name, name, "s", "fraud-spam", "1", "violates", "reasoner", "live", "m", NOW) for name in events
    ]
    (chosen,) = examples.choose(events, verdicts, {}, {})
    assert chosen.event.content_id == "demo-0684-x"
    del events["demo-0684-x"]
    (chosen,) = examples.choose(events, verdicts, {}, {})
    assert chosen.event.content_id == "other"
    assert (chosen.rationale, chosen.action) == (None, None)


def test_an_example_of_a_right_answer_has_the_right_rule():
    event = examples.LabelledEvent("a", "a text", "a set", "fraud-spam", violates=True, rule="FS2")
    for rule, shown in (("FS2", 1), ("FS3", 0)):
        verdict = Verdict("v", "a", "s", "fraud-spam", "1", "violates", "reasoner", "live", "m", NOW, (rule,))
        assert len(examples.choose({"a": event}, [verdict], {}, {})) == shown


def test_at_most_one_example_is_a_mistake():
    wrong = [role for role in examples.ROLES if role.decision != ("violates" if role.label else "safe")]
    assert len(wrong) == 1
    assert wrong[0] == examples.ROLES[-1]
    assert "mistake" in wrong[0].title


def test_the_preferred_texts_are_among_the_demos_and_labelled_for_their_role():
    from safeguard_streams.demo import labels

    lines = (ROOT / "streams/demo/events.jsonl").read_bytes().splitlines()
    events = {event.content_id: event for event in labels.read(lines).values()}
    for role in examples.ROLES:
        assert role.prefer
        for number in role.prefer:
            assert events[f"demo-{number}"].label_under(role.policy_id) is role.label, number
