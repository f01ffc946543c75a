"""Changes of what is in force or in shadow: first a question that says what will happen, then the change, once.

The topic is written first, and git second: the topic decides what content is judged by, and it knows a repeated
request. Where git refuses, the topic stands, the page of the policy shows the difference, and a button repairs it.
"""

from __future__ import annotations

import asyncio
from typing import cast, get_args

from sqlalchemy import Connection, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console import native
from safeguard_streams.console.schema import audit_log, policy_changes
from safeguard_streams.console.web import policy_changes as planning
from safeguard_streams.console.web import policy_drafts, policy_files, rendering
from safeguard_streams.console.web.checker import Answer, Question
from safeguard_streams.console.web.checking import learned
from safeguard_streams.console.web.checkout import Checkout, CheckoutError, InGit, checkout_of
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page, RefusedError, back
from safeguard_streams.console.web.pages.policies import policy_url
from safeguard_streams.console.web.pages.policy_editor import EDITOR_FIELDS, MOST, draft_in, look
from safeguard_streams.console.web.policy_changes import ACTIONS, IN_FORCE, Kind, Wanted
from safeguard_streams.console.web.policy_files import Draft
from safeguard_streams.console.web.writing import asked, log_access, logged, transaction
from safeguard_streams.contract.records import PolicyChange, PolicyRelease
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.files import PolicyFiles
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import model_notice, once, operator
from safeguard_streams.releases.once import Asked
from safeguard_streams.releases.operator import ChangedBy, ReleaseHistory
from safeguard_streams.releases.people import checked

_PROJECTED_SECONDS, _POLL_SECONDS = 3.0, 0.1


async def _wanted(request: Request, current: ReleaseHistory) -> Wanted:
    console: Console = request.app.state.console
    policy_id, kind, to = asked(request, "id"), asked(request, "kind"), asked(request, "to")
    path = policy_files.path_of(console.settings, policy_id)
    if kind not in get_args(Kind):
        raise RefusedError("Choose what to do: release, shadow, promote, roll back, or end the shadow.")
    known = cast("Kind", kind)
    share = _share(asked(request, "share")) if known == "shadow" else None
    if known in ("release", "shadow"):
        draft = draft_in(request)
        distilled = await console.classifiers.named_in(draft.document, path)
        return Wanted(known, policy_id, draft, distilled, share, to)
    release = planning.standing(current, policy_id, known, to)
    text = Draft(policy_id, release.document, asked(request, "base"), path) if known != "end-shadow" else None
    return Wanted(known, policy_id, text, release.distilled, share, str(release.revision))


def _share(given: str) -> float:
    """A share of content, which people write in percent."""
    try:
        share = float(given.strip().removesuffix("%").replace(",", ".")) / 100
    except ValueError:
        share = 0.0
    if not 0.0001 <= share <= 1:
        raise RefusedError("Give the share of content in percent, from 0.01 to 100.")
    return share


def _question_of(wanted: Wanted, in_force: PolicyRelease | None = None, *, learn: bool = False) -> Question | None:
    """What the checker is asked. A release to return to was checked when it was released first."""
    if wanted.draft is None or wanted.kind == "rollback":
        return None
    return Question(str(wanted.draft.path), wanted.draft.document, wanted.distilled, learn, in_force)


async def question(request: Request) -> Response:
    """What would happen, and a button that makes it happen."""
    console: Console = request.app.state.console
    current = await operator.history(console.settings)
    wanted = await _wanted(request, current)
    asks = _question_of(wanted)
    answer = await run_in_threadpool(console.checker.ask, asks) if asks is not None else None
    errors = [one for one in answer.report.problems if one.severity == "error"] if answer else []
    policy = _policy(wanted) if not errors else None
    notice = await model_notice.unlearned(console.settings, [policy]) if policy is not None else ""
    in_git, without = await run_in_threadpool(_in_git, console, wanted)
    in_force, shadow = current.in_force.get(wanted.policy_id), current.shadows.get(wanted.policy_id)
    return rendering.page(
        request,
        "policy_question.html",
        wanted=wanted,
        policy=policy,
        answer=answer,
        errors=errors,
        effect=await run_in_threadpool(planning.effect, in_force, policy) if policy else None,
        in_force=in_force,
        shadow=shadow,
        tested=await run_in_threadpool(_last_test, console, policy) if policy else None,
        golden=policy_files.golden_sha(wanted.draft.path) if wanted.draft else "",
        unchanged=_unchanged(wanted, policy, current),
        notice=notice,
        in_git=in_git,
        base=_base(wanted, in_git),
        without=without,
        obstacle=_obstacle(wanted, in_git),
        changes=len(once.changes_of(current, wanted.policy_id)),
        editor={name: asked(request, name) for name in EDITOR_FIELDS},
    )


def _policy(wanted: Wanted) -> Policy | None:
    """The policy that comes into force or into the shadow. Raises RefusedError where it no longer parses."""
    if wanted.draft is None:
        return None
    try:
        return parse(wanted.draft.document, wanted.policy_id, wanted.distilled)
    except PolicyError as error:
        raise RefusedError(f"This release cannot be used any more; release a corrected text. {error}") from error


def _unchanged(wanted: Wanted, policy: Policy | None, current: ReleaseHistory) -> bool:
    """Whether exactly this stands already."""
    if policy is None:
        return False
    (planned,) = operator.plan_releases(current, [policy], shadow=wanted.share)
    return planned.unchanged


def _last_test(console: Console, policy: Policy) -> planning.Tested | None:
    with console.engine.connect() as connection:
        return planning.last_test(connection, policy.id, policy.version)


def _in_git(console: Console, wanted: Wanted) -> tuple[InGit | None, str]:
    """What git holds of the policy, where the change is to be written there; or why it is not."""
    if wanted.kind not in IN_FORCE:
        return None, "git is not changed: it holds what is meant to be in force."
    checkout, without = checkout_of(console.settings)
    return look(checkout, wanted.policy_id), without


def _base(wanted: Wanted, in_git: InGit | None) -> str:
    """The files that the change replaces: those from which the text began or, without an editor, those of now."""
    if in_git is None:
        return ""
    return wanted.draft.base if wanted.kind == "release" and wanted.draft is not None else in_git.base


def _obstacle(wanted: Wanted, in_git: InGit | None) -> str:
    """Why git cannot take the change; empty if it can."""
    if in_git is None:
        return ""
    if in_git.obstacle:
        return in_git.obstacle
    began = wanted.draft.base if wanted.draft is not None else ""
    if began and began != in_git.base:
        return "The policy's files in git changed meanwhile. Open the editor once more, and make your changes there."
    return ""


async def change(request: Request) -> Response:
    """Make the change, unless something else changed since the question; then commit it."""
    console: Console = request.app.state.console
    by = checked(ChangedBy(asked(request, "why"), request.state.by))
    if not by.why:
        raise RefusedError("Give a reason. Others will read it.")
    counted = asked(request, "changes")
    if not counted.isdecimal():
        raise RefusedError("This form is out of date. Open the policy once more, and repeat.")
    async with console.changing:
        current = await operator.history(console.settings)
        wanted = await _wanted(request, current)
        document = wanted.draft.document if wanted.draft else None
        agreed = Asked(wanted.policy_id, int(counted[:9]), ACTIONS[wanted.kind], by, document)
        made = once.made_before(current, agreed)
        notices: tuple[str, ...] = ()
        if made is None:
            made, notices = await _made(console, wanted, agreed, current)
            current = await operator.history(console.settings)
        committed = await run_in_threadpool(_commit, request, wanted, current)
    if made is None:
        return back(request, policy_url(wanted.policy_id), "Nothing changed: exactly this stands already.")
    await run_in_threadpool(_log_once, request, wanted, made)
    if wanted.kind in IN_FORCE and wanted.draft is not None:
        await run_in_threadpool(_forget_draft, request, wanted.draft)
    await _projected(console, made)
    said = [_said(wanted, made), committed, *(one[:1].upper() + one[1:] for one in notices)]
    return back(request, policy_url(wanted.policy_id), " ".join(filter(None, said)))


async def _made(
    console: Console, wanted: Wanted, request: Asked, current: ReleaseHistory
) -> tuple[PolicyChange | None, tuple[str, ...]]:
    """Check once more, and write to the topics. Returns the change, and notices for people."""
    in_git, _ = await run_in_threadpool(_in_git, console, wanted)
    if obstacle := _obstacle(wanted, in_git):
        raise RefusedError(f"Nothing was released, because git could not take it. {obstacle}")
    asks = _question_of(wanted, current.in_force.get(wanted.policy_id), learn=wanted.kind != "shadow")
    answer: Answer | None = None
    if asks is not None:
        answer = await run_in_threadpool(learned if asks.learn else console.checker.ask, asks)
        errors = [one for one in answer.report.problems if one.severity == "error"]
        if errors:
            raise RefusedError(f"Nothing was released: the check finds errors. The first: {errors[0].message}")
    golden = answer.golden if answer is not None else {}
    plan = planning.plan_of(wanted, _policy(wanted), request.by, golden)
    return await once.change(console.settings, request, plan), answer.notices if answer is not None else ()


def _commit(request: Request, wanted: Wanted, current: ReleaseHistory) -> str:
    """Commit what is in force by now. Says what happened in git, and how to repair it."""
    console: Console = request.app.state.console
    release = current.in_force.get(wanted.policy_id)
    if wanted.kind not in IN_FORCE or release is None:
        return ""
    checkout, without = checkout_of(console.settings)
    if checkout is None:
        return without
    try:
        commit = _committed(checkout, request, release, wanted.kind)
    except CheckoutError as error:
        return f"git was not changed: {error} Repair that, then use the button below."
    return f"Committed as {commit}." if commit else "git holds it already."


def _committed(checkout: Checkout, request: Request, release: PolicyRelease, action: str) -> str | None:
    title = f"{release.policy_id}: {action}, revision {release.revision}"
    message = f"{title}\n\n{release.why}\n\nVersion: {release.version}\nReleased-by: {release.released_by}"
    texts = PolicyFiles(release.document, release.distilled)
    return checkout.commit(release.policy_id, texts, request.scope["person"], message)


def _said(wanted: Wanted, made: PolicyChange) -> str:
    release = made.release
    if release is None:
        return f"The shadow of {wanted.policy_id} ended."
    done = {"shadow": f"In shadow on {release.shadow or 0:.2%} of content:", "rollback": "Rolled back:"}
    return f"{done.get(wanted.kind, 'Released:')} revision {release.revision}, version {release.version}."


def _log_once(request: Request, wanted: Wanted, made: PolicyChange) -> None:
    """An entry of the audit log for the change, also where the process that made it was killed before it wrote one."""
    console: Console = request.app.state.console
    release, at = made.release, made.changed_at.isoformat()
    version = {"version": release.version, "revision": release.revision} if release is not None else {}
    with transaction(console.engine) as connection:
        native.alone(connection, f"policy {wanted.policy_id}")
        if not _is_logged(connection, wanted, at):
            log_access(connection, request, wanted.kind, wanted.policy_id, {"changed_at": at, **version})


def _forget_draft(request: Request, draft: Draft) -> None:
    """The text of a draft came into force."""
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        policy_drafts.forget_released(connection, request.state.by, draft.policy_id, draft.document)


def _is_logged(connection: Connection, wanted: Wanted, at: str) -> bool:
    log = audit_log.c
    written = select(log.details).where(log.object == wanted.policy_id, log.action == wanted.kind)
    return any(one.get("changed_at") == at for one in connection.execute(written).scalars())


async def _projected(console: Console, made: PolicyChange) -> None:
    """Wait a moment for the projector, so that the page that follows shows the change."""

    def found() -> bool:
        columns = policy_changes.c
        wanted = select(columns.change_id).where(
            columns.policy_id == made.policy_id, columns.changed_at == made.changed_at, columns.action == made.action
        )
        with console.engine.connect() as connection:
            return connection.execute(wanted).first() is not None

    deadline = asyncio.get_running_loop().time() + _PROJECTED_SECONDS
    while not await run_in_threadpool(found) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_POLL_SECONDS)


async def commit(request: Request) -> Response:
    """Commit what is in force, where git holds something else."""
    console: Console = request.app.state.console
    policy_id, base = asked(request, "id"), asked(request, "base")
    policy_files.path_of(console.settings, policy_id)
    async with console.changing:
        release = (await operator.history(console.settings)).find(policy_id, "live")
        done = await run_in_threadpool(_repair, request, release, base)
    await run_in_threadpool(logged, request, "commit policy", policy_id, {"revision": release.revision, "commit": done})
    return back(request, policy_url(policy_id), f"Committed as {done}." if done else "git holds it already.")


def _repair(request: Request, release: PolicyRelease, base: str) -> str | None:
    console: Console = request.app.state.console
    checkout, without = checkout_of(console.settings)
    if checkout is None:
        raise RefusedError(without)
    try:
        if checkout.look(release.policy_id).base != base:
            raise RefusedError("The policy's files in git changed meanwhile. Look at the page once more.")
        return _committed(checkout, request, release, "commit of what is in force")
    except CheckoutError as error:
        raise RefusedError(f"git was not changed: {error}") from error


PAGES = (
    Page("policy_question", "POST", "/policy/question", "release", question, MOST),
    Page("policy_change", "POST", "/policy/change", "release", change, MOST),
    Page("policy_commit", "POST", "/policy/commit", "release", commit),
)
