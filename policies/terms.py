"""Terms of gates: how they are found in content.

A term of words is looked for among the letters of a text, without what stands between them (`Letters`). Each find is
then compared with the text itself, by an expression of what may stand for the term's letters and between them.
A term with other characters, such as an address, a handle or `c++`, is compared character by character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safeguard_streams.policies.folding import looks, plain
from safeguard_streams.policies.letters import (
    LAST_LETTER,
    SPACELESS,
    Letters,
    classes,
    codes,
    gap,
    inside,
    inside_word,
    letters,
    letters_of_ascii,
    maybe_gap,
    script,
    scripts,
    skeleton,
    standing_for,
    stretched,
)

Hit = tuple[int, int, int]
"""The number of a needle, where it starts in a text, and where it ends."""
Search = Callable[[Sequence[str]], Callable[[str], Iterable[Hit]]]
"""From needles to a function that finds all of them in a text, overlapping ones included."""

_STRETCHED = 3  # equal letters in a row that count as one
_MAX_DOUBLES = 3  # letters of a term that occur twice in a row and are looked for in every mixture of once and twice
_SPACED_MINIMUM = 4  # letters of a term that is found inside a longer row of spaced-out letters
_NEAR, _AROUND = 4, 40  # characters on either side that are looked at for spaced-out letters, and for the language
_VIRAMA = 9  # combining class of signs that join two letters
_LOOSE = re.compile(r"[\uac00-\ud7a3 ]+\Z")  # Koreans write phrases with spaces or without
_SYLLABLE = re.compile(f"[{SPACELESS}\uac00-\ud7a3]")
_TAKES_PARTICLES = re.compile("[\uac00-\ud7a3] ?[\uac00-\ud7a3]\\Z")  # Korean words carry their particles
_JOINS_WORDS = " '_-\u2019\u2010\u2011\u2012\u2013\u2014"  # between the words of a term
_SYMBOL = re.compile(r"[@$!+|]++")
_SYMBOLS = str.maketrans("@$!+|", "45171")  # to digits that stand for the same letters
_COUNTED = re.compile(r"\d+[^\W\d_]{0,2}\Z")  # 1999, 50km, 2nd: not letters in disguise
_URL = re.compile(r"[a-z][a-z+.-]*+://|[^\s/.]++\.[^\s/]++/")
_LABEL = re.compile(r"[^\s./:@?#]{1,63}(?![^\s./:@?#])")
_URL_ENDS = re.compile(r"/?[.,;:!?*]*(?:[\s\u3002\"'<>()\[\]{}|\\^`]|\Z)")


class Term:
    """A word or phrase of a gate.

    written: as its author wrote it. literal: whether it is compared character by character. needles: what to look for
    in the letters of texts or, for a literal term, in their skeletal lines. Without a needle, the term matches nothing.
    takes_particles: whether a word may go on after the term.
    """

    def __init__(self, term: str) -> None:
        self.written = term
        form = " ".join(plain(term).split())
        self.form = form.rstrip("/") if _URL.match(form) else form
        self.literal = not all(_joins_or_belongs(char) for char in self.form)
        self.words = "".join(char if _belongs(char) else " " for char in self.form).split()
        self._may_be_row = any(len(word) > 1 for word in self.words)
        self.takes_particles = bool(_TAKES_PARTICLES.search(self.form))
        if not any(map(_is_seen, self.form)):
            self.needles = []
        else:
            self.needles = _literal_needles(self.form, term) if self.literal else _needles(self.words)

    @cached_property
    def _joined(self) -> re.Pattern[str]:
        between = maybe_gap() if _LOOSE.match(self.form) else gap()
        return re.compile(between.join(inside().join(_runs(word)) for word in self.words))

    @cached_property
    def _partly_spaced(self) -> re.Pattern[str]:
        """Words that are each written together or letter by letter."""
        return re.compile(gap().join(f"(?:{inside().join(_runs(word))}|{_apart(word)})" for word in self.words))

    @cached_property
    def _spaced(self) -> re.Pattern[str]:
        return re.compile(_apart("".join(self.words)))

    def is_at(self, source: str, start: int, end: int) -> bool:
        """Whether the characters from start to end of a plain text between line ends are this term's words."""
        if _inside_word_at(source, start) or (_inside_word_at(source, end) and not self.takes_particles):
            return False
        found = source[start:end]
        if found == self.form:
            return True
        if self._may_be_row and self._spaced.fullmatch(found):
            return self._is_row(source, start, end) and self._is_meant(source, start, end)
        written = self._joined.fullmatch(found) or (len(self.words) > 1 and self._partly_spaced.fullmatch(found))
        return bool(written) and self._is_meant(source, start, end)

    def _is_row(self, source: str, a: int, b: int) -> bool:
        """Whether spaced-out letters may be this term: short terms only where they are the whole row of letters."""
        count = sum(map(len, self.words))
        if _SYLLABLE.match(self.form):  # in these scripts, single characters are words
            return count > 1
        before, after = source[max(0, a - _NEAR) : a], source[b : b + _NEAR]
        alone = not (_SINGLE_BEFORE.search(before) or _SINGLE_AFTER.match(after))
        return count >= _SPACED_MINIMUM or (alone and count == _SPACED_MINIMUM - 1)

    def _is_meant(self, source: str, a: int, b: int) -> bool:
        """Whether letters that are not the term's own are a disguise, and not another word."""
        found = "".join(char for char in source[a:b] if char.isalnum())
        own = "".join(self.words)
        if _COUNTED.match(found) and _digits(found) != _digits(own):
            return False
        ours, theirs = scripts(own), scripts(found)
        if ours == theirs or len(ours) != 1 or len(theirs) != 1:
            return True
        # All letters are of one other script. In a text of that script, they are a word of its language.
        start, end = max(source.rfind("\n", 0, a), a - _AROUND), source.find("\n", b)
        around = [script(char) for char in source[start:a] + source[b : min(end, b + _AROUND)]]
        return around.count(ours.pop()) >= around.count(theirs.pop())

    def is_literally_at(self, line: str, start: int, end: int) -> bool:
        """Whether what was found in a skeletal line, between line ends, is the whole word or address."""
        before, after = line[start - 1], line[end : end + 2]
        if (line[start].isalnum() and re.match(r"[\w-]", before)) or (
            line[start] == "@" and re.match(r"[\w.]", before)
        ):
            return False
        if _URL.match(self.form):
            return bool(_URL_ENDS.match(line[end : end + 16]))
        return not line[end - 1].isalnum() or not re.match(r"[\w-]|[.@]\w", after)


_SINGLE_BEFORE = re.compile(r"(?<![^\W_])[^\W_][\W_]+\Z")
_SINGLE_AFTER = re.compile(r"[\W_]+[^\W_](?![^\W_])")


def _digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _inside_word_at(source: str, place: int) -> bool:
    before = source[place - 1]
    return (before.isalnum() or not before.isascii()) and bool(inside_word().match(source, place - 1))


def _belongs(char: str) -> bool:
    return bool(classes().letter[min(ord(char), LAST_LETTER)])


def _is_seen(char: str) -> bool:
    """Whether a character makes a term: a letter, a digit or a symbol such as an emoji, and no mark or punctuation."""
    return char.isalnum() or unicodedata.category(char) == "So"


def _joins_or_belongs(char: str) -> bool:
    return char in _JOINS_WORDS or _belongs(char)


def _needles(words: Sequence[str]) -> list[str]:
    """What the letters of a text are where they hold these words: a double letter is there twice, or stretched."""
    runs = ["".join(run) for word in words for _, run in groupby(word)]
    doubles = sum(len(run) > 1 for run in runs)
    choices = (
        product((True, False), repeat=doubles) if doubles <= _MAX_DOUBLES else [(True,) * doubles, (False,) * doubles]
    )
    needles = []
    for choice in choices:
        twice = iter(choice)
        needles.append(skeleton("".join(run if len(run) == 1 or next(twice) else run[0] for run in runs)))
    return [needle for needle in dict.fromkeys(needles) if needle]


def _literal_needles(form: str, written: str) -> list[str]:
    """A term as skeletal lines have it. A domain is there in letters of its script, or in Punycode."""
    if "." not in form:
        return [_dotted(skeletal(form))]
    other = " ".join(plain(_LABEL.sub(_other_label, written)).split())
    forms = form, other if form.endswith("/") else other.rstrip("/")
    return list(dict.fromkeys(_dotted(skeletal(one)) for one in forms))


def _other_label(label: re.Match[str]) -> str:
    """A label of a domain in Punycode if it has letters beyond ASCII, and the other way round."""
    text = label[0]
    try:
        other = text.encode("ascii").decode("idna") if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError:
        return text
    return other if any(map(_is_seen, other)) else text


def _runs(word: str) -> list[str]:
    """Expressions for the letters of a word, each of which may be stretched."""
    expressions = []
    for letter, run in groupby(word):
        exact = inside().join([standing_for(letter)] * len(list(run)))
        expressions.append(exact if letter.isdigit() else f"(?:{standing_for(letter)}{{{_STRETCHED},}}+|{exact})")
    return expressions


def _apart(letters: str) -> str:
    """An expression for letters that are spaced out. Those of one syllable, which marks join, may stay together."""
    expression = standing_for(letters[0])
    for before, letter in pairwise(letters):
        joined = unicodedata.category(letter)[0] == "M" or unicodedata.combining(before) == _VIRAMA
        expression += (maybe_gap() if joined else gap()) + standing_for(letter)
    return expression


def skeletal(lines: str) -> str:
    """Plain lines as literal terms see them: look-alike letters as Latin, one space for any white space."""
    return _WHITE_SPACE.sub(" ", looks(lines))


def _dotted(line: str) -> str:
    """A line of the same length with one kind of dot. The ideographic full stop is a dot in domains, by IDNA."""
    return line.replace("\u3002", ".")


_WHITE_SPACE = re.compile(r"[^\S\n]{2,}|[^\S\n ]")


class Terms:
    """Some terms, found in one pass over many texts."""

    def __init__(self, terms: Sequence[str], search: Search) -> None:
        self._terms = [Term(term) for term in terms]
        self._take_particles = np.array([term.takes_particles for term in self._terms], dtype=bool)
        self._words = self._searcher(search, literal=False)
        self._literal = self._searcher(search, literal=True)

    def _searcher(self, search: Search, *, literal: bool) -> _Searcher | None:
        needles = [
            (n, needle) for n, term in enumerate(self._terms) if term.literal == literal for needle in term.needles
        ]
        if not needles:
            return None
        return _Searcher(np.array([n for n, _ in needles]), search([needle for _, needle in needles]))

    def find(self, lines: Sequence[str]) -> list[tuple[int, int]]:
        """The texts and terms, by number, where lines in plain form hold a term."""
        found: list[tuple[int, int]] = []
        if self._words:
            common = [i for i, line in enumerate(lines) if line.isascii()]
            others = [i for i, line in enumerate(lines) if not line.isascii()]
            if common:
                of = letters_of_ascii(_between_ends([lines[i] for i in common]))
                found += self._find_words(of, common)
                odd = np.concatenate((stretched(of.points, of.forms), of.disguising))
                others += [common[i] for i in sorted(set(of.numbers(odd)))]
            if others:
                of = letters(_between_ends([lines[i] for i in others]))
                found += self._find_words(of, others)
                disguised = [others[i] for i in sorted(set(of.numbers(of.disguising)))]
                bare = {i: line for i in disguised if (line := undisguised(lines[i])) != lines[i]}
                if bare:
                    found += self._find_words(letters(_between_ends(list(bare.values()))), list(bare))
        if self._literal:
            found += self._find_literal(lines)
        return found

    def _find_words(self, of: Letters, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Terms in lines, whose texts have these numbers."""
        assert self._words is not None
        hits = list(self._words.find(of.folded))
        if not hits:
            return []
        needles, starts, ends = np.array(hits).T
        first, last = of.first[starts], of.last(of.first[ends - 1])
        terms = self._words.terms[needles]
        possible = ~(of.inside_words(first) | (of.inside_words(last + 1) & ~self._take_particles[terms]))
        first, last, terms = first[possible], last[possible], terms[possible]
        found: dict[tuple[int, int], None] = {}  # in order; what is found once is not compared again
        for owner, term, start, end in zip(
            of.numbers(first), terms.tolist(), first.tolist(), last.tolist(), strict=True
        ):
            if (owner, term) not in found and self._terms[term].is_at(of.source, start, end + 1):
                found[owner, term] = None
        return [(numbers[owner], term) for owner, term in found]

    def _find_literal(self, lines: Sequence[str]) -> Iterator[tuple[int, int]]:
        assert self._literal is not None
        line = skeletal(_between_ends(lines))  # in which an ideographic full stop still ends what stands before it
        hits = [
            (start, term)
            for needle, start, end in self._literal.find(_dotted(line))
            if self._terms[term := int(self._literal.terms[needle])].is_literally_at(line, start, end)
        ]
        if hits:
            ends = np.flatnonzero(codes(line) == ord("\n"))[1:]
            owners = np.searchsorted(ends, [place for place, _ in hits]).tolist()
            yield from ((owner, term) for owner, (_, term) in zip(owners, hits, strict=True))


def _between_ends(lines: Sequence[str]) -> str:
    return "\n" + "\n".join(lines) + "\n"


class _Searcher(NamedTuple):
    """terms: the number of the term that each needle belongs to."""

    terms: NDArray[np.intp]
    find: Callable[[str], Iterable[Hit]]


def undisguised(line: str) -> str:
    """The line with symbols inside words as the digits that stand for the same letters."""
    return _SYMBOL.sub(_as_digits, line)


def _as_digits(match: re.Match[str]) -> str:
    before, after = match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1]
    money = match[0][0] == "$" and (before.isalpha() or after.isalpha())
    return match[0].translate(_SYMBOLS) if money or (before.isalnum() and after.isalnum()) else match[0]


def one_by_one(needles: Sequence[str]) -> Callable[[str], Iterable[Hit]]:
    """A search for few needles in short texts."""

    def find(text: str) -> Iterator[Hit]:
        for number, needle in enumerate(needles):
            start = text.find(needle)
            while start >= 0:
                yield number, start, start + len(needle)
                start = text.find(needle, start + 1)

    return find
