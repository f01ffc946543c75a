"""The editor of a policy: its text with the check's messages, drafts, and trials with a model. It changes no policy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import msgspec
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from safeguard_streams.console.web import policy_drafts, policy_files, rendering, trials
from safeguard_streams.console.web.checker import Answer, Question
from safeguard_streams.console.web.checkout import Checkout, InGit, checkout_of
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import NotFoundError, Page, RefusedError, back
from safeguard_streams.console.web.pages import drafting
from safeguard_streams.console.web.policy_files import Draft
from safeguard_streams.console.web.writing import asked, log_access, logged, transaction
from safeguard_streams.errors import ConfigurationError, SafeguardError
from safeguard_streams.policies import golden
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.parsing import MAX_CHARACTERS, parse
from safeguard_streams.policies.skeleton import Outline, skeleton

log = logging.getLogger(__name__)

MOST = 12 * MAX_CHARACTERS  # bytes of a form with a document: nine for a character, and what else it holds
_TRY_SECONDS = 120.0
_NEW = "new"  # the skeleton of a policy that nobody wrote yet
_DRAFT, _SHARED = "draft", "shared"
EDITOR_FIELDS = ("version", "revision", "editor", "number", "saved")  # what a form says beside its text and its base
_NO_DRAFT = "There is no draft of yours."
_NAME, _REVISION = 200, 15  # characters of what names a version, or counts
_TESTS = 2  # at once in one process of the console
_TOLD_SECONDS = 0.2  # between two messages about progress


async def _checked(console: Console, draft: Draft) -> Answer:
    """The result of the check. Raises RefusedError when it takes too long."""
    distilled = await console.classifiers.named_in(draft.document, draft.path)
    return await run_in_threadpool(console.checker.ask, Question(str(draft.path), draft.document, distilled))


async def _fit(console: Console, draft: Draft) -> Policy:
    """The policy of a text. Raises RefusedError unless the check finds no error."""
    errors = [one for one in (await _checked(console, draft)).report.problems if one.severity == "error"]
    if errors:
        raise RefusedError(f"The check finds errors. The first, in line {errors[0].line}: {errors[0].message}")
    distilled = await console.classifiers.named_in(draft.document, draft.path)
    return parse(draft.document, str(draft.path), distilled)


def draft_in(request: Request) -> Draft:
    """The text that a form carries. Browsers write CR LF, and some editors begin a file with a mark."""
    policy_id = asked(request, "id")
    document = asked(request, "document").replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    path = policy_files.path_of(request.app.state.console.settings, policy_id)
    if not document:
        raise RefusedError("There is no text. Open the editor once more.")
    return Draft(policy_id, document, asked(request, "base"), path)


def look(checkout: Checkout | None, policy_id: str) -> InGit | None:
    """What the checkout holds of a policy; None without a checkout."""
    return None if checkout is None else checkout.look(policy_id)


def edit(request: Request) -> Response:
    """The editor, with the person's draft, or else the text in git or the one in force, or with what is asked for."""
    console: Console = request.app.state.console
    policy_id, wanted, by = asked(request, "id"), asked(request, "from"), request.state.by
    path = policy_files.path_of(console.settings, policy_id)
    checkout, without = checkout_of(console.settings)
    in_git = look(checkout, policy_id)
    with console.engine.connect() as connection:
        current = drafting.present(connection, policy_id, in_git)
        own = policy_drafts.find(connection, by, policy_id)
        others_share = policy_drafts.shared_by_others(connection, by, policy_id)
        shared = policy_drafts.find_shared(connection, asked(request, "of"), policy_id) if wanted == _SHARED else None
    texts = dict(current.texts)
    if own is not None:
        texts[_DRAFT] = own.document
    if shared is not None:
        texts[_SHARED] = shared.document
    if not texts and wanted == _NEW:
        texts[_NEW] = skeleton(Outline(policy_id))
    known = (_DRAFT, "git", "in-force", "shadow")
    source = wanted if wanted in texts else next((one for one in known if one in texts), None)
    if source is None:
        raise NotFoundError("No policy of this id is in force, in shadow or in git.")
    kept = {_DRAFT: own, _SHARED: shared}.get(source)
    began = policy_drafts.Base(kept.base, kept.version, kept.revision) if kept is not None else current.base
    with console.engine.connect() as connection:
        meanwhile = (
            drafting.meanwhile(connection, policy_id, began, current, texts[source]) if kept is not None else None
        )
    return _editor(
        request,
        Draft(policy_id, texts[source], began.git, path),
        began=began,
        place=policy_drafts.Place(uuid.uuid4().hex, 0, own.saved if own is not None else 0),
        source=source,
        others=[one for one in sorted(texts) if one != _SHARED and texts[one] != texts[source]],
        others_share=others_share,
        owner=asked(request, "of") if source == _SHARED else "",
        own=own,
        current=current,
        meanwhile=meanwhile,
        in_git=in_git,
        without=without,
    )


def _editor(request: Request, draft: Draft, **more: Any) -> Response:
    """The page with a text. Without scripts, what was found about the text stands on it."""
    console: Console = request.app.state.console
    known: dict[str, Any] = {
        **dict.fromkeys(("source", "in_git", "answer", "result", "outcome", "own", "meanwhile", "current")),
        **dict.fromkeys(("without", "owner"), ""),
        **dict.fromkeys(("others", "others_share"), ()),
        "file": draft.path,
        "most": MAX_CHARACTERS,
        "golden": policy_files.golden_sha(draft.path),
        "missing": trials.missing(console.settings),
    }
    if "place" not in more:
        known |= {"place": _place_in(request), "began": _began_in(request)}
    return rendering.page(request, "policy_edit.html", draft=draft, **{**known, **more})


def _place_in(request: Request) -> policy_drafts.Place:
    """The page and the change that a form comes from; a page of its own where it says none."""
    try:
        place = policy_drafts.place_of(*(asked(request, name) for name in ("editor", "number", "saved")))
    except RefusedError:
        return policy_drafts.Place(uuid.uuid4().hex, 0, 0)
    return place._replace(number=place.number + 1)


def _began_in(request: Request) -> policy_drafts.Base:
    """What the text of a form began from. Raises RefusedError for what no page sends."""
    version, revision = asked(request, "version"), asked(request, "revision")
    if len(version) > _NAME or len(asked(request, "base")) > _NAME or len(revision) > _REVISION:
        raise RefusedError("This form is out of date. Open the editor once more.")
    counted = int(revision) if revision.isascii() and revision.isdecimal() else None
    return policy_drafts.Base(asked(request, "base"), version or None, counted)


def keep(request: Request) -> Response:
    """Keep the text as the person's draft. A script gets how often that was done, and when."""
    draft = draft_in(request)
    if len(draft.document) > MAX_CHARACTERS:
        raise RefusedError(f"A draft has at most {MAX_CHARACTERS:,} characters. This text is not kept.")
    place = policy_drafts.place_of(*(asked(request, name) for name in ("editor", "number", "saved")))
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        began = _began_in(request)
        kept = policy_drafts.keep(connection, request.state.by, draft.policy_id, draft.document, began, place)
    if rendering.is_partial(request):
        return JSONResponse({"saved": kept.saved, "number": kept.number, "at": rendering.moment(kept.saved_at)})
    return back(request, _editor_url(draft.policy_id), "Kept as your draft.")


def discard(request: Request) -> Response:
    """Delete the person's draft."""
    policy_id, said = _change_draft(request, "discard draft", policy_drafts.discard)
    url = f"{_editor_url(policy_id)}&from={_NEW}"  # nobody may have released this policy yet
    return back(request, url, "The draft is discarded." if said else _NO_DRAFT)


def share(request: Request) -> Response:
    """Let other people who edit policies read the person's draft, or no more."""
    shared = asked(request, "shared") == "1"
    policy_id, said = _change_draft(
        request,
        "share draft" if shared else "end sharing",
        lambda connection, who, name: policy_drafts.share(connection, who, name, shared=shared),
    )
    done = "Other people who edit policies may read your draft now." if shared else "Nobody else reads your draft."
    return back(request, _editor_url(policy_id), done if said else _NO_DRAFT)


def rebase(request: Request) -> Response:
    """Take the person's draft for one that began from what they were shown: they took over what changed meanwhile."""
    saved = asked(request, "saved")
    count = int(saved) if saved.isascii() and saved.isdecimal() and len(saved) <= _REVISION else -1
    base = _began_in(request)
    policy_id, said = _change_draft(
        request,
        "rebase draft",
        lambda connection, who, name: policy_drafts.rebase(connection, who, name, count, base),
    )
    text = (
        "Your draft is based on the present version now." if said else "Your draft changed meanwhile: look once more."
    )
    return back(request, _editor_url(policy_id), text)


def _change_draft(request: Request, action: str, change: Callable[[Connection, str, str], bool]) -> tuple[str, bool]:
    """Change the person's draft of a policy. Returns the policy's id, and whether there was one."""
    console: Console = request.app.state.console
    policy_id = asked(request, "id")
    policy_files.path_of(console.settings, policy_id)
    with transaction(console.engine) as connection:
        done = change(connection, request.state.by, policy_id)
        if done:
            log_access(connection, request, action, policy_id)
    return policy_id, done


def _editor_url(policy_id: str) -> str:
    return "/policy/edit?" + urlencode({"id": policy_id})


async def check(request: Request) -> Response:
    """The messages of `safeguard policy check` about a text."""
    console: Console = request.app.state.console
    draft = draft_in(request)
    answer = await _checked(console, draft)
    if not rendering.is_partial(request):
        return _editor(request, draft, answer=answer)
    return rendering.page(request, "policy_problems.html", answer=answer, file=draft.path)


def _require_model(console: Console) -> None:
    if reason := trials.missing(console.settings):
        raise RefusedError(reason)


def _trial(name: str) -> Any:
    try:
        return trials.load(name)
    except ImportError as error:
        raise RefusedError(
            f"{error.name} is not installed here: install infra/requirements/all-cpu.txt to try policies."
        ) from error


@contextlib.contextmanager
def _as_refusal() -> Iterator[None]:
    """What the model's side raises says what to do. It is no fault of the console."""
    try:
        yield
    except ConfigurationError:
        raise
    except SafeguardError as error:
        raise RefusedError(str(error)) from error


async def try_text(request: Request) -> Response:
    """What the model says of one text under the policy. The text is kept nowhere."""
    console: Console = request.app.state.console
    _require_model(console)
    draft, text = draft_in(request), asked(request, "text")
    if not text.strip():
        raise RefusedError("Write a text to try.")
    policy = await _fit(console, draft)
    await run_in_threadpool(logged, request, "try policy", draft.policy_id, {"version": policy.version})
    try:
        with _as_refusal():
            async with asyncio.timeout(_TRY_SECONDS):
                outcome = await _trial(trials.ON_TEXT)(console.settings, policy, text)
    except TimeoutError:
        raise RefusedError(f"The model did not answer within {_TRY_SECONDS:.0f} s. Try again later.") from None
    if not rendering.is_partial(request):
        return _editor(request, draft, outcome=outcome)
    return rendering.page(request, "policy_outcome.html", outcome=outcome)


async def test(request: Request) -> Response:
    """The golden set judged under the policy. A script gets its progress as lines of JSON, and the report as the last.

    The test lives as long as its request: to close the connection cancels it.
    """
    console: Console = request.app.state.console
    _require_model(console)
    draft = draft_in(request)
    policy = await _fit(console, draft)
    texts = await run_in_threadpool(golden.load, draft.path.with_name(golden.NAME))
    judge, work = _trial(trials.ON_GOLDEN_SET), _Work(console)
    if rendering.is_partial(request):
        running = work.told(judge, policy, texts)
        return StreamingResponse(_lines(request, draft, policy, running), media_type="application/x-ndjson")
    with _as_refusal():
        report = await work.done(judge, policy, texts)
    await run_in_threadpool(_tested, request, draft, report)
    return _editor(request, draft, result=report)


class _Work:
    """One test of a golden set, as one of the few that run at once."""

    running = 0

    def __init__(self, console: Console) -> None:
        self._settings = console.settings

    async def done(self, judge: Any, policy: Policy, texts: Any) -> dict[str, Any]:
        """The report of a whole test."""
        *_, report = [one async for one in self.told(judge, policy, texts)]
        return report

    async def told(self, judge: Any, policy: Policy, texts: Any) -> AsyncIterator[dict[str, Any]]:
        """Yields how far it is, and the report at the end. Raises RefusedError while too many others run."""
        if _Work.running >= _TESTS:
            raise RefusedError(f"{_TESTS} tests run at the moment. Wait until one of them has ended.")
        _Work.running += 1
        progress: dict[str, Any] = {}

        def on_progress(title: str, count: int, total: int, **_: str) -> None:
            progress.update(title=title, count=count, total=total)

        judging = asyncio.ensure_future(judge(self._settings, policy, texts, on_progress))
        try:
            while not (await asyncio.wait({judging}, timeout=_TOLD_SECONDS))[0]:
                yield dict(progress)
            yield judging.result()
        finally:
            _Work.running -= 1
            judging.cancel()


async def _lines(
    request: Request, draft: Draft, policy: Policy, running: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[bytes]:
    """Progress, and at the end the report or what went wrong, as HTML."""
    await run_in_threadpool(logged, request, "begin test", draft.policy_id, {"version": policy.version})
    try:
        async for told in running:
            if "confusion" not in told:
                yield _line({"progress": told})
                continue
            await run_in_threadpool(_tested, request, draft, told)
            shown = rendering.page(request, "policy_report.html", result=told)
            yield _line({"html": bytes(shown.body).decode()})
    except (SafeguardError, RefusedError) as error:
        yield _line({"problem": rendering.visible(error)})
    except Exception as error:  # a fault of the console; its message may quote content
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error("test failed error=%s at=%s:%s", type(error).__name__, place.name, place.lineno)  # noqa: TRY400 - as above
        yield _line({"problem": "The test failed. The console's log says where; tell your administrator."})


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _tested(request: Request, draft: Draft, report: dict[str, Any]) -> None:
    """Keep the figures of a test, without texts: the question before a release names them."""
    right = sum(report["confusion"][side].get(side, 0) for side in ("violates", "safe"))
    figures = {"version": report["version"], "golden": policy_files.golden_sha(draft.path), "right": right}
    figures |= {"texts": report["texts"], "model": report["model"]}
    logged(request, "test policy", draft.policy_id, figures)


PAGES = (
    Page("policy_edit", "GET", "/policy/edit", "edit", edit),
    Page("policy_draft", "POST", "/policy/draft", "edit", keep, MOST),
    Page("discard_draft", "POST", "/policy/draft/discard", "edit", discard),
    Page("share_draft", "POST", "/policy/draft/share", "edit", share),
    Page("rebase_draft", "POST", "/policy/draft/base", "edit", rebase),
    Page("policy_check", "POST", "/policy/check", "edit", check, MOST),
    Page("policy_try", "POST", "/policy/try", "edit", try_text, MOST),
    Page("policy_test", "POST", "/policy/test", "edit", test, MOST),
)
