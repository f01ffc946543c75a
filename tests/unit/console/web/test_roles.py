"""Who may what: each role against each route, and no button that would be refused."""

import re
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from safeguard_streams.console.web.app import PAGES
from safeguard_streams.console.web.roles import GRANTED, ROLES, Person, roles_of
from tests.unit.console.web.filling import REPLAY, policies

# Written out once more, by hand: what the table is meant to say.
MEANT = {
    "reviewer": {"look", "items", "reveal", "decide", "flips"},
    "author": {"look", "items", "reveal", "quality", "edit", "release", "replay", "flips"},
    "auditor": {"look", "items", "reveal", "rationale", "export", "audit", "quality"},
    "operator": {"look", "limits", "replay", "promote"},
    "admin": set(GRANTED),
}
OPEN = {"sign_in", "to_provider", "signed_in", "sign_out"}
ACTION = re.compile(r'(?:<form[^>]+method="post"[^>]+ action|formaction)="([^"]+)"|href="(/[^"?#]*)')


def test_the_table_of_permissions_is_the_one_that_is_meant():
    assert {role: {name for name, roles in GRANTED.items() if role in roles} for role in ROLES} == MEANT


def test_only_signing_in_and_out_takes_no_permission():
    assert {page.name for page in PAGES if page.permission is None} == OPEN


@pytest.mark.parametrize("role", ROLES)
def test_every_route_answers_a_role_by_the_table(browser, role):
    person = browser("ann", role)
    for page in PAGES:
        if page.permission is None or (page.name == "changes" and page.permission in MEANT[role]):
            continue  # the events of `changes` never end; a test of its own reads them
        url = page.path + ("?id=post-000&verdict=none" if page.method == "GET" else "")
        sent = {"content_id": "post-000", "key": uuid4().hex, "id": "no-policy"}
        answered = person.get(url) if page.method == "GET" else person.post(url, **sent)
        assert (answered.status_code == 403) == (page.permission not in MEANT[role]), (page.name, answered.status_code)


def test_nobody_passes_without_signing_in(app):
    client = TestClient(app, follow_redirects=False)
    for page in PAGES:
        if page.permission is not None:
            answered = client.request(page.method, page.path)
            assert answered.status_code == (303 if page.method == "GET" else 401), page.name
            assert answered.headers.get("location", "/sign-in") == "/sign-in"


@pytest.mark.parametrize("role", ROLES)
def test_no_page_shows_a_button_or_a_link_whose_request_is_refused(browser, role):
    person, needs = browser("ann", role), {page.path: page.permission for page in PAGES}
    seen, policy = set(), policies()[0].id
    about = (f"/policy?id={policy}", f"/policy/edit?id={policy}")
    of = f"id={REPLAY}&policy={policy}"
    replays = (
        "/replays",
        "/replays/new",
        f"/replay?id={REPLAY}",
        f"/replay/flips?{of}",
        f"/replay/flip?{of}&item=post-006",
    )
    plans = (f"/replay/plan?{of}&direction=promote", f"/replay/plan?{of}&direction=revert")
    own = ("/author?id=author-1", "/accounts", "/quality", "/own", "/exposure", "/audit")
    for url in ("/", "/queue", "/item?id=post-000", "/search", "/policies", *about, *replays, *plans, *own):
        answered = person.get(url)
        if answered.status_code == 403:
            continue
        for form, link in ACTION.findall(answered.text):
            path = form or link
            if path.startswith("/static"):
                continue
            seen.add(path)
            assert needs[path] is None or needs[path] in MEANT[role], f"{url} offers {path}"
    assert "/policies" in seen
    assert ("/policy/edit" in seen) == ("edit" in MEANT[role])


def test_roles_come_from_groups_and_unknown_groups_give_none():
    mapping = {"mods": ("reviewer",), "leads": ("auditor", "reviewer")}
    assert roles_of(["leads", "mods", "others"], mapping) == ("reviewer", "auditor")
    assert roles_of([], mapping) == ()
    assert not any(Person("ann").may(permission) for permission in GRANTED)
