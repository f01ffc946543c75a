"""The records of all topics, and their JSON.

Unknown fields are ignored. A missing or mistyped field raises a RecordError that names it.
Error messages never contain text of the record.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
import orjson
from msgspec import Meta

from safeguard_streams.contract import limits
from safeguard_streams.errors import RecordError
from safeguard_streams.policies.vocabulary import Effort, Severity

Decision = Literal["violates", "safe", "undetermined"]
Stage = Literal["prefilter", "reasoner"]
Lane = Literal["live", "audit", "shadow", "replay"]
VerdictLane = Literal["live", "audit", "shadow", "replay", "canary"]
Change = Literal["release", "rollback", "retire", "shadow", "end-shadow"]
ReplayState = Literal["running", "paused", "cancelled", "escalated"]
Direction = Literal["promote", "revert"]
HandledState = Literal["requeued", "discarded"]
Enforced = Literal["allow", "review", "label", "limit", "remove"]  # in order of severity
ActionState = Literal["applied", "held", "overridden"]
Stratum = Literal["near", "far"]
Confidence = Literal["low", "medium", "high"]
AnswerBy = Literal["first", "constrained"]
Reporter = Literal["user", "trusted_flagger", "authority"]
StatementState = Literal["issued", "withdrawn"]
Automation = Literal["fully", "partially", "not"]
Appellant = Literal["author", "notifier"]
AppealState = Literal["open", "upheld", "overturned", "moot", "refused"]
AppealOutcome = Literal["upheld", "overturned", "moot", "refused"]
AuthorEnforced = Literal["none", "warn", "review", "limit", "suspend"]  # in order of severity
StrikeState = Literal["given", "taken-back", "forgiven", "aged", "decided", "undecided", "forgotten"]
Id = Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARACTERS)]
Label = Annotated[str, Meta(max_length=limits.LABEL_CHARACTERS)]
Part = Literal["value", "headers", "key"]
# Kafka allows null values and names of any bytes. Bytes of a name that are not UTF-8 are kept as surrogates (PEP 383).
Headers = Sequence[tuple[str, bytes | None]]
_CARRIED = {
    "traceparent": limits.TRACEPARENT_BYTES,
    "tracestate": limits.TRACESTATE_BYTES,
}  # W3C Trace Context: bytes of each at most

# Suffixes of a policy's keys on moderation.policies, beside the key of its version in force.
SHADOW = ".shadow"
REPLAYED = ".replay."  # followed by the version
EVERY_POLICY = "*"  # policy_id of a verdict that clears an item under all policies that apply to it


Field = TypeVar("Field")
if TYPE_CHECKING:
    OrNull = Annotated[Field, "on the wire also null, which is read as the field's default"]
else:
    OrNull = Field | None


class Message(msgspec.Struct, frozen=True):
    """An earlier message of the conversation that an item belongs to."""

    role: Annotated[OrNull[str], Meta(description="who wrote the message, such as user or assistant")]
    text: Annotated[OrNull[str], Meta(description="the message in full")]

    def __post_init__(self) -> None:
        if None in (self.role, self.text):
            _replace_null(self, "role", "unknown")
            _replace_null(self, "text", "")


class ContentEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """content.events: one content item, as its producer sends it. A field that is null is as if it were absent."""

    content_id: Annotated[Id, Meta(description="the producer's id of the item; also the record's key")]
    text: Annotated[str, Meta(description="the text to moderate, in full")]
    created_at: Annotated[
        datetime, Meta(description="when the item was created, RFC 3339; a time without an offset is taken as UTC")
    ]
    author_id: Annotated[Label | None, Meta(description="the producer's id of the author")] = None
    surface: Annotated[Label | None, Meta(description="where the item appears, such as comment or profile")] = None
    language: Annotated[Label | None, Meta(description="language of the text, as a BCP 47 tag")] = None
    context: Annotated[
        OrNull[tuple[Message, ...]], Meta(description="earlier messages of the conversation, oldest first")
    ] = ()
    policies: Annotated[
        OrNull[Annotated[tuple[str, ...], Meta(max_length=limits.EVENT_POLICIES)]],
        Meta(description="ids of the only policies to apply; empty for all released policies that cover the item"),
    ] = ()
    attributes: Annotated[
        OrNull[dict[str, Any]], Meta(description="further data of the producer, which no stage reads")
    ] = {}
    author_created_at: Annotated[
        datetime | None,
        Meta(description="when the author's account was created; a time without an offset is taken as UTC"),
    ] = None

    def __post_init__(self) -> None:
        if None in (self.context, self.policies, self.attributes):
            _replace_null(self, "context", ())
            _replace_null(self, "policies", ())
            _replace_null(self, "attributes", {})


def _replace_null(record: msgspec.Struct, field: str, default: object) -> None:
    if getattr(record, field) is None:
        msgspec.structs.force_setattr(record, field, default)


class GoldenScore(msgspec.Struct, frozen=True):
    """What a policy's golden gate, which runs in shadow, says of an item that the present gate decided about."""

    name: Annotated[str, Meta(description="which golden gate scored: only scores with the same name compare")]
    score: Annotated[float, Meta(description="the golden gate's score, 0 to 1")]
    threshold: Annotated[float, Meta(description="score at which the golden gate would escalate, 0 to 1")]
    rate: Annotated[
        float,
        Meta(description="share of such items that get this score, 0 to 1: each stands for 1/rate items, drawn by id"),
    ] = 1.0


class PrefilterResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the prefilter escalated or cleared an item."""

    gate: Annotated[
        str,
        Meta(
            description="label, golden, terms, everything, sample, audit, report where somebody reported the item, "
            "appeal where it is judged again with an appeal's words, or live if only the version in force escalates"
        ),
    ]
    label: Annotated[
        str | None, Meta(description="the harm that scored highest, or the term or pattern that matched")
    ] = None
    score: Annotated[float | None, Meta(description="harm probability from the gate's classifier, 0 to 1")] = None
    threshold: Annotated[float | None, Meta(description="minimum score at which the gate escalates, 0 to 1")] = None
    rate: Annotated[
        float | None,
        Meta(
            description="share of such items that sample and audit draw together, 0 to 1: each drawn item stands for "
            "1/rate items; for a shadow, its share of content"
        ),
    ] = None
    stratum: Annotated[
        Stratum | None, Meta(description="how close a sampled or audited item came to the threshold")
    ] = None
    live: Annotated[
        bool | None,
        Meta(description="for a shadow or a report: whether the gates of the version in force escalate it too"),
    ] = None
    fingerprint: Annotated[
        str | None,
        Meta(description="identifies the gate that scored: only scores with the same fingerprint compare"),
    ] = None
    truncated: Annotated[bool, Meta(description="whether the classifier saw only samples of a very long text")] = False
    golden: Annotated[
        GoldenScore | None, Meta(description="what the golden gate in shadow says, for a share of the judged items")
    ] = None
    reporter: Annotated[
        Reporter | None, Meta(description="for a report: the kind of person or body that reported the item first")
    ] = None


class Escalation(msgspec.Struct, frozen=True, omit_defaults=True):
    """content.escalations and its lanes: an item to judge under one policy, at this revision or a newer one."""

    event: Annotated[ContentEvent, Meta(description="the item as its producer sent it")]
    policy_id: Annotated[str, Meta(description="the policy to judge under")]
    policy_version: Annotated[str, Meta(description="the policy's version when the item was escalated")]
    policy_revision: Annotated[int, Meta(description="the release number of that version, counted from 1")]
    prefilter: Annotated[PrefilterResult, Meta(description="why the item was escalated")]
    lane: Annotated[Lane, Meta(description="the traffic class, which sets priority and output topic")]
    escalated_at: Annotated[datetime, Meta(description="when the prefilter or a replay escalated the item")]
    latency: Annotated[dict[str, float], Meta(description="milliseconds spent per stage so far")] = {}
    replay_id: Annotated[str | None, Meta(description="the replay that escalated the item")] = None
    origin: Annotated[
        str | None, Meta(description="where the event stands on content.events: its partition and offset, as 3@1042")
    ] = None
    repaired: Annotated[
        bool, Meta(description="whether bytes of the event that are no characters were replaced by U+FFFD")
    ] = False
    judged_under: Annotated[
        tuple[str, ...] | None,
        Meta(
            description="ids of the policies beside this one under which the event is judged, all others passed it; "
            "absent where that is unknown"
        ),
    ] = None
    appeal_id: Annotated[
        str | None,
        Meta(description="the appeal whose words end the context: the verdict is advice, and never acts"),
    ] = None


class ContentReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """content.reports: somebody reported a content item. The model judges it whatever the gates say.

    The model never sees who reported an item, or why.
    """

    report_id: Annotated[Id, Meta(description="the producer's id of the report")]
    event: Annotated[ContentEvent, Meta(description="the item as its producer published it, with its text")]
    reporter: Annotated[Reporter, Meta(description="the kind of person or body that reported the item")]
    reported_at: Annotated[
        datetime, Meta(description="when it was reported, RFC 3339; a time without an offset is taken as UTC")
    ]
    reason: Annotated[
        OrNull[Annotated[str, Meta(max_length=limits.REPORT_CHARACTERS)]],
        Meta(description="what the reporter says, for moderators alone"),
    ] = ""
    policies: Annotated[
        OrNull[Annotated[tuple[str, ...], Meta(max_length=limits.EVENT_POLICIES)]],
        Meta(description="ids of the policies to judge under; empty for those of the event, or all that cover it"),
    ] = ()
    origin: Annotated[
        str | None,
        Meta(
            description="where the event stands on content.events, as 3@1042; the report is then in a partition of the "
            "same number"
        ),
    ] = None

    def __post_init__(self) -> None:
        if None in (self.reason, self.policies):
            _replace_null(self, "reason", "")
            _replace_null(self, "policies", ())


class ReportedText(msgspec.Struct, frozen=True, omit_defaults=True):
    """content.reported: a text that was escalated under a policy's version because somebody reported it.

    Further reports of the text lead to no other judgement. The record is written together with the escalation.
    """

    content_id: Annotated[Id, Meta(description="the reported item")]
    content_sha256: Annotated[str, Meta(description="SHA-256 of its text in UTF-8, as hex")]
    policy_id: Annotated[str, Meta(description="the policy to judge under")]
    policy_version: Annotated[str, Meta(description="the version of that policy")]
    policy_revision: Annotated[int, Meta(description="the release number of that version, counted from 1")]
    report_id: Annotated[str, Meta(description="the first report of the text")]
    escalated_at: Annotated[datetime, Meta(description="when it was escalated")]

    @property
    def key(self) -> str:
        """The record key: 32 hex digits, one for each text and version of a policy."""
        return verdict_id(self.content_id, self.content_sha256, self.policy_id, self.policy_version)


class Appeal(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.appeals: somebody appeals what was done about a content item, or that nothing was done.

    A person who did not decide before reviews it. The words are for these people alone, and never for the model.
    """

    content_id: Annotated[Id, Meta(description="the item; also the record's key")]
    appellant: Annotated[Appellant, Meta(description="the item's author, or the notifier who reported it in vain")]
    created_at: Annotated[
        datetime, Meta(description="when it was made, RFC 3339; a time without an offset is taken as UTC")
    ]
    appeal_id: Annotated[
        OrNull[Annotated[str, Meta(max_length=limits.ID_CHARACTERS)]],
        Meta(description="the platform's id of the appeal; default: one made of the item and the rest"),
    ] = ""
    action_id: Annotated[Id | None, Meta(description="action_id of the action that is appealed")] = None
    verdict_id: Annotated[
        Id | None, Meta(description="verdict_id of the verdict that is appealed; one of the two is needed")
    ] = None
    reason: Annotated[
        OrNull[Annotated[str, Meta(max_length=limits.REPORT_CHARACTERS)]],
        Meta(description="what the appellant says, for moderators alone"),
    ] = ""
    new_context: Annotated[
        OrNull[Annotated[str, Meta(max_length=limits.REPORT_CHARACTERS)]],
        Meta(description="what the appellant adds that the decision did not know, for moderators alone"),
    ] = ""
    language: Annotated[Label | None, Meta(description="language of the appeal, as a BCP 47 tag")] = None
    origin: Annotated[
        str | None,
        Meta(
            description="where the item's event stands on content.events, as 3@1042; the appeal is then in a partition "
            "of the same number"
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in ("appeal_id", "reason", "new_context"):
            _replace_null(self, name, "")

    @property
    def identity(self) -> str:
        """The id of the appeal: the platform's or, without one, 32 hex digits that the same record has again."""
        made = aware(self.created_at).isoformat()
        named = (self.content_id, self.appellant, made, self.action_id or "", self.verdict_id or "")
        return self.appeal_id or verdict_id("appeal", *named)


class Tokens(msgspec.Struct, frozen=True):
    """Tokens spent on a verdict, all attempts together."""

    prompt: Annotated[int, Meta(description="prompt tokens, cached ones included")] = 0
    cached: Annotated[int, Meta(description="prompt tokens that the prefix cache answered")] = 0
    completion: Annotated[int, Meta(description="tokens that the model generated")] = 0


class Canary(msgspec.Struct, frozen=True):
    """The canary that made a verdict: a model that judges a share of live content for comparison only."""

    name: Annotated[str, Meta(description="the canary's name, which is also part of its consumer group")]
    share: Annotated[float, Meta(description="share of live content items that it judges, 0 to 1")]


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.cleared, moderation.verdicts, moderation.replays: a decision on an item under a policy.

    A cleared verdict has stage prefilter and policy_id "*": no policy that applies to the item escalated it.
    """

    verdict_id: Annotated[
        str,
        Meta(description="deterministic id: identical input gives an identical id, and consumers deduplicate on it"),
    ]
    content_id: Annotated[str, Meta(description="the item that was judged")]
    content_sha256: Annotated[str, Meta(description="SHA-256 of the text in UTF-8, as hex")]
    policy_id: Annotated[str, Meta(description="the policy that was applied; * for a cleared verdict")]
    policy_version: Annotated[
        str,
        Meta(description="the policy's version; for a cleared verdict, the version of the set of policies in force"),
    ]
    decision: Annotated[Decision, Meta(description="violates, safe, or undetermined if the item could not be judged")]
    stage: Annotated[Stage, Meta(description="the stage that decided")]
    lane: Annotated[
        VerdictLane,
        Meta(description="the traffic class of the item; canary for a canary's verdict on live content"),
    ]
    model: Annotated[str, Meta(description="name of the classifier or the reasoning model")]
    decided_at: Annotated[datetime, Meta(description="when the verdict was made")]
    rule_ids: Annotated[tuple[str, ...], Meta(description="the policy's rules that the model cited")] = ()
    score: Annotated[float | None, Meta(description="probability that the item violates the policy, 0 to 1")] = None
    score_map: Annotated[
        str | None, Meta(description="name of the policy's calibration map, if one was applied to the score")
    ] = None
    confidence: Annotated[Confidence | None, Meta(description="the model's own statement of its confidence")] = None
    reason: Annotated[str | None, Meta(description="one short reason that may be shown to the author")] = None
    reasoning_effort: Annotated[Effort | None, Meta(description="reasoning effort that the model was asked for")] = None
    answer: Annotated[
        AnswerBy | None,
        Meta(
            description="first: the model's final message was accepted; constrained: it was not, and the model wrote "
            "it once more, held to the required format"
        ),
    ] = None
    prefilter: Annotated[
        PrefilterResult | None, Meta(description="why the prefilter escalated or cleared the item")
    ] = None
    truncated: Annotated[bool, Meta(description="whether only samples of a very long text were judged")] = False
    cached: Annotated[bool, Meta(description="whether the judgement of identical content was reused")] = False
    tokens: Annotated[Tokens | None, Meta(description="tokens spent on the judgement")] = None
    latency: Annotated[dict[str, float], Meta(description="milliseconds spent per stage")] = {}
    replay_id: Annotated[str | None, Meta(description="the replay that this verdict belongs to")] = None
    supersedes: Annotated[str | None, Meta(description="verdict_id of the verdict that this one replaces")] = None
    bundle: Annotated[str | None, Meta(description="id of the bundle of policies that were judged in one call")] = None
    model_revision: Annotated[
        str | None,
        Meta(
            description="which weights the reasoning model has, beside its name; absent where that is unknown, or "
            "differs between servers"
        ),
    ] = None
    malformed: Annotated[
        int, Meta(description="number of outputs of the model that were rejected on the way to this verdict")
    ] = 0
    canary: Annotated[Canary | None, Meta(description="the canary that made this verdict, for comparison only")] = None
    surface: Annotated[str | None, Meta(description="where the item appears; only on the reasoner's verdicts")] = None
    origin: Annotated[
        str | None, Meta(description="where the event stands on content.events: its partition and offset, as 3@1042")
    ] = None
    repaired: Annotated[
        bool, Meta(description="whether bytes of the event that are no characters were replaced by U+FFFD")
    ] = False
    judged_under: Annotated[
        tuple[str, ...] | None,
        Meta(
            description="ids of the policies beside this one under which the event is judged, audits included, all "
            "others passed it; absent where that is unknown, and on a cleared verdict without audit"
        ),
    ] = None
    author_id: Annotated[str | None, Meta(description="the producer's id of the item's author")] = None
    language: Annotated[
        str | None, Meta(description="language of the text, as its producer named it; only on the reasoner's verdicts")
    ] = None
    severity: Annotated[
        Severity | None, Meta(description="the highest severity of the rules that a violating verdict cites")
    ] = None
    created_at: Annotated[
        datetime | None,
        Meta(description="when the item was created, as its producer says; only on the reasoner's verdicts"),
    ] = None
    appeal_id: Annotated[
        str | None,
        Meta(description="the appeal whose words the model had before it: the verdict is advice, and never acts"),
    ] = None
    account_age: Annotated[
        int | None,
        Meta(
            description="age in seconds of the author's account when the item was created; absent where that is "
            "unknown; only on the reasoner's verdicts"
        ),
    ] = None

    @property
    def clears(self) -> bool:
        """Whether the prefilter cleared the event under every policy that applies to it."""
        return self.policy_id == EVERY_POLICY and self.decision == "safe"

    def passed(self, policy_id: str) -> bool:
        """Whether the gate of a policy is known to have passed the event, so that no verdict of that policy follows."""
        known = self.clears or self.judged_under is not None
        return known and policy_id not in (self.policy_id, *(self.judged_under or ()))


class Rationale(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.rationales: what the model wrote, for auditors only."""

    verdict_id: Annotated[str, Meta(description="the verdict that the rationale explains; also the record's key")]
    content_id: Annotated[str, Meta(description="the item that was judged")]
    policy_id: Annotated[str, Meta(description="the policy that was applied")]
    policy_version: Annotated[str, Meta(description="the version of that policy")]
    model: Annotated[str, Meta(description="name of the reasoning model")]
    attempts: Annotated[tuple[Attempt, ...], Meta(description="every output of the model, in order")]
    created_at: Annotated[datetime, Meta(description="when the rationale was written")]
    omitted: Annotated[int, Meta(description="outputs left out because the record would be too long")] = 0
    cut: Annotated[int, Meta(description="characters cut from the middle of outputs that are too long")] = 0
    model_revision: Annotated[
        str | None, Meta(description="which weights the model has, beside its name; absent where that is unknown")
    ] = None


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output of the model."""

    analysis: Annotated[str, Meta(description="the model's reasoning, never to be shown to authors")]
    final: Annotated[str, Meta(description="the final message as the model wrote it")]
    refused: Annotated[str | None, Meta(description="why the output was rejected; absent if it was accepted")] = None


class AuthorStatement(msgspec.Struct, frozen=True):
    """What to show to the author of a restricted item, or of a restricted account."""

    statement_id: Annotated[str, Meta(description="the record on moderation.statements that has all of it")]
    language: Annotated[str, Meta(description="language of the text, an ISO 639 code")]
    text: Annotated[str, Meta(description="the statement of reasons, in lines of plain text")]


class Action(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.actions: what enforcement did about an item and for which verdict, or what a moderator decided.

    A moderator's decision has no policy_id. It covers the item's text under all policies and overrides all verdicts on
    it. With `withdraws`, it takes an earlier decision back.
    """

    action_id: Annotated[Id, Meta(description="deterministic id of the action; receivers deduplicate on it")]
    content_id: Annotated[Id, Meta(description="the item that the action is about")]
    action: Annotated[
        Enforced, Meta(description="what the verdict leads to under its policy, or what the moderator decided")
    ]
    acted_at: Annotated[datetime, Meta(description="when the action was written")]
    by: Annotated[str | None, Meta(description="the moderator who decided or released the action")] = None
    why: Annotated[str, Meta(description="the moderator's stated reason")] = ""
    state: Annotated[
        ActionState,
        Meta(description="applied, held above a cap for a moderator, or overridden by a moderator's decision"),
    ] = "applied"
    effective: Annotated[
        Enforced | None, Meta(description="action that stands on the item under all policies after this one")
    ] = None
    previous: Annotated[Enforced, Meta(description="action that stood under this policy before")] = "allow"
    verdict_id: Annotated[str | None, Meta(description="the verdict that the action follows")] = None
    policy_id: Annotated[
        str | None,
        Meta(
            description="the policy of that verdict, or * where an edit ends a decision under all policies, or an "
            "appeal changes nothing; absent for a moderator's decision"
        ),
    ] = None
    policy_version: Annotated[str | None, Meta(description="the version of that policy")] = None
    decision: Annotated[Decision | None, Meta(description="the decision of that verdict")] = None
    rule_ids: Annotated[
        tuple[str, ...], Meta(description="the policy's rules that the verdict cites, or that the moderator cites")
    ] = ()
    reason: Annotated[str | None, Meta(description="the verdict's reason, which may be shown to the author")] = None
    rule: Annotated[str | None, Meta(description="name of the enforcement rule that chose the action")] = None
    reverses: Annotated[str | None, Meta(description="action_id of the action that this one replaces")] = None
    releases: Annotated[str | None, Meta(description="action_id of the held action that a moderator released")] = None
    alert: Annotated[
        bool, Meta(description="whether this is the first action held above a cap, which alerts the receiver")
    ] = False
    dry_run: Annotated[
        bool, Meta(description="whether the agent ran with --dry-run, so that nothing was delivered")
    ] = False
    sequence: Annotated[
        int | None,
        Meta(
            description="place in the order in which the agent acted, rising for each item; actions that follow one "
            "verdict share it; absent until the agent has followed what a moderator wrote"
        ),
    ] = None
    content_sha256: Annotated[
        str | None, Meta(description="SHA-256 of the text that the verdict or the decision is about, as hex")
    ] = None
    origin: Annotated[
        str | None, Meta(description="where the event of that text stands on content.events, as 3@1042")
    ] = None
    any_text: Annotated[
        bool, Meta(description="whether a moderator's decision or release holds for whatever text the item gets")
    ] = False
    withdraws: Annotated[
        str | None, Meta(description="action_id of the moderator's decision that this record takes back")
    ] = None
    reinstates: Annotated[
        bool,
        Meta(description="whether the decision that the withdrawn one had replaced, if there is one, stands again"),
    ] = False
    cited_policy: Annotated[
        str | None,
        Meta(description="the policy that a moderator's decision cites as its ground; it covers all policies"),
    ] = None
    author_id: Annotated[Label | None, Meta(description="the producer's id of the item's author")] = None
    severity: Annotated[
        Severity | None,
        Meta(description="the highest severity of the rules that a violating verdict or a moderator cites"),
    ] = None
    reporter: Annotated[
        Reporter | None, Meta(description="who reported the item, where a report led to the verdict")
    ] = None
    statement: Annotated[
        AuthorStatement | None,
        Meta(description="the statement of reasons that this action owes to the author, if it restricts the item"),
    ] = None
    ends_statement: Annotated[
        str | None, Meta(description="statement_id of the statement of reasons that this action withdraws")
    ] = None

    appeal_id: Annotated[Id | None, Meta(description="the appeal that this record decides or closes")] = None
    outcome: Annotated[
        AppealOutcome | None,
        Meta(
            description="the end of that appeal: upheld or overturned by a person; moot where what it names does not "
            "stand any more; refused where a person decided about the same before"
        ),
    ] = None
    account_age: Annotated[
        int | None, Meta(description="age in seconds of the author's account when the item was created, by the verdict")
    ] = None

    @property
    def human(self) -> bool:
        """Whether a moderator decided about the item itself."""
        return self.policy_id is None

    @property
    def to_follow(self) -> bool:
        """Whether a moderator wrote this, a decision or its withdrawal, and no agent has followed it."""
        return self.human and self.sequence is None

    @property
    def changes(self) -> bool:
        """Whether the action changes anything: a moderator decided, an appeal ended, or the policy's action differs
        from the previous one.
        """
        ended = self.human or self.outcome is not None
        return self.state == "applied" and (ended or self.action != self.previous)

    @property
    def told(self) -> bool:
        """Whether the platform is told: the action changes or alerts anything, or tells of a statement of reasons."""
        return self.changes or self.alert or self.statement is not None or self.ends_statement is not None


class EnforcementInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.enforcement: a verdict or a moderator's record, in the order in which enforcement follows them."""

    verdict: Annotated[Verdict | None, Meta(description="a verdict of moderation.verdicts")] = None
    action: Annotated[
        Action | None, Meta(description="a record of moderation.actions that the agent has not followed yet")
    ] = None
    requeued: Annotated[bool, Meta(description="whether the record was requeued from the dead letters")] = False
    appeal: Annotated[Appeal | None, Meta(description="a record of moderation.appeals, without its words")] = None


class TextFacts(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What statements of reasons say about a text of an item."""

    language: Annotated[str | None, Meta(description="language of the text, as its producer named it")] = None
    created_at: Annotated[datetime | None, Meta(description="when it was created, as its producer says")] = None
    reporter: Annotated[Reporter | None, Meta(description="who reported it, if a report led to a verdict")] = None


class Violation(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a violation counts against its author, as long as the item is restricted for it."""

    author_id: Annotated[str, Meta(description="the producer's id of the item's author")]
    weight: Annotated[int, Meta(description="what it weighs, by the enforcement rules")]
    at: Annotated[datetime, Meta(description="when enforcement followed the verdict or the decision")]
    expires_at: Annotated[datetime, Meta(description="when it no longer counts")]
    rule: Annotated[str, Meta(description="the rule for strikes that says so")]
    action_id: Annotated[str, Meta(description="action_id of the action that it led to")]
    verdict_id: Annotated[str | None, Meta(description="the verdict; absent if a moderator found the violation")] = None
    rule_ids: Annotated[tuple[str, ...], Meta(description="the policy's rules that were cited")] = ()
    severity: Annotated[Severity | None, Meta(description="the highest severity of these rules")] = None
    policy_id: Annotated[str, Meta(description="the policy; only where a moderator cites one")] = ""
    policy_version: Annotated[str | None, Meta(description="the version of the policy that judged the text")] = None
    about: Annotated[TextFacts | None, Meta(description="facts about the text, for statements of reasons")] = None


class ModeratorDecision(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a moderator decided about an item."""

    action: Annotated[Enforced, Meta(description="what the moderator decided")]
    action_id: Annotated[str, Meta(description="action_id of the decision")]
    at: Annotated[datetime, Meta(description="when the moderator decided")]
    by: Annotated[str | None, Meta(description="the moderator who decided")] = None
    why: Annotated[str, Meta(description="the moderator's stated reason")] = ""
    content_sha256: Annotated[
        str | None,
        Meta(description="SHA-256 of the text that the decision is about; absent if none was known: it holds for any"),
    ] = None
    any_text: Annotated[bool, Meta(description="whether the decision holds for whatever text the item gets")] = False
    cited_policy: Annotated[str | None, Meta(description="the policy that the moderator cites")] = None
    rule_ids: Annotated[tuple[str, ...], Meta(description="the rules of that policy that the moderator cites")] = ()
    violation: Annotated[
        Violation | None, Meta(description="what counts against the author where no verdict's violation does")
    ] = None
    earlier_texts: Annotated[
        tuple[str, ...],
        Meta(
            description="SHA-256 of earlier texts whose actions stood when a moderator overturned an appeal and "
            "allowed the item: they count no more against the author"
        ),
    ] = ()


class Grounds(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an action under a policy rests on. Many items share the same."""

    policy_version: Annotated[str | None, Meta(description="version of the policy")] = None
    rule_ids: Annotated[tuple[str, ...], Meta(description="the policy's rules that the verdict cites")] = ()
    reporter: Annotated[
        Reporter | None, Meta(description="who reported the item, where a report led to the verdict")
    ] = None
    confirmed: Annotated[bool, Meta(description="whether a moderator released the action")] = False
    severity: Annotated[
        Severity | None, Meta(description="the highest severity of the rules that a violating verdict cites")
    ] = None


class AppealStanding(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An appeal about an item, and its outcome. It holds no words: those are on moderation.appeals."""

    appeal_id: Annotated[str, Meta(description="the appeal's own id")]
    appellant: Annotated[Appellant, Meta(description="the item's author, or a notifier")]
    state: Annotated[AppealState, Meta(description="open, or the outcome that ended it")]
    opened_at: Annotated[datetime, Meta(description="when it was made, or when the agent read it if that is earlier")]
    due_at: Annotated[datetime, Meta(description="when a person is to have decided it")]
    action: Annotated[Enforced, Meta(description="the action in effect on the item when the appeal was read")]
    grounds: Annotated[
        str, Meta(description="what was in effect then, or at its outcome: a later appeal of the same is refused")
    ]
    closed_at: Annotated[datetime | None, Meta(description="when it ended; absent while it is open")] = None
    by: Annotated[str | None, Meta(description="the person who decided it")] = None
    outcome_id: Annotated[str | None, Meta(description="action_id of the record with its outcome")] = None


class PolicyStanding(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What the last verdict under one policy says about an item. A moderator's decision may override it."""

    policy_id: Annotated[str, Meta(description="the policy's id")]
    verdict_ids: Annotated[
        tuple[str, ...], Meta(description="the last verdicts that the agent followed, newest first")
    ] = ()
    action: Annotated[Enforced, Meta(description="the action that the verdict leads to, unless it is held")] = "allow"
    action_id: Annotated[str | None, Meta(description="action_id of that action; absent if it is to allow")] = None
    held: Annotated[Action | None, Meta(description="the action above a cap that waits for a moderator")] = None
    content_sha256: Annotated[str | None, Meta(description="SHA-256 of the text of that verdict")] = None
    origin: Annotated[
        str | None, Meta(description="where the event of that text stands on content.events, as 3@1042")
    ] = None
    at: Annotated[datetime | None, Meta(description="when the action was written; absent if it is to allow")] = None
    decision: Annotated[
        Decision | None, Meta(description="the decision of that verdict; absent if the action is to allow")
    ] = None
    rule: Annotated[
        str | None, Meta(description="the enforcement rule that chose the action; absent if it is to allow")
    ] = None
    grounds: Annotated[Grounds | None, Meta(description="what the action rests on; absent if it is to allow")] = None
    violation: Annotated[
        Violation | None, Meta(description="what counts against the author while the item is restricted for it")
    ] = None

    @property
    def empty(self) -> bool:
        """Whether nothing is applied and nothing is held."""
        return self.action == "allow" and self.held is None


class Standing(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """moderation.standing: all that stands on an item. An item on which nothing stands has a tombstone."""

    content_id: Annotated[Id, Meta(description="the item; also the record's key")]
    effective: Annotated[Enforced, Meta(description="the action in effect under all policies and decisions")]
    partitions: Annotated[int, Meta(description="number of partitions of the topics when the record was written")]
    policies: Annotated[tuple[PolicyStanding, ...], Meta(description="what the verdicts say under each policy")] = ()
    decision: Annotated[ModeratorDecision | None, Meta(description="what a moderator decided, if one did")] = None
    content_sha256: Annotated[str | None, Meta(description="SHA-256 of the newest text that is known")] = None
    origin: Annotated[
        str | None, Meta(description="where the event of that text stands on content.events, as 3@1042")
    ] = None
    replaced: Annotated[
        tuple[ModeratorDecision, ...],
        Meta(description="the last decisions that this one replaced, newest first; an undo brings the newest back"),
    ] = ()
    author_id: Annotated[str | None, Meta(description="the producer's id of the item's author")] = None
    about: Annotated[TextFacts | None, Meta(description="facts about that text, for statements of reasons")] = None
    statement: Annotated[
        str | None, Meta(description="statement_id of the statement of reasons that holds for the item now")
    ] = None
    appeals: Annotated[
        tuple[AppealStanding, ...], Meta(description="appeals about the item: all open ones, and the last that ended")
    ] = ()
    deciders: Annotated[
        tuple[str, ...], Meta(description="who decided about the item: none of them may decide an appeal")
    ] = ()
    referred: Annotated[tuple[str, ...], Meta(description="ids of the referrals about the item")] = ()
    kept_until: Annotated[
        datetime | None,
        Meta(
            description="when the agent forgets the item, on which nothing stands, and of which it only remembers who "
            "decided and which appeals ended; absent where something stands"
        ),
    ] = None

    @property
    def in_force(self) -> ModeratorDecision | None:
        """A moderator's decision, if it covers the newest text."""
        decided = self.decision
        if decided is None or decided.any_text or None in (decided.content_sha256, self.content_sha256):
            return decided
        return decided if decided.content_sha256 == self.content_sha256 else None

    def policy(self, policy_id: str) -> PolicyStanding:
        """What stands under a policy."""
        for standing in self.policies:
            if standing.policy_id == policy_id:
                return standing
        return PolicyStanding(policy_id)

    @property
    def empty(self) -> bool:
        """Whether nothing stands and nothing is remembered."""
        return not (self.stands or self.appeals or self.deciders)

    @property
    def stands(self) -> bool:
        """Whether anything stands: a decision, an action, a held action, an open appeal or a referral."""
        waits = any(one.state == "open" for one in self.appeals)
        decided = self.decision is not None or bool(self.referred)
        return waits or decided or not all(policy.empty for policy in self.policies)


class StatementOfReasons(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.statements: why an item or an account is restricted, and when such a statement was withdrawn.

    Its words come from policies and from templates. None is a model's, a moderator's or the author's. A statement about
    an account has `account_action` instead of `action`, and no `content_id`.
    """

    statement_id: Annotated[str, Meta(description="id of the statement; the record that withdraws it has the same")]
    state: Annotated[StatementState, Meta(description="issued, or withdrawn because the restriction ended")]
    action_id: Annotated[str, Meta(description="the action that led to this record")]
    stated_at: Annotated[datetime, Meta(description="when the record was written")]
    language: Annotated[str, Meta(description="language of the texts, an ISO 639 code")]
    text: Annotated[str, Meta(description="what to show to the author, in lines of plain text")]
    content_id: Annotated[
        Id | None, Meta(description="the restricted item, also the record's key; absent if it is about an account")
    ] = None
    author_id: Annotated[
        str | None, Meta(description="the producer's id of the author; the key of a record about an account")
    ] = None
    action: Annotated[
        Enforced | None, Meta(description="the restriction: label, limit or remove; absent where it is withdrawn")
    ] = None
    account_action: Annotated[
        AuthorEnforced | None,
        Meta(description="the restriction of an account: limit or suspend; absent where it is withdrawn"),
    ] = None
    ends_at: Annotated[
        datetime | None,
        Meta(description="when the restriction of an account ends if no violation is added; absent if nothing ends it"),
    ] = None
    strike_ids: Annotated[
        tuple[str, ...], Meta(description="the strikes on which the restriction of an account rests, oldest first")
    ] = ()
    territory: Annotated[
        tuple[str, ...], Meta(description="ISO 3166 codes of where the restriction holds; empty for everywhere")
    ] = ()
    policy_id: Annotated[
        str | None,
        Meta(description="the policy that is violated, of several the one that weighs most; absent if none is cited"),
    ] = None
    policy_version: Annotated[str | None, Meta(description="the version of that policy")] = None
    rule_ids: Annotated[tuple[str, ...], Meta(description="the policy's rules that are violated")] = ()
    ground: Annotated[str | None, Meta(description="the policy and its rules, by their names")] = None
    explanation: Annotated[str | None, Meta(description="what the rules say, in the policy's own notes")] = None
    law: Annotated[
        str | None, Meta(description="the law that the item violates; absent if it violates the terms of the service")
    ] = None
    terms: Annotated[str | None, Meta(description="URL of the terms of the service")] = None
    facts: Annotated[
        str | None, Meta(description="how the content was found and who decided, without personal data")
    ] = None
    reporter: Annotated[
        Reporter | None, Meta(description="who gave notice of the content; absent if it was found without notice")
    ] = None
    automated_detection: Annotated[bool, Meta(description="whether automated means found the content")] = False
    automated_decision: Annotated[
        Automation | None, Meta(description="whether automated means decided: fully, partially or not")
    ] = None
    category: Annotated[str | None, Meta(description="category of the violation in the EU's database")] = None
    keyword: Annotated[str | None, Meta(description="keyword of the violation in the EU's database")] = None
    more_categories: Annotated[
        tuple[str, ...], Meta(description="categories of the other violations of an account in the EU's database")
    ] = ()
    content_language: Annotated[str | None, Meta(description="language of the content, as its producer named it")] = (
        None
    )
    content_created_at: Annotated[
        datetime | None,
        Meta(description="when the content was created, as its producer says; of an account, the newest"),
    ] = None
    content_sha256: Annotated[str | None, Meta(description="SHA-256 of the text in UTF-8, as hex")] = None
    origin: Annotated[
        str | None, Meta(description="where the event of that text stands on content.events, as 3@1042")
    ] = None


class PolicyRelease(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.policies: a whole policy document in force, in shadow, or kept for a replay."""

    policy_id: Annotated[str, Meta(description="the policy's id")]
    version: Annotated[
        str, Meta(description="short SHA-256 over everything that decides: text, judging, gate and scope")
    ]
    revision: Annotated[int, Meta(description="number of the release, counted from 1 for each policy")]
    document: Annotated[str, Meta(description="the whole policy document, front matter included")]
    released_at: Annotated[datetime, Meta(description="when the operator released it")]
    released_by: Annotated[str, Meta(description="the operator who released it")]
    why: Annotated[str, Meta(description="the operator's stated reason")] = ""
    distilled: Annotated[str | None, Meta(description="the distilled classifier that the gate names, as JSON")] = None
    shadow: Annotated[
        float | None,
        Meta(
            description="share of content judged under it for comparison only, 0 to 1; absent for the version in force"
        ),
    ] = None
    replay: Annotated[bool, Meta(description="whether the version is kept for replays, whatever is in force")] = False
    golden: Annotated[
        str | None,
        Meta(description="the golden gate, which runs in shadow beside the gate and decides nothing, as JSON"),
    ] = None

    @property
    def key(self) -> bytes:
        """The record key. A policy has one for its version in force, one for its shadow, and one per replayed
        version.
        """
        if self.replay:
            return policy_key(self.policy_id, REPLAYED + self.version)
        return policy_key(self.policy_id, "" if self.shadow is None else SHADOW)


def policy_key(policy_id: str, place: str = "") -> bytes:
    """A policy's key on moderation.policies; place is empty for the version in force, or one of the suffixes above."""
    return f"{policy_id}{place}".encode()


class PolicyChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.policies.history: one change to the policies in force."""

    action: Annotated[Change, Meta(description="what the operator did")]
    policy_id: Annotated[str, Meta(description="the policy that changed")]
    changed_at: Annotated[datetime, Meta(description="when it changed")]
    changed_by: Annotated[str, Meta(description="the operator who changed it")]
    why: Annotated[str, Meta(description="the operator's stated reason")] = ""
    release: Annotated[
        PolicyRelease | None,
        Meta(description="the release that came into force or into the shadow; absent if something ended"),
    ] = None


class Replayed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One policy of a replay: the version to judge by, and the version to compare it with."""

    policy_id: Annotated[str, Meta(description="the policy's id")]
    version: Annotated[str, Meta(description="the version to judge by")]
    document: Annotated[str, Meta(description="that version's whole document")]
    distilled: Annotated[str | None, Meta(description="that version's distilled classifier, as JSON")] = None
    before_version: Annotated[
        str | None, Meta(description="the version to compare with; absent if the policy was never in force")
    ] = None
    before_document: Annotated[str | None, Meta(description="the whole document of the version to compare with")] = None
    before_distilled: Annotated[
        str | None, Meta(description="the distilled classifier of the version to compare with, as JSON")
    ] = None


class Publication(msgspec.Struct, frozen=True, omit_defaults=True):
    """A promotion of a replay's verdicts, or a reversion, which an operator began."""

    direction: Annotated[Direction, Meta(description="whether the replay's verdicts were promoted or taken back")]
    policy_id: Annotated[str, Meta(description="the policy whose verdicts they are")]
    at: Annotated[datetime, Meta(description="when the operator began")]
    by: Annotated[str, Meta(description="the operator who began it")]
    why: Annotated[str, Meta(description="the operator's stated reason")] = ""
    verdicts: Annotated[int, Meta(description="number of superseding verdicts that were to be written")] = 0


class Replay(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.replays.jobs: past content to judge again. The record holds everything that a runner needs."""

    replay_id: Annotated[str, Meta(description="the replay's id; also the record's key")]
    policies: Annotated[tuple[Replayed, ...], Meta(description="the policies to judge under")]
    starts: Annotated[dict[str, int], Meta(description="first offset of content.events to read, by partition number")]
    ends: Annotated[dict[str, int], Meta(description="offset of content.events to stop before, by partition number")]
    state: Annotated[
        ReplayState,
        Meta(
            description="running while a process escalates its items, then escalated; paused or cancelled by an "
            "operator"
        ),
    ]
    created_at: Annotated[datetime, Meta(description="when the operator started it")]
    created_by: Annotated[str, Meta(description="the operator who started it")]
    why: Annotated[str, Meta(description="the operator's stated reason")] = ""
    sample: Annotated[float, Meta(description="share of the items to replay, 0 to 1")] = 1.0
    noise: Annotated[
        float, Meta(description="share of the replayed items that the version before judges again, 0 to 1")
    ] = 0.1
    surfaces: Annotated[tuple[str, ...], Meta(description="surfaces to replay; empty for all")] = ()
    languages: Annotated[tuple[str, ...], Meta(description="languages to replay; empty for all")] = ()
    decisions: Annotated[
        tuple[Decision, ...], Meta(description="decisions of the version before to replay; empty for all")
    ] = ()
    escalated_at: Annotated[
        datetime | None, Meta(description="when the last of its items was escalated; absent until then")
    ] = None
    publications: Annotated[
        tuple[Publication, ...], Meta(description="its promotions and reversions, oldest first")
    ] = ()
    authors: Annotated[tuple[str, ...], Meta(description="ids of the authors to replay; empty for all")] = ()

    @property
    def total(self) -> int:
        """The number of offsets between starts and ends."""
        return sum(end - self.starts[partition] for partition, end in self.ends.items())


class ReplayProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.replays.progress: what a replay has done in one partition of content.events so far.

    It is committed together with the escalations that it counts.
    """

    replay_id: Annotated[str, Meta(description="id of the replay that counts")]
    partition: Annotated[int, Meta(description="the partition's number")]
    position: Annotated[int, Meta(description="the offset behind the last event that is counted")]
    items: Annotated[
        int, Meta(description="events that the replay covers: readable, in its sample, past its filters")
    ] = 0
    unreadable: Annotated[int, Meta(description="events that no stage can read, which are dead letters")] = 0
    escalated: Annotated[int, Meta(description="escalations written, of both versions")] = 0

    @property
    def key(self) -> bytes:
        """The record key, one for each replay and partition."""
        return f"{self.replay_id} {self.partition}".encode()


class Origin(msgspec.Struct, frozen=True):
    """Where a record came from."""

    topic: Annotated[str, Meta(description="the record's topic, deployment prefix included")]
    partition: Annotated[int, Meta(description="the record's partition number")]
    offset: Annotated[int, Meta(description="the record's offset in the partition")]
    timestamp: Annotated[int, Meta(description="the record's timestamp, in milliseconds since 1970")]


class OriginalRecord(NamedTuple):
    """A dead letter's record as it was read: key, value and headers in bytes."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.dead-letters: a record that a stage could not process, whole if it fits."""

    origin: Annotated[Origin, Meta(description="where the record came from")]
    stage: Annotated[str, Meta(description="the stage that failed")]
    error: Annotated[str, Meta(description="class name of the error")]
    reason: Annotated[str, Meta(description="what is wrong and what to do about it")]
    attempts: Annotated[int, Meta(description="how often the stage tried")]
    failed_at: Annotated[datetime, Meta(description="when the stage gave up")]
    field: Annotated[str | None, Meta(description="path of the field at fault")] = None
    key: Annotated[str | None, Meta(description="the record's key, in base64")] = None
    value: Annotated[str | None, Meta(description="the record's value, in base64")] = None
    headers: Annotated[
        tuple[tuple[str, str | None], ...],
        Meta(description="the record's headers: names, and values in base64 or null"),
    ] = ()
    header_names: Annotated[
        tuple[str, ...], Meta(description="the headers' names in base64, if one of them is not UTF-8")
    ] = ()
    unreadable: Annotated[
        bool,
        Meta(description="whether the value is part of the log as it is stored, which could not be taken apart"),
    ] = False
    left_out: Annotated[
        tuple[Part, ...], Meta(description="parts that were left out because the whole record would not fit")
    ] = ()
    value_bytes: Annotated[int | None, Meta(description="size of a value that was left out, in bytes")] = None
    value_sha256: Annotated[str | None, Meta(description="SHA-256 of a value that was left out, as hex")] = None

    def original(self) -> OriginalRecord:
        """The original record. Raises RecordError if the dead letter does not hold all of it."""
        if self.unreadable or self.left_out:
            raise RecordError("value", "is not whole here; read the original at the place that `origin` names")
        try:
            names = [
                base64.b64decode(name, validate=True).decode(errors="surrogateescape") for name in self.header_names
            ]
            names = names or [name for name, _ in self.headers]
            values = [_from_base64(value) for _, value in self.headers]
            return OriginalRecord(
                _from_base64(self.key), _from_base64(self.value), list(zip(names, values, strict=True))
            )
        except ValueError:
            raise RecordError("record", "has a key, value or header that is not base64") from None


class HandledLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.dead-letters.handled: what an operator did with a dead letter. Letters without a record wait."""

    letter: Annotated[str, Meta(description="where the dead letter stands: its partition and offset, as 3@1042")]
    letter_timestamp: Annotated[
        int,
        Meta(description="timestamp of the dead letter's record: another letter at this place has another one"),
    ]
    state: Annotated[HandledState, Meta(description="whether the record went back to its topic, or was given up")]
    handled_at: Annotated[datetime, Meta(description="when the operator did it")]
    handled_by: Annotated[str, Meta(description="the operator who did it")]
    why: Annotated[str, Meta(description="the operator's stated reason")] = ""


def _from_base64(data: str | None) -> bytes | None:
    return None if data is None else base64.b64decode(data, validate=True)


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.positions: how far a consumer group is in a partition, for when Kafka has forgotten it.

    Kafka drops the positions of a group that was empty for offsets.retention.minutes, by default 7 days.
    """

    group: Annotated[str, Meta(description="the consumer group, deployment prefix included")]
    topic: Annotated[str, Meta(description="the topic, deployment prefix included")]
    partition: Annotated[int, Meta(description="the partition's number")]
    offset: Annotated[int, Meta(description="the next offset to read")]
    metadata: Annotated[str, Meta(description="the offsets above it that are done, as the group commits them")] = ""
    topic_id: Annotated[
        str | None, Meta(description="Kafka's id of the topic; a topic that was created again has another one")
    ] = None

    @property
    def key(self) -> bytes:
        """The record key, one for each group and partition."""
        return f"{self.group} {self.topic} {self.partition}".encode()


class ErasureRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.erasures: a content item that an operator erased. No stage works on its earlier events any more."""

    content_id: Annotated[Id, Meta(description="the erased item; also the record's key")]
    erased_at: Annotated[datetime, Meta(description="when; events written later are new content")]
    erased_by: Annotated[str, Meta(description="the operator who erased it")]


class Referral(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.referrals: a content item that an enforcement rule refers, for the operator's own integration.

    The record is the evidence, the text included. Nothing sends it anywhere.
    """

    referral_id: Annotated[str, Meta(description="deterministic id of item, text and rule; also the record's key")]
    content_id: Annotated[Id, Meta(description="the item that is referred")]
    policy_id: Annotated[str, Meta(description="the policy that it violates")]
    policy_version: Annotated[str, Meta(description="the version of that policy")]
    verdict_id: Annotated[str, Meta(description="the verdict that led to it")]
    rule: Annotated[str, Meta(description="name of the enforcement rule that refers")]
    action_id: Annotated[str, Meta(description="the action that was written with it")]
    action: Annotated[Enforced, Meta(description="what was in effect on the item once the verdict was followed")]
    referred_at: Annotated[datetime, Meta(description="when the agent wrote it")]
    content_sha256: Annotated[str, Meta(description="SHA-256 of the text in UTF-8, as hex")]
    rule_ids: Annotated[tuple[str, ...], Meta(description="the policy's rules that the verdict cites")] = ()
    author_id: Annotated[str | None, Meta(description="the producer's id of the author")] = None
    text: Annotated[
        str | None, Meta(description="the text itself; absent if it was erased or past retention by then")
    ] = None
    created_at: Annotated[datetime | None, Meta(description="when the item was created")] = None
    surface: Annotated[str | None, Meta(description="where the item appears")] = None
    language: Annotated[str | None, Meta(description="language of the text")] = None
    origin: Annotated[str | None, Meta(description="where its event stands on content.events, as 3@1042")] = None
    hold: Annotated[bool, Meta(description="whether a legal hold keeps the record from erasure")] = True
    held_by: Annotated[str | None, Meta(description="who last set or released the hold; absent for the rule")] = None
    held_at: Annotated[datetime | None, Meta(description="when that was")] = None
    why: Annotated[str, Meta(description="the stated reason")] = ""


class Strike(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.strikes: a strike against an author, or what people and time did to strikes, in order.

    A strike is about one text of an item under one policy. The last record about it counts. An author's standing
    follows from these records alone.
    """

    strike_id: Annotated[
        Id, Meta(description="deterministic: of item, text and policy; of a record about the author, its own id")
    ]
    author_id: Annotated[Id, Meta(description="the producer's id of the author; also the record's key")]
    state: Annotated[
        StrikeState,
        Meta(
            description="given; taken-back because the item is no longer restricted for it; forgiven by a person; aged "
            "where strikes expired or left a threshold's window; decided or undecided by a person about the author; "
            "forgotten where a person ended all that is known of the author"
        ),
    ]
    at: Annotated[datetime, Meta(description="when that was; a strike that is given again keeps its first time")]
    content_id: Annotated[str | None, Meta(description="the item that was published")] = None
    content_sha256: Annotated[str | None, Meta(description="SHA-256 of its text in UTF-8, as hex")] = None
    policy_id: Annotated[str | None, Meta(description="the policy that the text violates")] = None
    verdict_id: Annotated[str | None, Meta(description="the verdict that the strike follows")] = None
    action_id: Annotated[str | None, Meta(description="the action of moderation.actions that it follows")] = None
    rule_ids: Annotated[tuple[str, ...], Meta(description="the policy's rules that were cited")] = ()
    severity: Annotated[Severity | None, Meta(description="the highest severity of these rules")] = None
    rule: Annotated[str | None, Meta(description="name of the enforcement rule for strikes that matched")] = None
    weight: Annotated[int, Meta(ge=0, le=limits.STRIKE_WEIGHT, description="what the strike weighs")] = 0
    expires_at: Annotated[datetime | None, Meta(description="when it no longer counts; always there if given")] = None
    action: Annotated[AuthorEnforced | None, Meta(description="what a person decided about the author")] = None
    by: Annotated[str | None, Meta(description="the person who forgave or decided")] = None
    why: Annotated[str, Meta(description="the person's stated reason")] = ""
    policy_version: Annotated[str | None, Meta(description="the version of the policy that judged the text")] = None
    about: Annotated[TextFacts | None, Meta(description="facts about the text, for statements of reasons")] = None
    origin: Annotated[
        str | None,
        Meta(description="of a strike for a rate: where the post that passed it stands on moderation.author-posts"),
    ] = None


class AuthorPost(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """moderation.author-posts: that an author published an item, for rates. It holds a sketch of the text, no text."""

    author_id: Annotated[Id, Meta(description="the producer's id of the author; also the record's key")]
    content_id: Annotated[Id, Meta(description="the item that was published")]
    posted_at: Annotated[
        datetime, Meta(description="when it was created, as its producer says, but no later than it arrived")
    ]
    sketch: Annotated[
        str | None,
        Meta(description="16 hex digits, of which few bits differ where texts differ by little; absent without text"),
    ] = None
    characters: Annotated[
        int, Meta(description="characters of the text, without blanks; links and mentions are shortened, as are runs")
    ] = 0
    account_age: Annotated[
        int | None, Meta(description="age in seconds of the author's account then; absent where that is unknown")
    ] = None


class AuthorAction(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.author-actions: what is to be done about an author, as strikes add up, expire or are taken back."""

    action_id: Annotated[Id, Meta(description="deterministic id of the action; receivers deduplicate on it")]
    author_id: Annotated[Id, Meta(description="the author; also the record's key")]
    action: Annotated[
        AuthorEnforced, Meta(description="what stands on the author after this; none ends what stood before")
    ]
    previous: Annotated[AuthorEnforced, Meta(description="what stood before")]
    acted_at: Annotated[datetime, Meta(description="when the record was written")]
    sequence: Annotated[
        int, Meta(description="place of the cause on moderation.strikes, rising for each author: the highest stands")
    ]
    weight: Annotated[int, Meta(description="what all strikes that count weigh together")] = 0
    rule: Annotated[str | None, Meta(description="name of the threshold that is passed, if one is")] = None
    strike_id: Annotated[
        str | None, Meta(description="the strike that was given, taken back or forgiven, if that is the cause")
    ] = None
    verdict_id: Annotated[str | None, Meta(description="the verdict that this strike follows")] = None
    content_id: Annotated[str | None, Meta(description="the item that this strike is about")] = None
    by: Annotated[str | None, Meta(description="the person who decided or forgave, if one did")] = None
    why: Annotated[str, Meta(description="the person's stated reason")] = ""
    statement: Annotated[
        AuthorStatement | None,
        Meta(description="the statement of reasons that this action owes to the author, if it restricts the account"),
    ] = None
    ends_statement: Annotated[
        str | None, Meta(description="statement_id of the statement of reasons that this action withdraws")
    ] = None


class AuthorDecision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a person decided about an author. It stands whatever strikes the author has."""

    action: Annotated[AuthorEnforced, Meta(description="what the person decided")]
    decision_id: Annotated[str, Meta(description="strike_id of the record")]
    at: Annotated[datetime, Meta(description="when the person decided")]
    by: Annotated[str | None, Meta(description="the person who decided")] = None
    why: Annotated[str, Meta(description="the person's stated reason")] = ""


class AccountStated(msgspec.Struct, frozen=True):
    """The statement of reasons that holds for an account."""

    statement_id: Annotated[str, Meta(description="statement_id of the record on moderation.statements")]
    language: Annotated[str, Meta(description="language in which the author reads it, an ISO 639 code")]


class AuthorStanding(msgspec.Struct, frozen=True, omit_defaults=True):
    """moderation.author-standing: all that stands against an author. An author with nothing has a tombstone."""

    author_id: Annotated[Id, Meta(description="the author; also the record's key")]
    partitions: Annotated[int, Meta(description="number of partitions of the topics when the record was written")]
    strikes: Annotated[
        tuple[Strike, ...],
        Meta(description="the last strikes that have not expired, oldest first; only those that are given count"),
    ] = ()
    weight: Annotated[int, Meta(description="what the strikes that count weigh together")] = 0
    action: Annotated[AuthorEnforced, Meta(description="what stands on the author")] = "none"
    rule: Annotated[str | None, Meta(description="name of the threshold that is passed, if one is")] = None
    since: Annotated[datetime | None, Meta(description="when that action was written")] = None
    sequence: Annotated[int | None, Meta(description="sequence of the last action about the author")] = None
    decision: Annotated[AuthorDecision | None, Meta(description="what a person decided, if one did")] = None
    decided: Annotated[tuple[str, ...], Meta(description="ids of the last decisions that were followed")] = ()
    clock: Annotated[
        datetime | None, Meta(description="time up to which strikes are counted: the latest of the author's records")
    ] = None
    due: Annotated[datetime | None, Meta(description="when the next strike expires or leaves a window")] = None
    statement: Annotated[
        AccountStated | None, Meta(description="the statement of reasons that holds for the account now")
    ] = None
    thresholds: Annotated[
        str | None, Meta(description="digest of the thresholds that say so; rules with others may say otherwise")
    ] = None

    @property
    def empty(self) -> bool:
        """Whether nothing is known of the author. Ids of decisions stay: an old one may be written again."""
        return not self.strikes and self.decision is None and self.action == "none" and not self.decided


T = TypeVar("T", bound=msgspec.Struct)
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_ORIGIN = re.compile(r"([0-9]{1,9})@([0-9]{1,18})")  # within what a client may seek
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_CLOCKS_DIFFER = 3600  # seconds, between those of the machines that create accounts and items
_INT_DIGITS = 20  # of the largest integer of 64 bits, or of its negative with the sign
_TENTH, _HALF_TENTH = timedelta(microseconds=100), timedelta(microseconds=50)
_encoder = msgspec.json.Encoder()


def decode(value: bytes | None, kind: type[T]) -> T:
    """A record from its JSON. Raises RecordError with the path of the field at fault, or `record` if it is no JSON
    object.

    A number beyond those of 64 bits is at fault in a field of the record, which could not be written again. It is not
    in the producer's attributes, nor in fields that are unknown.
    """
    if value is None:
        raise RecordError("record", "is empty; send a JSON object")
    try:
        loaded, beyond = _loads(value)
        record = msgspec.convert(loaded, kind)
        if beyond:
            _check_finite(record)
        return record
    except orjson.JSONDecodeError as error:
        # The library's message quotes at most one character of the content.
        raise RecordError("record", f"is not JSON in UTF-8: {error.msg} at byte {error.pos}") from None
    except msgspec.ValidationError as error:
        raise field_error(str(error)) from None
    except RecursionError:
        raise RecordError("record", "is nested too deeply") from None


class _Loaded(NamedTuple):
    """JSON as Python objects, and whether it has numbers beyond those of 64 bits, such as 1E400."""

    value: Any
    beyond: bool


def _loads(value: bytes) -> _Loaded:
    """JSON as Python objects. Numbers that orjson refuses become floats."""
    try:
        return _Loaded(orjson.loads(value), beyond=False)
    except orjson.JSONDecodeError as error:
        if "infinity" not in error.msg:
            raise
        try:
            loaded = json.loads(value.decode(), parse_int=_number, parse_constant=_no_number)
            orjson.dumps(loaded)  # raises for half a surrogate pair
        except (ValueError, TypeError):
            raise error from None
        return _Loaded(loaded, beyond=True)


def _check_finite(value: object, path: str = "") -> None:
    """Raises RecordError for a field with an infinite number."""
    if isinstance(value, float) and math.isinf(value):
        raise RecordError(path, "is beyond the numbers of 64 bits")
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if not (isinstance(value, ContentEvent) and name == "attributes"):
                _check_finite(getattr(value, name), f"{path}.{name}".lstrip("."))
    elif isinstance(value, (tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            _check_finite(each, f"{path}[...]")


def _number(digits: str) -> float:
    """An integer beyond 64 bits is a float, as orjson reads it."""
    if len(digits) <= _INT_DIGITS and -(2**63) <= int(digits) < 2**64:
        return int(digits)
    return float(digits)


def _no_number(name: str) -> float:
    raise ValueError(f"JSON has no {name}")


def field_error(message: str) -> RecordError:
    """The error for a message of msgspec, which may end with the path of a field."""
    path = _PATH.search(message)
    where = path[1] if path else ""
    problem = message[: path.start()] if path else message
    if problem.startswith("Invalid enum value"):  # the library's message quotes the value
        problem = "is not one of the values that the field takes"
    missing = _MISSING.search(problem)
    if missing:
        return RecordError(f"{where}.{missing[1]}".lstrip("."), "is missing")
    return RecordError(where or "record", problem[0].lower() + problem[1:])


def encode(record: msgspec.Struct) -> bytes:
    """A record as JSON in UTF-8, without fields at their defaults."""
    return _encoder.encode(record)


def schema_header(kind: type[msgspec.Struct]) -> tuple[str, bytes]:
    """The header that names a record's kind and schema version."""
    return ("schema", f"{kind.__name__}/1".encode())


def carried(headers: Headers) -> list[tuple[str, bytes]]:
    """The headers that every stage passes on: W3C trace context, the first of each name, if it has an allowed size."""
    kept: dict[str, bytes] = {}
    for name, value in headers:
        if value and len(value) <= _CARRIED.get(name, 0):
            kept.setdefault(name, value)
    return list(kept.items())


def origin_of(partition: int, offset: int) -> str:
    """The place of a record on content.events, as `Escalation.origin` and `Verdict.origin` name it."""
    return f"{partition}@{offset}"


def came_later(origin: str | None, than: str | None) -> bool | None:
    """Whether an event came after another on content.events, by their places; None where that is unknown.

    Events of two partitions have no order. An item has such events where a producer's keys are not the items' ids.
    """
    place, other = place_of(origin), place_of(than)
    if place is None or other is None or place[0] != other[0]:
        return None
    return place[1] > other[1]


def newest_place(origin: str | None, known: str | None, *, same_text: bool) -> str | None:
    """The place of an item's newest text: of the event that is followed now, or the one that is known already.

    The place of an event that is not later replaces none, nor does one of unknown order if the text is the same.
    """
    later = came_later(origin, known)
    return known if later is False or (later is None and same_text and known is not None) else origin


def place_of(origin: str | None) -> tuple[int, int] | None:
    """Partition and offset of a place as `origin_of` writes it; None for anything else."""
    match = _ORIGIN.fullmatch(origin or "")
    return (int(match[1]), int(match[2])) if match else None


def aware(moment: datetime) -> datetime:
    """A time without an offset is taken as UTC."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def in_utc(moment: datetime) -> datetime:
    """The same time in UTC; the nearest one that exists, at either end of the calendar. Without an offset it is UTC."""
    if moment.tzinfo is UTC:
        return moment
    try:
        return aware(moment).astimezone(UTC)
    except OverflowError:
        return _EARLIEST if moment.year == 1 else _LATEST


def account_age(event: ContentEvent, moment: datetime) -> int | None:
    """Age in seconds of the author's account when an item was created, which was no later than a moment.

    None where that is unknown: without the account's date, or with one that is past the item's by more than an hour.
    """
    if event.author_created_at is None:
        return None
    age = (min(aware(event.created_at), aware(moment)) - aware(event.author_created_at)) // timedelta(seconds=1)
    return max(0, age) if age >= -_CLOCKS_DIFFER else None


def content_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def verdict_id(*parts: str) -> str:
    """32 hex digits; equal for equal parts, which are what a verdict depends on and where its event stands."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def now() -> datetime:
    return datetime.now(UTC)


def milliseconds_since(start: datetime, end: datetime | None = None) -> float:
    """Elapsed milliseconds to one digit, at least 0. A start without an offset is taken as UTC."""
    tenths = ((end or now()) - aware(start) + _HALF_TENTH) // _TENTH
    return tenths / 10 if tenths > 0 else 0.0
