"""The git checkout that released policies are written to: a real one."""

import subprocess

import pytest

from safeguard_streams.console.web import checkout as module
from safeguard_streams.console.web.checkout import Checkout, CheckoutError, checkout_of
from safeguard_streams.console.web.roles import Person
from safeguard_streams.policies.files import PolicyFiles
from safeguard_streams.runtime import settings

ANN = Person("Ann <Öztürk>", ("author",), "ann@example.com")


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Runs git in a repository that holds a policy, and another file."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")

    def run(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--quiet", "--initial-branch", "main")
    (tmp_path / "spam").mkdir()
    (tmp_path / "spam/policy.md").write_text("first\n")
    (tmp_path / "other").write_text("x")
    run("add", "--all")
    run("commit", "--quiet", "--message", "begin")
    return run


def test_a_release_is_a_commit_by_the_person_of_that_policy_alone(git, tmp_path):
    (tmp_path / "other").write_text("somebody's work")
    (tmp_path / "staged").write_text("y")
    git("add", "staged")
    commit = Checkout(tmp_path).commit("spam", PolicyFiles("second\n", '{"a": 1}'), ANN, "spam: release\n\n# why")
    assert (
        git("log", "-1", "--format=%h %an <%ae>%n%B")
        == f"{commit} Ann Öztürk <ann@example.com>\nspam: release\n\n# why"
    )
    assert git("show", "--name-only", "--format=").split() == ["spam/distilled.json", "spam/policy.md"]
    assert git("status", "--porcelain").split() == ["M", "other", "A", "staged"]
    assert (tmp_path / "spam/policy.md").read_text() == "second\n"


def test_the_same_again_is_no_commit_and_a_classifier_can_go(git, tmp_path):
    checkout = Checkout(tmp_path)
    checkout.commit("spam", PolicyFiles("second\n", "{}"), ANN, "m")
    head = git("rev-parse", "HEAD")
    assert checkout.commit("spam", PolicyFiles("second\n", "{}"), ANN, "m") is None
    assert git("rev-parse", "HEAD") == head
    assert checkout.commit("spam", PolicyFiles("second\n", None), ANN, "m")
    assert not (tmp_path / "spam/distilled.json").exists()
    assert git("status", "--porcelain") == ""


def test_a_new_policy_is_added_and_nobody_needs_an_address(git, tmp_path):
    assert Checkout(tmp_path).commit("fresh", PolicyFiles("x\n", None), Person("bo"), "m")
    assert git("log", "-1", "--format=%an|%ae") == "bo|"


def test_what_nobody_committed_is_an_obstacle(git, tmp_path):
    checkout = Checkout(tmp_path)
    before = checkout.look("spam")
    assert (before.document, before.branch, before.obstacle) == ("first\n", "main", "")
    (tmp_path / "spam/policy.md").write_text("edited\n")
    after = checkout.look("spam")
    assert after.base != before.base
    assert "commit or discard" in after.obstacle
    with pytest.raises(CheckoutError, match="commit or discard"):
        checkout.commit("spam", PolicyFiles("second\n", None), ANN, "m")
    assert (tmp_path / "spam/policy.md").read_text() == "edited\n"


def test_no_branch_and_a_merge_are_obstacles(git, tmp_path):
    git("checkout", "--quiet", "-b", "side")
    (tmp_path / "other").write_text("side")
    git("commit", "--quiet", "--all", "--message", "side")
    git("checkout", "--quiet", "main")
    (tmp_path / "other").write_text("main")
    git("commit", "--quiet", "--all", "--message", "main")
    with pytest.raises(subprocess.CalledProcessError):
        git("merge", "side")
    assert "merge is under way" in Checkout(tmp_path).look("spam").obstacle
    git("merge", "--abort")
    git("checkout", "--quiet", "--detach")
    assert "No branch is checked out" in Checkout(tmp_path).look("spam").obstacle


def test_a_refused_commit_leaves_everything_as_it_was(git, tmp_path):
    hook = tmp_path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'the hook says no' >&2\nexit 1\n")
    hook.chmod(0o755)
    head = git("rev-parse", "HEAD")
    for policy_id in ("spam", "fresh"):
        with pytest.raises(CheckoutError, match="the hook says no"):
            Checkout(tmp_path).commit(policy_id, PolicyFiles("second\n", "{}"), ANN, "m")
    assert git("rev-parse", "HEAD") == head
    assert git("status", "--porcelain") == ""
    assert (tmp_path / "spam/policy.md").read_text() == "first\n"


def test_a_git_that_hangs_is_ended(git, tmp_path, monkeypatch):
    hook = tmp_path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexec sleep 60\n")
    hook.chmod(0o755)
    monkeypatch.setattr(module, "_SECONDS", 1.5)
    with pytest.raises(CheckoutError, match="took longer than"):
        Checkout(tmp_path).commit("spam", PolicyFiles("second\n", None), ANN, "m")
    assert (tmp_path / "spam/policy.md").read_text() == "first\n"
    assert git("status", "--porcelain") == "", "no lock is left"


def test_what_a_hook_leaves_running_is_no_reason_to_take_a_commit_for_refused(git, tmp_path, monkeypatch):
    hook = tmp_path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nsleep 20 &\n")
    hook.chmod(0o755)
    monkeypatch.setattr(module, "_SECONDS", 10.0)
    assert Checkout(tmp_path).commit("spam", PolicyFiles("second\n", None), ANN, "m") == git("log", "-1", "--format=%h")
    assert git("status", "--porcelain") == ""
    assert (tmp_path / "spam/policy.md").read_text() == "second\n"


def test_an_id_that_no_folder_can_have_is_refused(git, tmp_path):
    with pytest.raises(CheckoutError, match="too long for a folder"):
        Checkout(tmp_path).look("a" * 300)


def test_a_link_is_not_followed(git, tmp_path, tmp_path_factory):
    away = tmp_path_factory.mktemp("away")
    (tmp_path / "linked").symlink_to(away)
    with pytest.raises(CheckoutError, match="symbolic link"):
        Checkout(tmp_path).commit("linked", PolicyFiles("x", None), ANN, "m")
    assert list(away.iterdir()) == []


def test_without_a_checkout_it_is_said_why(tmp_path, monkeypatch):
    found = [checkout_of(settings.load(console_policies=one)) for one in (None, tmp_path / "none", tmp_path)]
    assert [checkout for checkout, _ in found] == [None] * 3
    assert [
        part in said for part, (_, said) in zip(("POLICIES", "no folder", "no git checkout"), found, strict=True)
    ] == [True] * 3
    monkeypatch.setenv("PATH", "/nowhere")
    _, said = checkout_of(settings.load(console_policies=tmp_path))
    assert "git is not installed" in said
