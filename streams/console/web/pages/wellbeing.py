"""What people see of which harm, for themselves and for their lead: limits, how texts appear, own figures."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from safeguard_streams.console.web import harms, judgements, rendering
from safeguard_streams.console.web.console import Console
from safeguard_streams.console.web.guard import Page, RefusedError, back
from safeguard_streams.console.web.harms import EVERY_HARM, LONGEST_HARM, Display
from safeguard_streams.console.web.pages.quality import DAYS, period
from safeguard_streams.console.web.writing import asked, log_access, transaction

_MOST, _DIGITS = 100_000, 6  # items on a day


def show_own(request: Request) -> Response:
    """What somebody saw and decided, and how texts appear to them."""
    console: Console = request.app.state.console
    by, shown = request.state.by, period(request)
    with console.engine.connect() as connection:
        together = judgements.load(connection, shown.since, judged_by=by)
        today, avoided = harms.today(connection, by), harms.avoided(connection, by)
        display, known = harms.display(connection, by), harms.of_policies(connection)
    rows = [one for one in together if one.who == by]
    return rendering.page(
        request,
        "own.html",
        period=shown,
        all_days=DAYS,
        rows=rows,
        models=judgements.with_model(rows),
        golden=judgements.golden(rows),
        colleagues=judgements.with_colleagues(together, by),
        today=today,
        avoided=avoided,
        display=display,
        harms=sorted(set(known.values())),
    )


def set_display(request: Request) -> Response:
    """Remember how somebody wants to see texts."""
    console: Console = request.app.state.console
    with transaction(console.engine) as connection:
        known = sorted(set(harms.of_policies(connection).values()))
        asked_for = {str(value) for value in request.state.form.getlist("unveiled")}
        chosen = Display(asked(request, "grey") == "1", asked(request, "small") == "1", sorted(asked_for & set(known)))
        harms.set_display(connection, request.state.by, chosen)
    return back(request, "/own", "Remembered.")


def show_limits(request: Request) -> Response:
    """How much each person saw of each harm, and the limits."""
    console: Console = request.app.state.console
    with console.engine.connect() as connection:
        people = harms.of_week(connection)
        limits = harms.limits(connection)
        known = {*harms.of_policies(connection).values(), *limits, *(one.harm for one in people)} - {EVERY_HARM}
    return rendering.page(request, "exposure.html", people=people, limits=limits, harms=sorted(known), every=EVERY_HARM)


def set_limit(request: Request) -> Response:
    """Set or remove the daily limit of a harm."""
    console: Console = request.app.state.console
    harm, most = asked(request, "harm"), asked(request, "most").strip()
    if not 0 < len(harm) <= LONGEST_HARM:
        raise RefusedError(f"Name a harm in at most {LONGEST_HARM} characters.")
    if most and (not most.isdecimal() or len(most) > _DIGITS or int(most) > _MOST):
        raise RefusedError(f"Write a number of items from 0 to {_MOST:,}, or nothing for no limit.")
    with transaction(console.engine) as connection:
        harms.limit(connection, harm, int(most) if most else None, request.state.by)
        log_access(connection, request, "limit", harm, {"most": most or "none"})
    about = "every other harm" if harm == EVERY_HARM else rendering.line(harm)
    return back(request, "/exposure", f"{about}: {f'at most {int(most):,} a day' if most else 'no limit'}.")


PAGES = (
    Page("own", "GET", "/own", "reveal", show_own),
    Page("set_display", "POST", "/own", "reveal", set_display),
    Page("exposure", "GET", "/exposure", "limits", show_limits),
    Page("set_limit", "POST", "/exposure", "limits", set_limit),
)
