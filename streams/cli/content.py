"""safeguard content."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from safeguard_streams.bus import kafka
from safeguard_streams.cli.options import Bootstrap, Json, check_content_id
from safeguard_streams.cli.output import say
from safeguard_streams.cli.reading import shown_reading
from safeguard_streams.cli.texts import Labelled, show_item
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Action, PrefilterResult, Reporter, Standing
from safeguard_streams.operations import content as lookup
from safeguard_streams.operations.content_report import (
    ItemRecords,
    ItemReport,
    ItemVerdict,
    TextVersion,
    WaitingEscalation,
)
from safeguard_streams.runtime import settings
from safeguard_streams.runtime.counts import counted
from safeguard_streams.runtime.durations import moment

app = typer.Typer(no_args_is_help=True, help="Look up content items: texts, verdicts, actions and decisions.")

_TEXT_LINES = 40
_RATIONALE_LINES = 12
_GATES = {
    "golden": "the golden gate",
    "terms": "a term or pattern matched",
    "everything": "the policy's gate escalates everything",
    "sample": "drawn for the sample",
    "audit": "passed the gate, drawn for the audit",
    "report": "somebody reported it",
    "live": "only the version in force escalates it",
}
_REPORTERS: dict[Reporter, str] = {
    "user": "a user",
    "trusted_flagger": "a trusted flagger",
    "authority": "an authority",
}


@app.command("show")
def show(
    content: Annotated[str, typer.Argument(metavar="CONTENT_ID", help="Id of a content item.")],
    since: Annotated[
        str | None,
        typer.Option(help="Read only records written since then: 2026-01-31T12:00:00Z, or 7d for seven days ago."),
    ] = None,
    every_partition: Annotated[
        bool,
        typer.Option(
            "--all-partitions",
            help="Read all partitions. Otherwise, they are read only if the one that the id hashes to has no record of "
            "the item.",
        ),
    ] = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show what is known about a content item: each text, its verdicts and gates, actions, and what stands.

    Names who decided and why, which verdict supersedes which, and its dead letters. Auditors, who may read
    moderation.rationales, also see the model's rationales. Topics that the user may not read are named and left out.
    """
    check_content_id(content)
    first = moment(since, "--since") if since else None
    current = settings.load(bootstrap=bootstrap)

    async def work() -> ItemRecords:
        await kafka.wait_for_broker(current, timeout=kafka.COMMAND_SECONDS)
        return await lookup.report(current, content, first, every_partition=every_partition)

    with shown_reading():
        report = asyncio.run(work())
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _show(report, first)


def _show(report: ItemRecords, since: datetime | None) -> None:
    say(f"{report.content_id}: {_effect(report)}")
    if report.erased_at:
        say(f"erased at {_time(report.erased_at)}: no stage works on what was written about it by then")
    known = {text.origin for text in report.texts}
    for number, text in enumerate(report.texts, 1):
        _show_text(text, number, report)
        _show_judgements(report, text.origin)
    judged = {one.verdict.origin for one in report.verdicts} | {one.origin for one in report.cleared}
    judged |= {one.origin for one in report.waiting}
    for origin in sorted(judged - known, key=str):
        lines = [Labelled("no text", _why_no_text(report, since)), *_cleared(report, origin)]
        show_item(f"text at {origin or 'an unknown place'}", lines)
        _show_judgements(report, origin)
    _show_rest(report)


def _effect(report: ItemRecords) -> str:
    if report.standing:
        return f"{report.standing.effective} is in effect"
    return "unknown what stands" if topics.STANDING in report.forbidden else "allowed, nothing stands"


def _why_no_text(report: ItemRecords, since: datetime | None) -> str:
    if topics.EVENTS in report.forbidden:
        return f"this user may not read {topics.EVENTS}"
    return "past retention" if since is None else f"past retention, or written before {_time(since)}"


def _show_text(text: TextVersion, number: int, report: ItemRecords) -> None:
    count = len(report.texts)
    which = f" {number} of {count}" if count > 1 else ""
    published = _time(text.published_at) if text.published_at else "at an unknown time"
    by = f"by {text.author_id}" if text.author_id else None
    about = ", ".join(part for part in (text.surface, text.language, by) if part)
    show_item(
        f"text{which} at {text.origin}, published {published}",
        [
            Labelled("text", text.text, _TEXT_LINES, keep_lines=True),
            Labelled("no text", "erased" if text.text is None else None),
            Labelled("about", about or None),
            *(Labelled("context", f"{one.role}: {one.text}") for one in text.context),
            *_cleared(report, text.origin),
        ],
    )


def _cleared(report: ItemRecords, origin: str | None) -> list[Labelled]:
    """When the prefilter cleared a text, and the gate that it passed by the least margin."""
    lines = []
    for verdict in report.cleared:
        if verdict.origin == origin:
            nearest = _gate(verdict.prefilter)
            words = f"{_time(verdict.decided_at)}, by the gates of all policies"
            lines.append(Labelled("cleared", f"{words}; nearest: {nearest}" if nearest else words))
    return lines


def _show_judgements(report: ItemRecords, origin: str | None) -> None:
    for one in report.verdicts:
        if one.verdict.origin == origin:
            _show_verdict(one)
    for waiting in report.waiting:
        if waiting.origin == origin:
            _show_waiting(waiting)


def _show_verdict(one: ItemVerdict) -> None:
    verdict = one.verdict
    analysis = one.rationale.attempts[-1].analysis if one.rationale and one.rationale.attempts else None
    score = "" if verdict.score is None else f", score {verdict.score:.4g}"
    confidence = f", {verdict.confidence} confidence" if verdict.confidence else ""
    constrained = ", constrained answer" if verdict.answer == "constrained" else ""
    revision = f" {verdict.model_revision}" if verdict.model_revision else ""
    by = f"{verdict.model}{revision}, {verdict.lane} lane{score}{confidence}{constrained}"
    show_item(
        f"{' '.join([verdict.decision, *verdict.rule_ids])} under {verdict.policy_id} {verdict.policy_version}",
        [
            Labelled("state", _state(one)),
            Labelled("reason", verdict.reason),
            Labelled("severity", verdict.severity),
            Labelled("gate", _gate(verdict.prefilter)),
            Labelled("rationale", analysis, _RATIONALE_LINES, keep_lines=True),
            Labelled("judged", f"{_time(verdict.decided_at)} by {by}"),
            Labelled("verdict", verdict.verdict_id),
            Labelled("supersedes", verdict.supersedes),
        ],
    )


def _state(one: ItemVerdict) -> str:
    if one.topic == topics.REPLAYS:
        name = one.verdict.canary.name if one.verdict.canary else one.verdict.replay_id
        return f"{one.verdict.lane} {name or ''}".rstrip() + ", for comparison only"
    if one.superseded_by:
        return f"superseded by {one.superseded_by}"
    return "the newest under its policy"


def _show_waiting(one: WaitingEscalation) -> None:
    show_item(
        f"not judged yet under {one.policy_id} {one.policy_version}",
        [
            Labelled("escalated", f"{_time(one.escalated_at)}, {one.lane} lane"),
            Labelled("gate", _gate(one.prefilter)),
        ],
    )


def _gate(result: PrefilterResult | None) -> str | None:
    """What a gate found, in words."""
    if result is None:
        return None
    parts = [_GATES[result.gate]] if result.gate in _GATES else []
    if result.score is not None and result.threshold is not None:
        parts.append(f"{result.label or 'harm'} {result.score:.4g}, threshold {result.threshold:.4g}")
    elif result.label:
        parts.append(result.label)
    if result.rate is not None and result.rate < 1:
        parts.append(f"{result.rate:.2%} of such items are drawn")
    if result.truncated:
        parts.append("only samples of the text were scored")
    return "; ".join(parts) or result.gate


def _show_report(one: ItemReport) -> None:
    show_item(
        f"reported by {_REPORTERS[one.reporter]}, {_time(one.reported_at)}",
        [
            Labelled("reason", one.reason or None, _RATIONALE_LINES, keep_lines=True),
            Labelled("under", ", ".join(one.policies) or None),
            Labelled("report", one.report_id),
        ],
    )


def _show_rest(report: ItemRecords) -> None:
    for one in report.reports:
        _show_report(one)
    for action in report.actions:
        _show_action(action)
    if report.standing:
        show_item("what stands", _stands(report.standing))
    for letter in report.dead_letters:
        show_item(
            f"dead letter of {letter.stage}, {_time(letter.failed_at)}",
            [
                Labelled("reason", letter.reason),
                Labelled("record", f"{letter.origin}, tried {counted(letter.attempts, 'time')}"),
                Labelled("letter", letter.letter),
            ],
        )
    _say_limits(report)


def _say_limits(report: ItemRecords) -> None:
    """Say on standard error what the report cannot hold."""
    if report.forbidden:
        say(f"not shown, because this user may not read them: {', '.join(report.forbidden)}", error=True)
    if report.dropped:
        say(counted(report.dropped, "earlier record is not shown", "earlier records are not shown"), error=True)
    if report.read_partition is not None:
        say(f"read partition {report.read_partition} of each topic; --all-partitions reads all", error=True)


def _show_action(action: Action) -> None:
    kind = "moderator's decision" if action.human else "action"
    state = f"{action.state}, dry run" if action.dry_run else action.state
    in_effect = f"; {action.effective} in effect" if action.effective else ""
    policy = " ".join(filter(None, [action.policy_id, action.policy_version, action.decision, *action.rule_ids]))
    show_item(
        f"{kind} {action.action}, {_time(action.acted_at)}, {state}{in_effect}",
        [
            Labelled("under", policy or None),
            Labelled("rule", action.rule),
            Labelled("decided by", action.by),
            Labelled("why", action.why or None),
            Labelled("verdict", action.verdict_id),
            Labelled("author", action.author_id),
            Labelled("reverses", action.reverses),
            Labelled("releases", action.releases),
            Labelled("action", action.action_id),
        ],
    )


def _stands(standing: Standing) -> list[Labelled]:
    decision = standing.decision
    decided = decision and f"{decision.action}, decided by {decision.by or 'a moderator'} at {_time(decision.at)}"
    why = f": {decision.why}" if decision and decision.why else ""
    return [
        Labelled("in effect", standing.effective),
        Labelled("decision", f"{decided}{why}" if decided else None),
        *(Labelled("policy", f"{one.policy_id}: {one.action}") for one in standing.policies if one.action != "allow"),
        *(Labelled("held", f"{one.policy_id}: {one.held.action}") for one in standing.policies if one.held),
    ]


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
