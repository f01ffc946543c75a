"""Whether the model that judges has learned the policies that an operator is about to put before it."""

from __future__ import annotations

from collections.abc import Sequence

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Verdict, aware
from safeguard_streams.errors import ForbiddenError
from safeguard_streams.policies import small_model
from safeguard_streams.policies.document import Policy
from safeguard_streams.runtime.settings import Settings

RECENT = 20  # offsets at the end of each partition that are looked at; on Kafka, every other one may be a marker


async def unlearned(settings: Settings, policies: Sequence[Policy]) -> str:
    """A warning for people when the small model judges and has not learned one of the policies; empty otherwise.

    The workers run elsewhere: the newest verdicts name their model. The settings of this host count only where there is
    no verdict yet, or where this user may not read verdicts.
    """
    notice = small_model.warning(policies)
    if not notice:
        return ""
    return notice if small_model.is_small(await _judging_model(settings)) else ""


async def _judging_model(settings: Settings) -> str:
    """The model of the newest verdict, or else the one in the settings; empty if neither names it."""
    try:
        ends = await kafka.end_offsets(settings, topics.VERDICTS)
        after = {partition: max(0, end - RECENT) for partition, end in ends.items()}
        verdicts = [v async for _, v in kafka.read_decoded(settings, [topics.VERDICTS], Verdict, after=after)]
    except ForbiddenError:
        verdicts = []
    if verdicts:
        return max(verdicts, key=lambda verdict: aware(verdict.decided_at)).model
    # Servers have one model of their own, which these settings name only where they set it.
    return "" if settings.servers and "model" not in settings.model_fields_set else settings.model
