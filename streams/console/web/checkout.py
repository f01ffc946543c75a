"""The git checkout that policies are written to: what it holds, and a commit by the person who released.

A commit holds the files of one policy, whatever else is changed or staged. git runs without a shell, without a
terminal, and for a bounded time. Nothing is pushed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from safeguard_streams.console.web.roles import Person
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import PolicyFiles
from safeguard_streams.runtime.settings import Settings

_SECONDS = 30.0  # for one command; a commit runs the repository's hooks
_ENDING = 5.0  # for a command that was told to end, and removes its locks
_UNDER_WAY = {"MERGE_HEAD": "merge", "CHERRY_PICK_HEAD": "cherry-pick", "REVERT_HEAD": "revert"}
_LONGEST = 300  # characters of what git says
_MOST = 1_000_000  # bytes that are read of it: hooks may write any
_LONGEST_ID = 200  # characters; the name of a folder has at most 255 bytes


class CheckoutError(ConfigurationError):
    """git refused. The message is safe to show."""


class InGit(msgspec.Struct, frozen=True):
    """A policy in the checkout. document: None where it has no file. base: names what the files hold now.

    branch: empty where none is checked out. obstacle: why no release of the policy can be committed now, and what to
    do; empty if one can.
    """

    document: str | None
    base: str
    branch: str = ""
    obstacle: str = ""


class Checkout:
    """The folder of policies in a git checkout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def look(self, policy_id: str) -> InGit:
        """What the checkout holds of a policy. Raises CheckoutError."""
        files = self._files(policy_id)
        try:
            branch = self._git("symbolic-ref", "--quiet", "--short", "HEAD").strip()
        except CheckoutError:
            branch = ""
        return InGit(_text(files[0]), _base(files), branch, self._obstacle(policy_id, branch))

    def commit(self, policy_id: str, texts: PolicyFiles, by: Person, message: str) -> str | None:
        """Write a policy's files and commit them; None where they are committed so already.

        Raises CheckoutError. The files and the index are then as before.
        """
        files = self._files(policy_id)
        obstacle = self.look(policy_id).obstacle
        if obstacle:
            raise CheckoutError(obstacle)
        before = [_bytes(path) for path in files]
        wanted = [None if text is None else text.encode() for text in texts]
        if before == wanted:
            return None
        named = [str(path) for path, old, new in zip(files, before, wanted, strict=True) if old != new]
        author = {"NAME": by.name, "EMAIL": by.mail}
        who = {f"GIT_{role}_{part}": text for role in ("AUTHOR", "COMMITTER") for part, text in author.items()}
        try:
            _write(files, wanted)
            self._git("add", "--", *named)
            self._git("commit", "--quiet", "--only", "--message", message, "--", *named, environment=who)
        except (CheckoutError, OSError) as error:
            with contextlib.suppress(OSError):
                _write(files, before)
            with contextlib.suppress(CheckoutError):
                self._git("reset", "--quiet", "--", *named)
            raise CheckoutError(str(error)) from error
        return self._git("rev-parse", "--short", "HEAD").strip()

    def _obstacle(self, policy_id: str, branch: str) -> str:
        if not branch:
            return f"No branch is checked out in {self._folder}: check one out."
        asked = [part for head in _UNDER_WAY for part in ("--git-path", head)]
        for head, work in zip(self._git("rev-parse", *asked).splitlines(), _UNDER_WAY.values(), strict=True):
            if (self._folder / head).exists():
                return f"A {work} is under way in {self._folder}: finish or abort it."
        files = [str(path) for path in self._files(policy_id)]
        if self._git("status", "--porcelain", "--untracked-files=all", "--", *files).strip():
            return f"{self._folder / policy_id} has changes that nobody committed: commit or discard them."
        return ""

    def _files(self, policy_id: str) -> tuple[Path, Path]:
        """policy.md and distilled.json. Raises CheckoutError where they stand elsewhere, by a link."""
        folder = self._folder / policy_id
        if len(policy_id) > _LONGEST_ID:
            raise CheckoutError(f"The policy's id is too long for a folder: it has more than {_LONGEST_ID} characters.")
        files = folder / "policy.md", folder / "distilled.json"
        if any(path.is_symlink() for path in (folder, *files)):
            raise CheckoutError(f"{folder} holds a symbolic link: the console writes to plain files alone.")
        return files

    def _git(self, *arguments: str, environment: Mapping[str, str] = {}) -> str:
        quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true", "LC_ALL": "C.UTF-8"}
        try:
            # Files, as what a hook leaves running would keep pipes open long after git has committed.
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as problem:
                process = subprocess.Popen(
                    ["git", "-C", str(self._folder), *arguments],
                    env={**os.environ, **quiet, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=problem,
                )
                _wait(process, arguments[0])
                written, said = _read(out), _read(problem)
        except OSError:
            raise CheckoutError("git is not installed here, or the folder cannot be read.") from None
        if process.returncode:
            raise CheckoutError(f"git {arguments[0]}: {' '.join((said.strip() or written).split())[:_LONGEST]}")
        return written


def checkout_of(settings: Settings) -> tuple[Checkout | None, str]:
    """The checkout that the settings name; or None, and why releases are not committed."""
    folder = settings.console_policies
    if folder is None:
        return None, "SAFEGUARD_CONSOLE_POLICIES names no folder of policies: releases are not committed to git."
    if not folder.is_dir():
        return None, f"There is no folder {folder}: releases are not committed to git."
    checkout = Checkout(folder)
    try:
        inside = checkout._git("rev-parse", "--is-inside-work-tree").strip() == "true"  # noqa: SLF001 - its own module
    except CheckoutError as error:
        return None, f"{folder} is no git checkout: releases are not committed. {error}"
    return (checkout, "") if inside else (None, f"{folder} is no git checkout: releases are not committed.")


def _wait(process: subprocess.Popen[bytes], command: str) -> None:
    """Wait until a command has ended. Raises CheckoutError when it takes too long; it is ended then."""
    try:
        process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        _ended(process)
        raise CheckoutError(f"git {command} took longer than {_SECONDS:.0f} s.") from None


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST).decode(errors="replace")


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING)
        return
    process.kill()
    process.wait()


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _text(path: Path) -> str | None:
    content = _bytes(path)
    return None if content is None else content.decode("utf-8-sig", errors="replace")


def _base(files: tuple[Path, ...]) -> str:
    """Names the files' bytes."""
    digest = hashlib.sha256()
    for path in files:
        content = _bytes(path)
        digest.update(b"-" if content is None else b"%d:%s" % (len(content), content))
    return digest.hexdigest()[:16]


def _write(files: tuple[Path, ...], contents: list[bytes | None]) -> None:
    for path, content in zip(files, contents, strict=True):
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
