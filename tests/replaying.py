"""A small deployment whose content can be replayed: a policy in force, its successor in shadow, events and verdicts."""

from datetime import UTC, datetime

from safeguard_streams.bus import kafka as kafka_bus
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import (
    ContentEvent,
    Escalation,
    PrefilterResult,
    Tokens,
    Verdict,
    content_sha256,
    encode,
    now,
    verdict_id,
)
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import operator
from safeguard_streams.releases.operator import ChangedBy

NAME = "fraud-spam"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
EVENTS = 12  # of which the gate lets every third to the model, in each version
TEXTS = ("a prize that both gates know", "a gift that the new gate knows", "nothing that any gate knows")


def version(word, *terms):
    """The fraud policy with a changed text, and a gate of terms alone."""
    nothing = dict.fromkeys(("harms", "general", "threshold", "sample", "calibration"))
    document = with_changes(load_library()[NAME].document, "gate", **{**nothing, "terms": list(terms)})
    return parse(document.replace("Judge what", f"{word} what"))


OLD, NEW = version("Judge", "prize"), version("Weigh", "prize", "gift")


def text_of(number):
    return f"{TEXTS[number % 3]}, {number}"


async def deploy(current):
    """Release both versions, publish the events, and judge live what the gate in force lets to the model: all safe."""
    await kafka_bus.create_topics(current)
    await operator.release(current, [OLD], ChangedBy("first", "mia"))
    await operator.release(current, [NEW], ChangedBy("stricter about gifts", "mia"), shadow=0.1)
    async with kafka_bus.producer(current) as producer:
        for number in range(EVENTS):
            name, text = f"post-{number}", text_of(number)
            event = ContentEvent(name, text, WHEN, "author-1", "comment", "en")
            at = await producer.send_and_wait(current.prefix + topics.EVENTS, key=name.encode(), value=encode(event))
            if number % 3 == 0:
                said = judged(name, text, OLD.version, "safe", "live", origin=f"{at.partition}@{at.offset}")
                await producer.send_and_wait(
                    current.prefix + topics.VERDICTS, key=name.encode(), value=encode(said), partition=at.partition
                )


def judged(name, text, policy_version, decision, lane, **more):
    rule = OLD.violating[0] if decision == "violates" else OLD.safe[0]
    live = more.pop("live", lane == "live")
    return Verdict(
        verdict_id(name, policy_version, lane, more.get("replay_id") or ""),
        name,
        content_sha256(text),
        NAME,
        policy_version,
        decision,
        "reasoner",
        lane,
        "m",
        now(),
        (rule,),
        reason="offers a gift that is none" if decision == "violates" else "is only rude",
        prefilter=PrefilterResult("terms", "prize", live=live),
        tokens=Tokens(900, 0, 40),
        latency={"reasoner": 1500.0},
        **more,
    )


async def judge(current, replay_id):
    """Judge what a replay escalated: the new version finds that all of it violates."""
    async with kafka_bus.producer(current) as producer:
        async for record, one in kafka_bus.read_decoded(current, [topics.ESCALATIONS_REPLAY], Escalation):
            if one.replay_id != replay_id:
                continue
            decision = "violates" if one.policy_version == NEW.version else "safe"
            more = {"replay_id": replay_id, "origin": one.origin, "live": one.prefilter.live}
            said = judged(one.event.content_id, one.event.text, one.policy_version, decision, "replay", **more)
            await producer.send_and_wait(
                current.prefix + topics.REPLAYS, key=record.key, value=encode(said), partition=record.partition
            )


async def verdicts(current):
    """All live verdicts, in the order of their topic."""
    return [one async for _, one in kafka_bus.read_decoded(current, [topics.VERDICTS], Verdict)]
