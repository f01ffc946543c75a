"""Questions before a change of what is in force, and the change: once, refused when it is late, and written to git."""

import html
import re
import subprocess

import pytest
from sqlalchemy import select

from safeguard_streams.console.schema import audit_log
from safeguard_streams.console.web import policy_changes
from safeguard_streams.console.web.app import build
from safeguard_streams.console.web.checker import Answer
from safeguard_streams.console.web.checking import Checker
from safeguard_streams.console.web.pages import policy_releases
from safeguard_streams.console.web.roles import Person
from safeguard_streams.console.web.writing import log_access, transaction
from safeguard_streams.contract.records import PolicyRelease, now
from safeguard_streams.errors import BusError
from safeguard_streams.policies.check import check_texts
from safeguard_streams.policies.files import LIBRARY, PolicyFiles
from safeguard_streams.policies.parsing import parse
from safeguard_streams.releases import model_notice, operator
from safeguard_streams.releases.operator import ChangedBy, ReleaseHistory
from tests.unit.console.web.conftest import Browser
from tests.unit.console.web.filling import policies

POLICY = policies()[0]
ID = POLICY.id
RULE = POLICY.violating[0]
SECOND = POLICY.document.replace(f"- {RULE}: ", f"- {RULE}: In any words, ", 1)
ASKED = re.compile(r'name="(changes|base|to)" value="([^"]*)"')


class Topic:
    """Stands for Kafka: the history, and changes that are planned by it and written together."""

    def __init__(self) -> None:
        self.changes, self.in_force, self.shadows, self.away = [], {}, {}, False

    async def history(self, _settings=None):
        if self.away:
            raise BusError("away")
        return ReleaseHistory(list(self.changes), dict(self.in_force), dict(self.shadows))

    async def change(self, _settings, plan):
        made = plan(await self.history())
        for one in made:
            self.changes.append(one)
            place = self.shadows if one.action in ("shadow", "end-shadow") else self.in_force
            if one.release is None:
                place.pop(one.policy_id)
            else:
                place[one.policy_id] = one.release
        return made

    def made(self):
        return [(one.action, one.changed_by, one.why) for one in self.changes]


@pytest.fixture
async def topic(monkeypatch):
    made = Topic()
    monkeypatch.setattr(operator, "history", made.history)
    monkeypatch.setattr(operator, "change", made.change)
    monkeypatch.setattr(policy_releases, "_PROJECTED_SECONDS", 0)  # nothing projects here

    async def learned_all(*_):
        return ""

    monkeypatch.setattr(model_notice, "unlearned", learned_all)
    await made.change(None, operator.releasing([POLICY], ChangedBy("first", "mia")))
    return made


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The check in this process, which has loaded everything; no golden gate is learned."""

    def ask(*given):
        question = given[-1]
        texts = PolicyFiles(question.document, question.distilled)
        checked = check_texts(texts, LIBRARY / ID / "policy.md", named_by_folder=True)
        return Answer(checked.report(), ("no golden gate was learned",) if question.learn else ())

    monkeypatch.setattr(Checker, "ask", ask)
    monkeypatch.setattr(policy_releases, "learned", ask)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout with the policy in force, and how to run git in it."""
    folder = tmp_path_factory.mktemp("library")

    def run(*arguments):
        command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--quiet", "--initial-branch", "main")
    (folder / ID).mkdir()
    (folder / ID / "policy.md").write_text(POLICY.document)
    run("add", "--all")
    run("commit", "--quiet", "--message", "begin")
    run("tag", "begin")
    run.folder, run.file, run.hook = folder, folder / ID / "policy.md", folder / ".git/hooks/pre-commit"
    run.hook.parent.mkdir(exist_ok=True)
    return run


@pytest.fixture
def library(checkout, monkeypatch):
    """The checkout as it was at first."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    checkout.hook.unlink(missing_ok=True)
    checkout("reset", "--quiet", "--hard", "begin")
    return checkout


@pytest.fixture(scope="module")
def with_checkout(checkout, filled, current):
    return build(current.model_copy(update={"console_policies": checkout.folder}), filled)


@pytest.fixture
def ann(topic, library, with_checkout):
    """An author at a console with a checkout. Its address comes from the proxy."""
    browser = Browser(with_checkout, "ann", "author")
    browser.client.headers["x-forwarded-email"] = "ann@example.com"
    return browser


def ask(browser, kind, **fields):
    """The question's page, and the fields that its form would send."""
    page = browser.post("/policy/question", id=ID, kind=kind, **fields)
    assert page.status_code == 200, page.text
    return html.unescape(page.text), {
        "id": ID,
        "kind": kind,
        "why": "clearer",
        **fields,
        **dict(ASKED.findall(page.text)),
    }


def base_of(browser):
    return re.search(r'name="base" value="([^"]*)"', browser.get(f"/policy/edit?id={ID}").text)[1]


def said(browser, answered):
    assert answered.status_code == 303, answered.text
    return html.unescape(
        re.search(r'role="status"><span class="foreign">(.*?)</span>', browser.get("/policies").text)[1]
    )


def entries(engine, action):
    with engine.connect() as connection:
        wanted = select(audit_log.c.who, audit_log.c.details).where(
            audit_log.c.action == action, audit_log.c.object == ID
        )
        return connection.execute(wanted).all()


def test_a_release_says_what_will_happen_and_does_it_once(ann, topic, library, filled):
    version = parse(SECOND).version
    page, form = ask(ann, "release", document=SECOND.replace("\n", "\r\n"), base=base_of(ann))
    assert f"From version {POLICY.version}, revision 1 by mia, to version {version}" in re.sub(r"</?code>", "", page)
    assert "In any words, " in page
    assert "A replay is advised." in page
    assert "Nobody tested this version" in page
    assert "on branch main, as ann <ann@example.com>" in page
    assert topic.made() == [("release", "mia", "first")], "a question changes nothing"

    before = len(entries(filled, "release"))
    first = said(ann, ann.post("/policy/change", **form))
    assert f"Released: revision 2, version {version}. Committed as " in first
    head = library("rev-parse", "HEAD")
    again = said(ann, ann.post("/policy/change", **form))
    assert f"Released: revision 2, version {version}. git holds it already." in again
    assert topic.made() == [("release", "mia", "first"), ("release", "ann", "clearer")]
    assert topic.in_force[ID].document == SECOND, "line ends as git has them"
    assert library.file.read_text() == SECOND
    assert library("rev-parse", "HEAD") == head
    assert library("log", "-1", "--format=%an <%ae>") == "ann <ann@example.com>"
    assert "Released-by: ann" in library("log", "-1", "--format=%B")
    assert len(entries(filled, "release")) == before + 1


def test_a_process_that_was_killed_before_the_commit_commits_when_asked_again(ann, topic, library, monkeypatch):
    _, form = ask(ann, "release", document=SECOND, base=base_of(ann))

    def killed(*_):
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(policy_releases, "_commit", killed)
        assert ann.post("/policy/change", **form).status_code == 500
    assert len(topic.changes) == 2
    assert library.file.read_text() == POLICY.document
    assert "Committed as" in said(ann, ann.post("/policy/change", **form))
    assert len(topic.changes) == 2
    assert library.file.read_text() == SECOND


async def test_another_change_since_the_question_refuses(ann, topic, library):
    _, form = ask(ann, "release", document=SECOND, base=base_of(ann))
    third = parse(POLICY.document.replace(f"- {RULE}: ", f"- {RULE}: Never, ", 1))
    await topic.change(None, operator.releasing([third], ChangedBy("mine", "ben")))
    answered = ann.post("/policy/change", **form)
    assert answered.status_code == 409
    assert "ben changed" in answered.text
    assert topic.in_force[ID].version == third.version
    assert library.file.read_text() == POLICY.document


async def test_an_old_request_does_not_commit_over_what_came_later(ann, topic, library):
    _, form = ask(ann, "release", document=SECOND, base=base_of(ann))
    ann.post("/policy/change", **form)
    _, later = ask(ann, "rollback")
    said(ann, ann.post("/policy/change", **later))
    assert library.file.read_text() == POLICY.document
    said(ann, ann.post("/policy/change", **form))
    assert [one.action for one in topic.changes] == ["release", "release", "rollback"]
    assert library.file.read_text() == POLICY.document


def test_kafka_that_is_away_changes_nothing_and_the_form_can_be_sent_again(ann, topic, library):
    _, form = ask(ann, "release", document=SECOND, base=base_of(ann))
    topic.away = True
    answered = ann.post("/policy/change", **form)
    assert answered.status_code == 503
    assert "Send it once more" in answered.text
    assert library.file.read_text() == POLICY.document
    topic.away = False
    assert "Committed as" in said(ann, ann.post("/policy/change", **form))


def test_a_dirty_or_changed_file_is_refused_before_anything_is_released(ann, topic, library):
    base = base_of(ann)
    library.file.write_text("a colleague's work")
    page, form = ask(ann, "release", document=SECOND, base=base)
    assert "commit or discard" in page
    assert 'name="why"' not in page
    assert "git could not take it" in html.unescape(ann.post("/policy/change", **form).text)
    library("commit", "--quiet", "--all", "--message", "theirs")
    page, _ = ask(ann, "release", document=SECOND, base=base)
    assert "changed meanwhile" in page
    assert len(topic.changes) == 1
    assert library.file.read_text() == "a colleague's work"


def test_a_refused_commit_is_said_and_repaired_by_a_button(ann, topic, library, filled):
    library.hook.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    library.hook.chmod(0o755)
    _, form = ask(ann, "release", document=SECOND, base=base_of(ann))
    told = said(ann, ann.post("/policy/change", **form))
    assert "Released: revision 2" in told
    assert "git was not changed" in told
    assert "no such luck" in told
    assert topic.in_force[ID].document == SECOND
    assert library("status", "--porcelain") == ""
    library.hook.unlink()
    form = {"id": ID, "base": base_of(ann)}
    assert "Committed as" in said(ann, ann.post("/policy/commit", **form))
    assert library.file.read_text() == SECOND
    assert ann.post("/policy/commit", **form).status_code == 409, "the files changed since the page was shown"
    assert entries(filled, "commit policy")[-1].who == "ann"


def test_the_page_shows_when_git_and_the_topic_differ(ann, library):
    page = ann.get(f"/policy?id={ID}").text
    assert "git holds the version in force" in page
    library.file.write_text(SECOND)
    library("commit", "--quiet", "--all", "--message", "theirs")
    page = ann.get(f"/policy?id={ID}").text
    assert "git and the version in force differ" in page
    assert "In any words, " in page
    assert "Commit what is in force" in page
    assert SECOND in html.unescape(ann.get(f"/policy/edit?id={ID}").text), "the editor begins with the file"
    assert "the commit replaces it" in ask(ann, "release", document=SECOND, base=base_of(ann))[0]
    assert "Edit the file in git" not in Browser(ann.client.app, "otto", "auditor").get(f"/policy?id={ID}").text


def test_a_shadow_is_started_promoted_and_leaves_git_alone_until_then(ann, topic, library, filled):
    before = [len(entries(filled, action)) for action in ("shadow", "promote")]
    page, form = ask(ann, "shadow", document=SECOND, base=base_of(ann), share="5")
    assert "judges 5.0% of content" in page
    assert "git is not changed" in page
    said(ann, ann.post("/policy/change", **form))
    said(ann, ann.post("/policy/change", **form))
    assert topic.shadows[ID].shadow == 0.05
    assert topic.in_force[ID].version == POLICY.version
    assert library.file.read_text() == POLICY.document
    _, form = ask(ann, "promote")
    assert "Committed as" in said(ann, ann.post("/policy/change", **form))
    said(ann, ann.post("/policy/change", **form))
    assert [one.action for one in topic.changes] == ["release", "shadow", "release", "end-shadow"]
    assert topic.in_force[ID].document == SECOND
    assert not topic.shadows
    assert library.file.read_text() == SECOND
    assert [len(entries(filled, action)) for action in ("shadow", "promote")] == [before[0] + 1, before[1] + 1]


def test_a_shadow_is_ended(ann, topic):
    _, form = ask(ann, "shadow", document=SECOND, base="", share="0,5 %")
    ann.post("/policy/change", **form)
    assert topic.shadows[ID].shadow == 0.005
    page, form = ask(ann, "end-shadow")
    assert "What is in force does not change" in page
    assert "ended" in said(ann, ann.post("/policy/change", **form))
    assert "ended" in said(ann, ann.post("/policy/change", **form))
    assert [one.action for one in topic.changes] == ["release", "shadow", "end-shadow"]


@pytest.mark.parametrize("share", ["", "0", "101", "-1", "nan", "many"])
def test_a_share_that_is_none_is_refused(ann, topic, share):
    answered = ann.post("/policy/question", id=ID, kind="shadow", document=SECOND, share=share)
    assert answered.status_code == 409
    assert len(topic.changes) == 1


@pytest.mark.parametrize("to", ["1", ""])
def test_a_roll_back_returns_to_a_revision_or_to_the_one_before(ann, topic, library, to):
    _, form = ask(ann, "release", document=SECOND, base=base_of(ann))
    ann.post("/policy/change", **form)
    page, form = ask(ann, "rollback", to=to)
    assert f"to version {POLICY.version}" in re.sub(r"</?code>", "", page)
    assert "Rolled back: revision 3" in said(ann, ann.post("/policy/change", **form))
    assert "Rolled back: revision 3" in said(ann, ann.post("/policy/change", **form))
    assert [one.action for one in topic.changes] == ["release", "release", "rollback"]
    assert library.file.read_text() == POLICY.document


def test_without_a_checkout_the_release_goes_on_and_says_so(topic, app):
    ann = Browser(app, "ann", "author")
    page, form = ask(ann, "release", document=SECOND, base="")
    assert "not committed to git" in page
    assert "not committed to git" in said(ann, ann.post("/policy/change", **form))
    assert topic.in_force[ID].document == SECOND


def test_errors_and_what_stands_already_have_no_button(ann, topic):
    for document, told in (
        (SECOND.replace("## SAFE", "## SAVE"), "The check finds errors"),
        (SECOND.replace(f"id: {ID}", "id: another"), "but the folder is"),
        (POLICY.document, "is in force already"),
    ):
        page, form = ask(ann, "release", document=document, base=base_of(ann))
        assert told in page
        assert 'name="why"' not in page
        ann.post("/policy/change", **form)
        assert len(topic.changes) == 1


def test_a_form_without_a_reason_or_a_count_changes_nothing(ann, topic):
    _, form = ask(ann, "release", document=SECOND, base=base_of(ann))
    for wrong in ({"why": " "}, {"changes": ""}, {"changes": "x"}, {"kind": "burn"}, {"why": "a\nb"}):
        assert ann.post("/policy/change", **{**form, **wrong}).status_code == 409
    assert len(topic.changes) == 1


def test_the_newest_test_of_the_version_is_named(ann, filled):
    version = parse(SECOND).version
    request = type("Request", (), {"scope": {"person": Person("ben", ("author",))}})()
    figures = {"version": version, "golden": "0" * 12, "texts": 66, "right": 64, "model": "m"}
    with transaction(filled) as connection:
        log_access(connection, request, "test policy", ID, {**figures, "right": 1})
        log_access(connection, request, "test policy", ID, figures)
        log_access(connection, request, "test policy", ID, {**figures, "version": "other", "right": 2})
    page, _ = ask(ann, "release", document=SECOND, base=base_of(ann))
    assert "64 of 66 golden texts are judged as labelled, by m: ben tested this version" in page
    assert "The golden set has changed since." in page


def test_gates_that_fall_away_are_named():
    document = POLICY.document
    gate = re.search(r"^gate:\n(?: .*\n|#.*\n)+", document, re.MULTILINE)[0]
    weaker = parse(document.replace(gate, "gate: {terms: [blue], sample: 0.01}\n"))
    stronger = parse(document.replace(gate, "gate: {everything: true, terms: [blue, green], sample: 0.02}\n"))
    found = policy_changes.effect(released(stronger), weaker)
    assert [one.split(":")[0] for one in found.lost] == [
        "everything",
        "terms",
        "a sample of 2.00%, which becomes 1.00%",
    ]
    assert "green" in found.lost[1]
    assert "blue" not in found.lost[1]
    assert policy_changes.effect(released(weaker), stronger).lost == ()
    assert policy_changes.effect(None, weaker) is None


def released(policy):
    return PolicyRelease(policy.id, policy.version, 1, policy.document, now(), "mia")


def test_a_rule_that_is_added_removed_or_changed_is_shown():
    safe = POLICY.safe[-1]
    line = next(one for one in POLICY.document.split("\n") if one.startswith(f"- {RULE}: "))
    changed = parse(SECOND)
    (one,) = policy_changes.effect(released(POLICY), changed).rules
    assert (one.rule_id, one.before in line, one.after.startswith("In any words, ")) == (RULE, True, True)
    assert safe not in [rule.rule_id for rule in policy_changes.effect(released(POLICY), changed).rules]
