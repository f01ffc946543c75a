"""Who somebody is: by a real OpenID provider, by a trusted proxy, or nobody but this machine's user."""

import logging
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from oidc_provider_mock import User, run_server_in_thread
from starlette.testclient import TestClient

from safeguard_streams.console.web import sessions
from safeguard_streams.console.web.app import build
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.runtime import settings
from tests.unit.console.web.conftest import SECRET, TOKEN

EVERY_PAGE = (
    "/",
    "/queue",
    "/item?id=post-000",
    "/search",
    "/policies",
    "/policy?id=fraud-spam",
    "/replays",
    "/replay?id=2026-11-harsher",
    "/audit",
)
GROUPS = {"mods": ("reviewer",), "leads": ("auditor",)}


@pytest.fixture(scope="module")
def provider():
    people = [
        User(sub="1", claims={"preferred_username": "rita\u202e", "groups": ["mods", "staff"]}),
        User(sub="2", claims={"preferred_username": "otto", "groups": "leads"}),
        User(sub="3", claims={"groups": ["mods"]}),
        User(sub="4", claims={"preferred_username": "nemo"}),
    ]
    with run_server_in_thread(require_nonce=True, user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def signing_in(provider, filled):
    current = settings.load(
        bootstrap="127.0.0.1:1",
        console_oidc_issuer=provider,
        console_oidc_client_id="console",
        console_oidc_client_secret="s",
        console_roles=GROUPS,
        console_url="http://testserver",
    )
    return TestClient(build(current, filled), follow_redirects=False)


def authorize(client, subject):
    """From the console to the provider, where somebody signs in; returns the URL that leads back."""
    away = client.get("/sign-in/provider").headers["location"]
    return httpx.post(away, data={"sub": subject}).headers["location"], parse_qs(urlsplit(away).query)


def test_a_person_signs_in_at_the_provider_and_comes_back_to_the_page(signing_in):
    assert signing_in.get("/search?words=visit").headers["location"] == "/sign-in"
    assert "/sign-in/provider" in signing_in.get("/sign-in").text
    home, asked = authorize(signing_in, "1")
    assert asked["response_type"] == ["code"]
    assert asked["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    assert signing_in.get(home).headers["location"] == "/search?words=visit"
    page = signing_in.get("/").text
    assert "rita\ufffd · reviewer" in page, "a name is plain text in every record"
    assert signing_in.get("/audit").status_code == 403


def test_groups_in_one_text_count_and_a_person_without_groups_may_do_nothing(signing_in):
    signing_in.get(authorize(signing_in, "2")[0])
    assert signing_in.get("/audit").status_code == 200
    signing_in.cookies.clear()
    signing_in.get(authorize(signing_in, "4")[0])
    assert [signing_in.get(url).status_code for url in ("/", "/queue", "/search", "/policies")] == [403] * 4


def test_a_sign_in_without_a_name_is_refused(signing_in):
    answered = signing_in.get(authorize(signing_in, "3")[0])
    assert answered.status_code == 400
    assert "preferred_username" in answered.text
    assert signing_in.get("/").status_code == 303


def test_an_answer_counts_once_and_only_in_the_browser_that_asked(signing_in):
    home, _ = authorize(signing_in, "1")
    other = TestClient(signing_in.app, follow_redirects=False)
    assert other.get(home).status_code == 400, "login CSRF: another browser has another state"
    forged = home.replace("state=", "state=x")
    assert signing_in.get(forged).status_code == 400
    assert signing_in.get(home).status_code == 303
    assert signing_in.get(home).status_code == 400, "a code and its state are used once"


def test_a_sign_in_leads_to_no_other_site(signing_in):
    signing_in.get("//evil.example/x")
    home, _ = authorize(signing_in, "1")
    assert signing_in.get(home).headers["location"] == "/"


def test_signing_out_ends_the_session(signing_in):
    signing_in.get(authorize(signing_in, "1")[0])
    token = TOKEN.search(signing_in.get("/").text)[1]
    assert signing_in.post("/sign-out").status_code == 403
    assert signing_in.post("/sign-out", data={"token": token}).headers["location"] == "/sign-in"
    assert signing_in.get("/").status_code == 303


def test_a_session_ends_whatever_is_requested_later(signing_in, monkeypatch):
    signing_in.get(authorize(signing_in, "1")[0])
    began = sessions.time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: began + 8 * 3600 - 60)
    assert signing_in.get("/").status_code == 200
    monkeypatch.setattr(sessions.time, "time", lambda: began + 8 * 3600 + 60)
    assert signing_in.get("/").status_code == 303


def test_a_cookie_that_somebody_wrote_signs_nobody_in(signing_in):
    signing_in.get(authorize(signing_in, "1")[0])
    name, value = next(iter(signing_in.cookies.items()))
    signing_in.cookies.clear()
    written = "A" + value[1:]
    assert signing_in.get("/", headers={"cookie": f"{name}={value}"}).status_code == 200
    assert signing_in.get("/", headers={"cookie": f"{name}={written}"}).status_code == 303


def test_a_provider_that_is_away_is_said(filled):
    current = settings.load(
        bootstrap="127.0.0.1:1",
        console_oidc_issuer="http://127.0.0.1:1",
        console_oidc_client_id="console",
        console_roles=GROUPS,
        console_url="http://testserver",
    )
    answered = TestClient(build(current, filled)).get("/sign-in/provider")
    assert answered.status_code == 400
    assert "does not answer" in answered.text


@pytest.mark.parametrize(
    ("headers", "address", "status"),
    [
        ({}, "127.0.0.1", 200),
        ({"x-safeguard-proxy": "another secret"}, "127.0.0.1", 303),
        ({"x-safeguard-proxy": ""}, "127.0.0.1", 303),
        ({"x-forwarded-user": ""}, "127.0.0.1", 303),
        ({"x-forwarded-for": "127.0.0.1"}, "10.1.2.3", 303),
        ({"x-forwarded-groups": "unknown"}, "127.0.0.1", 403),
    ],
)
def test_a_proxy_is_believed_by_its_secret_and_its_address(app, headers, address, status):
    given = {"x-safeguard-proxy": SECRET, "x-forwarded-user": "ann", "x-forwarded-groups": "admin"} | headers
    client = TestClient(app, headers=given, client=(address, 1), follow_redirects=False)
    assert client.get("/").status_code == status


def test_without_sign_in_the_console_serves_this_machine_only(filled):
    local = settings.load(bootstrap="127.0.0.1:1")
    client = TestClient(build(local, filled), base_url="http://127.0.0.1:6071")
    assert "serves 127.0.0.1 only" in client.get("/").text
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 400
    for host in ("0.0.0.0", "10.0.0.5", "::"):
        with pytest.raises(ConfigurationError, match="serves 127.0.0.1 only"):
            build(settings.load(bootstrap="127.0.0.1:1", host=host), filled)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"console_proxy_secret": SECRET, "console_oidc_issuer": "https://x"}, "not both"),
        ({"console_oidc_issuer": "https://x"}, "CLIENT_ID"),
        ({"console_oidc_issuer": "https://x", "console_oidc_client_id": "c"}, "CONSOLE_ROLES"),
        ({"console_proxy_secret": SECRET, "console_proxy_addresses": "nowhere"}, "PROXY_ADDRESSES"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(filled, given, said):
    with pytest.raises(ConfigurationError, match=said):
        build(settings.load(bootstrap="127.0.0.1:1", **given), filled)


def test_over_https_the_cookie_and_the_headers_say_so(filled, current):
    https = current.model_copy(update={"console_url": "https://console.example"})
    answered = TestClient(build(https, filled), base_url="https://console.example", follow_redirects=False).get(
        "/sign-in"
    )
    cookie = answered.headers["set-cookie"]
    assert cookie.startswith("__Host-safeguard_console=")
    assert all(part in cookie for part in ("secure", "httponly", "samesite=lax", "path=/"))
    assert "max-age=" in answered.headers["strict-transport-security"]


def test_every_response_has_its_headers_and_the_log_has_no_query(browser, caplog):
    caplog.set_level(logging.INFO, "safeguard_streams")
    ann = browser("ann", "admin")
    for url in ("/search?words=a+secret+word", "/static/console.js", "/nothing-secret-here", "/item?id=secret-id"):
        answered = ann.get(url)
        policy = answered.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answered.headers["x-content-type-options"] == "nosniff"
    assert "path=/search status=200" in caplog.text
    assert "secret" not in caplog.text


def test_no_page_has_an_inline_script_or_style_or_another_host(browser):
    ann = browser("ann", "admin")
    for url in (
        "/",
        "/queue",
        "/item?id=post-000",
        "/search",
        "/policies",
        "/policy?id=fraud-spam",
        "/audit",
        "/replays",
    ):
        page = ann.get(url).text
        assert "style=" not in page, url
        assert "<style" not in page, url
        assert " onclick" not in page, url
        assert page.count("<script") == page.count('<script src="/static/')
        assert "https://" not in page, url


def test_a_form_without_this_sessions_token_is_refused(app, browser):
    ann, ben = browser("ann", "admin"), browser("ben", "admin")
    stolen = TOKEN.search(ben.get("/").text)[1]
    for fields in ({}, {"token": ""}, {"token": stolen}):
        assert ann.client.post("/claims", data=fields).status_code == 403
    token = TOKEN.search(ann.get("/").text)[1]
    cross = ann.client.post("/claims", data={"token": token}, headers={"sec-fetch-site": "cross-site"})
    assert cross.status_code == 403
    assert ann.client.post("/claims", data={"token": token, "x": "y" * 200_000}).status_code == 413


def test_nobody_asks_without_end(filled, current):
    app = build(current, filled)
    app.state.console.entrance_rates._per_minute = 5
    client = TestClient(app)
    statuses = [client.get("/sign-in").status_code for _ in range(8)]
    assert statuses[:5] == [200] * 5
    assert statuses[-1] == 429


def test_probes_reach_a_process_by_its_address_and_pages_by_their_name(filled):
    named = settings.load(
        bootstrap="127.0.0.1:1",
        console_url="https://console.example.com",
        console_oidc_issuer="http://127.0.0.1:1",
        console_oidc_client_id="console",
        console_roles={"mods": ("reviewer",)},
    )
    client = TestClient(build(named, filled), base_url="http://10.0.0.7:6071", follow_redirects=False)
    answered = {url: client.get(url).status_code for url in ("/health/live", "/health/ready", "/metrics", "/")}
    assert answered == {"/health/live": 200, "/health/ready": 200, "/metrics": 200, "/": 400}


def test_a_proxys_name_is_read_as_utf8(app):
    headers = {"x-safeguard-proxy": SECRET, "x-forwarded-user": "Zoë Łuk".encode(), "x-forwarded-groups": "reviewer"}
    client = TestClient(app, headers=headers, client=("127.0.0.1", 1))
    assert "Zoë Łuk · reviewer" in client.get("/").text


@pytest.mark.parametrize(("name", "forged"), [("x-forwarded-user", "mallory"), ("x-forwarded-groups", "admin")])
def test_a_header_that_comes_twice_signs_nobody_in(app, name, forged):
    sent = [("x-safeguard-proxy", SECRET), ("x-forwarded-user", "ann"), ("x-forwarded-groups", "reviewer")]
    client = TestClient(app, client=("127.0.0.1", 1), follow_redirects=False)
    assert client.get("/queue", headers=sent).status_code == 200
    assert client.get("/queue", headers=[(name, forged), *sent]).headers["location"] == "/sign-in"


def test_a_link_to_the_provider_ends_no_session(signing_in):
    signing_in.get(authorize(signing_in, "1")[0])
    assert signing_in.get("/sign-in/provider").headers["location"] == "/"
    assert signing_in.get("/queue").status_code == 200
