"""Which verdicts `safeguard verdicts tail` shows."""

import pytest

from safeguard_streams.contract.records import encode
from safeguard_streams.operations.tail import VerdictFilter
from safeguard_streams.runtime.memory_broker import StoredRecord
from tests.unit.enforcement.test_transform import verdict

ABOUT = {"author_id": "u1", "surface": " Chat", "language": "en-US"}


@pytest.mark.parametrize(
    ("wanted", "about", "shown"),
    [
        ({"author_id": "u1"}, ABOUT, True),
        ({"author_id": "U1"}, ABOUT, False),
        ({"author_id": "u1"}, {}, False),
        ({"surface": "chat"}, ABOUT, True),
        ({"surface": "clan"}, ABOUT, False),
        ({"surface": "chat"}, {}, False),
        ({"language": "en"}, ABOUT, True),
        ({"language": "EN-us"}, ABOUT, True),
        ({"language": "de"}, ABOUT, False),
        ({"language": "de"}, {}, False),
        ({"author_id": "u1", "language": "de"}, ABOUT, False),
        ({}, {}, True),
    ],
)
def test_verdicts_are_shown_by_author_surface_and_language(wanted, about, shown):
    one = verdict(**about)
    assert VerdictFilter(**wanted).accepts(StoredRecord("t", 0, 0, 0, b"k", encode(one)), one) is shown
