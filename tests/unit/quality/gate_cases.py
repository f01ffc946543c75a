"""Evidence of a policy whose violating texts have words that no classifier was trained for."""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from safeguard_streams.contract.records import PolicyRelease, PrefilterResult
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.quality.gate_evidence import Evidence, PolicyState, Usage
from safeguard_streams.quality.verdict_labels import LabeledItem, Labels

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = ("morning", "garden", "window", "bicycle", "kettle", "harbour", "pencil", "meadow")
LETTERS = list("abcdefghijklmnopqrstuvwxyz")  # of words that make each text differ from all others
HARMFUL = ("zorblat", "quixnam", "vresko", "plundig")
DOCUMENT = load_library()["fraud-spam"].document


def policy(distilled=None, **gate):
    """A policy with this gate and no other."""
    cleared = dict.fromkeys(("harms", "threshold", "terms", "patterns", "sample", "calibration", "everything"))
    return parse(with_changes(DOCUMENT, "gate", **{**cleared, **gate}), distilled=distilled)


def rows(number=160, *, violating=0.4, rate=0.5, telling=1.0, drawn=0.5):
    """Labels, in the order of their verdicts. telling: the share of violating texts whose words tell."""
    draw = np.random.default_rng(1)
    found = []
    for at in range(number):
        violates = bool(at < violating * number)
        words = list(draw.choice(PLAIN, 6))
        if violates and draw.random() < telling:
            words[2] = str(draw.choice(HARMFUL))
        words += ["".join(np.random.default_rng([at, place]).choice(LETTERS, 7)) for place in range(4)]
        was_drawn = bool(draw.random() < drawn)
        result = PrefilterResult("sample" if was_drawn else "terms", rate=rate if was_drawn else None, stratum="far")
        weight = 1 / rate if was_drawn else 1.0
        item = LabeledItem(violates, weight, f"c{at}", " ".join(words), result)
        found.append(item)
    order = draw.permutation(number).tolist()
    return [_at(found[place], minute) for minute, place in enumerate(order)]


def _at(item, minute):
    return msgspec.structs.replace(item, decided_at=WHEN + timedelta(minutes=minute))


def evidence(of, labels, *, live=None, unseen_from=None, shadow=None, texts=True, undetermined=0):
    """What is known of a policy."""
    release = PolicyRelease(of.id, of.version, 3, of.document, WHEN, "ann", distilled=of.distilled_file)
    held = PolicyRelease(of.id, "0123456789ab", 4, of.document, WHEN, "ann", shadow=0.1) if shadow else None
    state = PolicyState(of, release, held, frozenset({of.version}), unseen_from)
    usage = Usage(len(labels), 200 * len(labels), 6.4 * len(labels), WHEN, WHEN + timedelta(minutes=len(labels)))
    every = Labels(labels, of.version, undetermined=undetermined)
    return Evidence(state, Labels(labels if live is None else live, of.version), every, labels if texts else [], usage)
