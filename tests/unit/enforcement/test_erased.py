"""Actions on erased items are delivered without words about them."""

from datetime import UTC, datetime

import pytest

from safeguard_streams.contract.records import Action
from safeguard_streams.enforcement.delivery import Delivery
from safeguard_streams.enforcement.rules import Webhook

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MS = int(WHEN.timestamp() * 1000)
ACTION = Action("a1", "c1", "remove", WHEN, by="ann", why="said that", reason="It says so.")


@pytest.mark.parametrize(("content_id", "until", "words"), [("c1", MS, False), ("c1", MS - 1, True), ("c2", MS, True)])
def test_an_erased_items_action_has_no_words(content_id, until, words):
    def erased(name, timestamp):
        return name == content_id and timestamp <= until

    sent = Delivery(Webhook("http://127.0.0.1:1"), b"key", None, erased=erased)._deliverable(ACTION)
    assert (sent.reason, sent.why) == (("It says so.", "said that") if words else (None, ""))
    assert (sent.action, sent.action_id, sent.by) == ("remove", "a1", "ann")
