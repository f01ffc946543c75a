"""Records of all topics, and their JSON.

Unknown fields are ignored. A missing or mistyped field raises RecordError that names it.
Text is never put into an error message.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import orjson

from safeguard_streams.errors import RecordError
from safeguard_streams.policies.vocabulary import Effort

Decision = Literal["violates", "safe", "undetermined"]
Stage = Literal["prefilter", "reasoner"]
Lane = Literal["live", "audit", "shadow", "replay"]
Change = Literal["release", "rollback", "retire", "shadow", "end-shadow"]
ReplayState = Literal["running", "paused", "cancelled", "escalated"]
Enforced = Literal["allow", "review", "label", "limit", "remove"]  # the later, the more severe
ActionState = Literal["applied", "held", "overridden"]
Stratum = Literal["near", "far"]
Confidence = Literal["low", "medium", "high"]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Headers = Sequence[tuple[str, bytes]]

# Places of a policy on moderation.policies beside its version in force, written after its id.
SHADOW = ".shadow"
REPLAYED = ".replay."  # and the version
EVERY_POLICY = "*"  # policy_id of a verdict that clears content under all policies that apply to it


class Message(msgspec.Struct, frozen=True):
    """An earlier message of the conversation that content belongs to."""

    role: str
    text: str


class ContentEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """content.events: one piece of content. created_at is RFC 3339; without an offset it is taken as UTC.

    policies limits which policies apply; empty means all that are released and concern this surface and language.
    """

    content_id: Id
    text: str
    created_at: datetime
    author_id: str | None = None
    surface: str | None = None
    language: str | None = None
    context: tuple[Message, ...] = ()
    policies: tuple[str, ...] = ()
    attributes: dict[str, Any] = {}


class PrefilterResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the prefilter decided as it did: the gate (label, terms, everything, sample, audit), its score and threshold.

    label is the harm, or for terms what was found. score and threshold are 0 to 1. rate, 0 to 1, is how much of such
    content a sample or an audit draws: each stands for 1/rate others. stratum is how near an audit's content came.
    live, of a shadow's: whether the policy's version in force judges the content too; its gate is "live" where only the
    gates of that version wanted it judged.
    """

    gate: str
    label: str | None = None
    score: float | None = None
    threshold: float | None = None
    rate: float | None = None
    stratum: Stratum | None = None
    live: bool | None = None


class Escalation(msgspec.Struct, frozen=True, omit_defaults=True):
    """content.escalations and its lanes: content to be judged under one policy, of this revision or a newer one."""

    event: ContentEvent
    policy_id: str
    policy_version: str
    policy_revision: int
    prefilter: PrefilterResult
    lane: Lane
    escalated_at: datetime
    latency: dict[str, float] = {}
    replay_id: str | None = None


class Tokens(msgspec.Struct, frozen=True):
    """Tokens spent on a verdict, all attempts together; cached ones are part of the prompt."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.cleared, moderation.verdicts, moderation.replays: a decision on content under a policy.

    A cleared verdict has stage prefilter and policy_id "*": every policy that applies to the content let it pass,
    and policy_version names the set of policies in force. score is 0 to 1, latency in ms per stage. score_map names the
    map of the policy that was applied to the score; bundle the text that several policies were judged by in one call;
    surface, of a reasoner's verdict, where the content stands. supersedes is the verdict in whose place it stands.
    """

    verdict_id: str
    content_id: str
    content_sha256: str
    policy_id: str
    policy_version: str
    decision: Decision
    stage: Stage
    lane: Lane
    model: str
    decided_at: datetime
    rule_ids: tuple[str, ...] = ()
    score: float | None = None
    score_map: str | None = None
    confidence: Confidence | None = None
    reason: str | None = None
    reasoning_effort: Effort | None = None
    prefilter: PrefilterResult | None = None
    truncated: bool = False
    cached: bool = False
    tokens: Tokens | None = None
    latency: dict[str, float] = {}
    replay_id: str | None = None
    supersedes: str | None = None
    bundle: str | None = None
    surface: str | None = None


class Rationale(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.rationales: what the model wrote, for auditors only. attempts has one entry for each output."""

    verdict_id: str
    content_id: str
    policy_id: str
    policy_version: str
    model: str
    attempts: tuple[Attempt, ...]
    created_at: datetime


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output of the model: its analysis, its final message, and why it was not accepted, if it was not."""

    analysis: str
    final: str
    refused: str | None = None


class Action(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.actions: what enforcement did about a content and for which verdict, or what a person decided about it.

    action is what the verdict leads to under its policy, previous what that was before, effective what stands on the content
    over all its policies. state: held above a cap, and not done until a person releases it; overridden where a person's
    decision stands. rule is the rule of enforcement that chose; reverses the action in whose place it stands; releases the
    held action that a person let through; alert marks the first that is held. dry_run: nobody was told of it. reason is the
    verdict's, for whoever the content is of.

    A person's decision has by (who) and why, concerns the content under all policies, and overrides all verdicts on it.
    """

    action_id: Id
    content_id: Id
    action: Enforced
    acted_at: datetime
    by: str | None = None
    why: str = ""
    state: ActionState = "applied"
    effective: Enforced | None = None
    previous: Enforced = "allow"
    verdict_id: str | None = None
    policy_id: str | None = None
    policy_version: str | None = None
    decision: Decision | None = None
    rule_ids: tuple[str, ...] = ()
    reason: str | None = None
    rule: str | None = None
    reverses: str | None = None
    releases: str | None = None
    alert: bool = False
    dry_run: bool = False

    @property
    def human(self) -> bool:
        """Whether a person decided it about the content itself."""
        return self.policy_id is None

    @property
    def changes(self) -> bool:
        """Whether anything is to be done: a person decided, or the policy's action is another than before."""
        return self.state == "applied" and (self.human or self.action != self.previous)


class PolicyRelease(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.policies: the whole document, and the distilled label that its gate names; revision counts the releases
    of this policy from 1. shadow: the share of content, 0 to 1, that is judged under it beside the version in force, for
    comparison only; None for the version in force. replay: a version that replays judge by, whatever is in force.
    """

    policy_id: str
    version: str
    revision: int
    document: str
    released_at: datetime
    released_by: str
    why: str = ""
    distilled: str | None = None
    shadow: float | None = None
    replay: bool = False

    @property
    def key(self) -> bytes:
        """Its key on moderation.policies: a policy has a place for its version in force, one for a shadow, and one for each
        version that is replayed."""
        if self.replay:
            return policy_key(self.policy_id, REPLAYED + self.version)
        return policy_key(self.policy_id, "" if self.shadow is None else SHADOW)


def policy_key(policy_id: str, place: str = "") -> bytes:
    """The key of a policy on moderation.policies: of its version in force, or of another place of it."""
    return f"{policy_id}{place}".encode()


class PolicyChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.policies.history: what was done to a policy, by whom and why. release is what came into force, or into
    the shadow; None where something ended.
    """

    action: Change
    policy_id: str
    changed_at: datetime
    changed_by: str
    why: str = ""
    release: PolicyRelease | None = None


class Replayed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy of a replay: the version to judge by, and the one that it is compared with, if there is one. Documents are
    whole.
    """

    policy_id: str
    version: str
    document: str
    distilled: str | None = None
    before_version: str | None = None
    before_document: str | None = None
    before_distilled: str | None = None


class Replay(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.replays.jobs: content of the past, judged again. Everything that a runner needs is in it.

    starts and ends are offsets of content.events by partition, the end excluded; both are fixed when it is made. sample
    and noise are shares, 0 to 1: of the content, and of what is judged that the version before judges again. surfaces,
    languages and decisions choose content; empty means all. decisions are those of the versions before.
    """

    replay_id: str
    policies: tuple[Replayed, ...]
    starts: dict[str, int]
    ends: dict[str, int]
    state: ReplayState
    created_at: datetime
    created_by: str
    why: str = ""
    sample: float = 1.0
    noise: float = 0.1
    surfaces: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def total(self) -> int:
        """Offsets between the starts and the ends."""
        return sum(end - self.starts[partition] for partition, end in self.ends.items())


class Origin(msgspec.Struct, frozen=True):
    """Where a record came from; timestamp in ms since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.dead-letters: the original bytes in base64, where they came from, why, and how often they were tried."""

    origin: Origin
    stage: str
    error: str
    reason: str
    attempts: int
    failed_at: datetime
    field: str | None = None
    key: str | None = None
    value: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def original(self) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
        """Key, value and headers as they were."""
        return (
            None if self.key is None else base64.b64decode(self.key),
            None if self.value is None else base64.b64decode(self.value),
            [(name, base64.b64decode(value)) for name, value in self.headers],
        )


T = TypeVar("T", bound=msgspec.Struct)
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_encoder = msgspec.json.Encoder()


def decode(value: bytes | None, kind: type[T]) -> T:
    """Raises RecordError with the path of the field at fault, or `record` when it is no JSON object at all."""
    if value is None:
        raise RecordError("record", "is empty; send a JSON object")
    try:
        return msgspec.convert(orjson.loads(value), kind)
    except orjson.JSONDecodeError as error:
        # The library's message quotes no content beyond one character of it.
        raise RecordError("record", f"is not JSON in UTF-8: {error.msg} at byte {error.pos}") from None
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except RecursionError:
        raise RecordError("record", "is nested too deeply") from None


def _field_error(message: str) -> RecordError:
    path = _PATH.search(message)
    where = path[1] if path else ""
    problem = message[: path.start()] if path else message
    missing = _MISSING.search(problem)
    if missing:
        return RecordError(f"{where}.{missing[1]}".lstrip("."), "is missing")
    return RecordError(where or "record", problem[0].lower() + problem[1:])


def encode(record: msgspec.Struct) -> bytes:
    """JSON in UTF-8; fields at their defaults are left out."""
    return _encoder.encode(record)


def schema_header(kind: type[msgspec.Struct]) -> tuple[str, bytes]:
    """The header that names a record's kind and the version of its schema."""
    return ("schema", f"{kind.__name__}/1".encode())


def carried(headers: Headers) -> list[tuple[str, bytes]]:
    """The headers that follow content through the pipeline: W3C trace context."""
    return [(name, value) for name, value in headers if name in {"traceparent", "tracestate"}]


def content_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def verdict_id(*parts: str) -> str:
    """32 hex digits; equal for equal content, policy version, model, effort, lane and replay."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def now() -> datetime:
    return datetime.now(UTC)


def milliseconds_since(start: datetime, end: datetime | None = None) -> float:
    """Elapsed ms, at least 0; a start without an offset is taken as UTC."""
    if start.tzinfo is None:
        start = start.replace(tzinfo=UTC)
    return round(max(0.0, ((end or now()) - start).total_seconds() * 1000), 1)
