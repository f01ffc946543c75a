"""A policy from elsewhere, read, settled and written in this package's form."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import msgspec

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.golden import Golden, canonical
from safeguard_streams.policies.importing import golden_csv, ids, outline, reader, source
from safeguard_streams.policies.importing.compose import Settings, add_rest, compose, own_words, summary
from safeguard_streams.policies.importing.settle import Ask, Question, settle
from safeguard_streams.policies.parsing import POLICY_ID
from safeguard_streams.policies.reading import FRONT
from safeguard_streams.policies.skeleton import prefix_of
from safeguard_streams.policies.vocabulary import Side

_NOT_TITLE = re.compile(r"\s*\(#\w+\)|[#*`]")


class ImportedRule(msgspec.Struct, frozen=True):
    """A rule of an imported policy. level: the rule that it is below, or itself."""

    id: str
    side: Side
    level: str
    name: str


class Imported(msgspec.Struct, frozen=True):
    """An imported policy. changes: what was changed in the text. left_out: lines of the source that are not in it.

    golden_notes: what was done with rows of the CSV file that are not golden texts as they stand.
    """

    id: str
    document: str
    rules: tuple[ImportedRule, ...]
    changes: tuple[str, ...]
    left_out: tuple[outline.LeftOut, ...]
    golden: tuple[Golden, ...] = ()
    golden_notes: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """The text of a policy that is to be imported, its title, and what reading the file changed."""

    path: Path
    text: str
    title: str
    changes: tuple[str, ...]

    @property
    def id(self) -> str:
        """An id from the title: spam for Spam Policy (#SP)."""
        plain = unicodedata.normalize("NFKD", self.title).encode("ascii", "ignore").decode().lower()
        words = [word for word in re.findall(r"[a-z0-9]+", plain) if word not in {"policy", "the", "a", "an"}]
        fallback = re.findall(r"[a-z0-9]+", self.path.stem.lower())
        return "-".join(words[:5] or fallback or ["imported"])


def read(path: Path) -> Source:
    """Read a policy's file. Raises ConfigurationError where it is no text, or a policy of this package already."""
    text, was_html, hidden = source.policy_text(path)
    front = FRONT.match(text)
    changes = ["HTML became Markdown"] if was_html else []
    changes += [f"removed characters that cannot be seen: {hidden}"] if hidden else []
    if front and re.search(r"^rules:", front[1], re.MULTILINE) and re.search(r"^gate:", front[1], re.MULTILINE):
        raise ConfigurationError(f"{path}: is a policy of this form already; check it: safeguard policy check {path}")
    title = ""
    if front:
        named = re.search(r"^(?:title|name):(.*)$", front[1], re.MULTILINE)
        title = named[1].strip(" \"'") if named else ""
        changes.append("left out the front matter of another form")
        text = "\n" * text[: front.start(2)].count("\n") + front[2]
    title = _NOT_TITLE.sub("", title or reader.read(text, "XX").title).strip()
    return Source(path, text, title or path.stem, tuple(changes))


def import_policy(read_from: Source, policy_id: str, golden: Path | None, ask: Ask, *, keep_words: bool) -> Imported:
    """The policy in this package's form, with the golden texts of a CSV file.

    Raises ConfigurationError where the text has no rules, or the file no texts.
    """
    if not POLICY_ID.match(policy_id):
        raise ConfigurationError(
            f"{policy_id!r} is no id: name the folder in lower-case words with hyphens, as in my/spam"
        )
    found = reader.read(read_from.text, prefix_of(policy_id))
    settle(found, ask)
    changes = _changes(read_from, found)
    if rest := add_rest(found):
        changes.append(rest)
    labelled = golden_csv.read(golden, found, ask) if golden else golden_csv.LabelledTexts((), ())
    if keep_words and not own_words(found.words):
        raise ConfigurationError("--keep-words: the policy has no words of its own for both violating and safe content")
    settings = Settings(
        id=policy_id,
        title=read_from.title,
        owner=ask(Question("Which team answers for the policy?", "unassigned", "the owner is unassigned")).strip(),
        terms=_terms(ask),
        keeps_words=keep_words,
        avoid=frozenset(canonical(text.text) for text in labelled.rows),
    )
    composed = compose(found, settings)
    return Imported(
        id=policy_id,
        document=composed.document,
        rules=tuple(
            ImportedRule(rule.id, rule.side, ids.base(rule.id), summary(rule.text)) for rule in found.rules if rule.side
        ),
        changes=(*changes, *composed.changes),
        left_out=tuple(found.left_out),
        golden=labelled.rows,
        golden_notes=labelled.notes,
    )


def _terms(ask: Ask) -> tuple[str, ...]:
    answer = ask(
        Question(
            "Which words does such content use, with commas between them? None: the model judges all content",
            "",
            "the gate sends all content to the model: set terms, harms with a threshold, or a sample for less",
        )
    )
    return tuple(dict.fromkeys(term.strip() for term in answer.split(",") if term.strip()))


def _changes(read_from: Source, found: outline.Outline) -> list[str]:
    """What reading changed in the text."""
    changes = [*read_from.changes]
    renamed = [f"{written} is {rule_id}" for written, rule_id in found.renamed.items()]
    if renamed:
        changes.append(f"ids in the form of this package: {', '.join(renamed)}")
    changes += [
        f"line {rule.line}: {rule.written} is there twice, and is {rule.id} here; other rules mean the first one by it"
        for rule in found.repeated
    ]
    changes += [
        f"line {line.line}: {line.written} fits no id of this package, as in AB1 or AB1.a: the line is text here"
        for line in found.unread
    ]
    if found.generated:
        changes.append(f"numbered the rules, which had no ids: {found.rules[0].id} to {found.rules[-1].id}")
    changes.append("put rules into the sections VIOLATES and SAFE, and the other text into sections of its headings")
    return changes
