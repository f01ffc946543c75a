"""What the verdicts say about a content item under all policies: a fold that consumers keep in their own store.

    item = stored.get(verdict.content_id) or ItemVerdicts(verdict.content_id)
    item = item.after(verdict)
    remove(item.content_id) if item.violated else restore(item.content_id)

Each policy judges an item on its own. That one of them finds it safe therefore says nothing about the others.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from safeguard_streams.contract.records import Decision, Verdict, came_later, newest_place


class PolicyVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict that stands on an item under one policy."""

    verdict_id: Annotated[str, Meta(description="its id")]
    decision: Annotated[Decision, Meta(description="violates, safe, or undetermined if the item could not be judged")]
    content_sha256: Annotated[str, Meta(description="SHA-256 of the text that was judged, as hex")]
    origin: Annotated[str | None, Meta(description="where the event of that text stands on content.events")] = None


class ItemVerdicts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdicts that stand on one content item, by policy. `encode` and `decode` turn it into JSON and back."""

    content_id: Annotated[str, Meta(description="the item")]
    policies: Annotated[dict[str, PolicyVerdict], Meta(description="the verdicts by policy id")] = {}
    content_sha256: Annotated[str | None, Meta(description="SHA-256 of the newest text that was judged")] = None
    origin: Annotated[str | None, Meta(description="where the event of that text stands on content.events")] = None

    @property
    def violated(self) -> tuple[str, ...]:
        """The policies that the item violates; empty if it may be shown."""
        return tuple(sorted(name for name, one in self.policies.items() if one.decision == "violates"))

    def after(self, verdict: Verdict) -> ItemVerdicts:
        """The item after one more verdict of moderation.verdicts or moderation.cleared, as enforcement folds them.

        - The verdict replaces that of its own policy and of no other. An undetermined one replaces no violation.
        - A verdict on a text that the item no longer has changes nothing.
        - A policy whose gate passed a newer text no longer has a verdict on the item. A cleared verdict says so of all
          policies.
        """
        if self._is_earlier(verdict):
            return self
        policies = {name: one for name, one in self.policies.items() if not _ends(one, verdict.passed(name), verdict)}
        if not verdict.clears and not self._is_kept(verdict):
            policies[verdict.policy_id] = PolicyVerdict(
                verdict.verdict_id, verdict.decision, verdict.content_sha256, verdict.origin
            )
        same = verdict.content_sha256 == self.content_sha256
        newest = newest_place(verdict.origin, self.origin, same_text=same)
        return ItemVerdicts(self.content_id, policies, verdict.content_sha256, newest)

    def _is_earlier(self, verdict: Verdict) -> bool:
        """Whether a verdict is about a text before the newest one. What was cleared must be known to be newer."""
        if self.content_sha256 in (None, verdict.content_sha256):
            return False
        later = came_later(verdict.origin, self.origin)
        return not later if verdict.clears else later is False

    def _is_kept(self, verdict: Verdict) -> bool:
        """Whether a violation outlasts a verdict, because that is undetermined."""
        known = self.policies.get(verdict.policy_id)
        return verdict.decision == "undetermined" and known is not None and known.decision == "violates"


def _ends(known: PolicyVerdict, passed: bool, verdict: Verdict) -> bool:
    """Whether a verdict's event ends another policy's verdict: its gate passed it, and its text is a newer one."""
    is_newer = bool(came_later(verdict.origin, known.origin)) and known.content_sha256 != verdict.content_sha256
    return passed and is_newer
