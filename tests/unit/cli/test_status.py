"""What `safeguard status` shows of what it read."""

from safeguard_streams.cli import status
from safeguard_streams.operations.cluster import QUEUES, Group, Lag


def test_a_webhook_that_was_never_used_does_not_fall_behind():
    """Where enforcement has no webhook, no action waits for it."""
    live = Lag("reasoner", "live", "content.escalations", 3, 1.0, started=False)
    used = Lag("enforcement", "webhook", "moderation.actions", 8, 17.0, started=True)
    unused = Lag("enforcement", "webhook", "moderation.actions", 8, 17.0, started=False)
    assert status._relevant([live, used]) == [live, used]
    assert status._relevant([live, unused]) == [live]


def test_authors_are_shown_where_strikes_are_given_or_a_ledger_runs():
    """Without rules about authors, nobody runs a ledger and nothing waits for one."""
    none = Lag("authors", "strikes", "moderation.strikes", 0, None, started=False)
    unread = Lag("authors", "strikes", "moderation.strikes", 4, 9.0, started=False)
    unsent = Lag("authors", "author actions", "moderation.author-actions", 4, 9.0, started=False)
    uncounted = Lag("authors", "events for rates", "content.events", 4, 9.0, started=False)
    assert status._relevant([none, unread, unsent, uncounted]) == [unread]
    groups = {queue.group: Group(queue.group, "Stable", ["h"]) for queue in QUEUES}
    assert status._processes(groups) == "1 prefilter, 1 reasoner, 1 enforcement, 1 authors"


def test_without_a_policy_the_command_to_release_one_is_named():
    assert status._policies([]).endswith("run: safeguard policy release --all-new")


def test_lanes_with_other_workers_than_live_content_has_are_named():
    groups = {queue.group: Group(queue.group, "Stable", ["h"]) for queue in QUEUES}
    groups["authors"] = Group("authors", "Empty", [])
    assert status._processes(groups) == "1 prefilter, 1 reasoner, 1 enforcement"
    groups["reasoner-replay"] = Group("reasoner-replay", "Stable", ["h"] * 3)
    groups["reasoner-shadow"] = Group("reasoner-shadow", "Empty", [])
    assert status._processes(groups).endswith("1 enforcement, none for shadow, 3 for replay")
