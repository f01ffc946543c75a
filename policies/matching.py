"""Terms and patterns of gates: how they are compared with content.

A term of words is looked for among the letters of a text, without what stands between them (`Letters`). Each find is
then compared with the text itself, by an expression of what may stand for the term's letters and between them.
A term with other characters, such as an address, a handle or `c++`, is compared character by character.
A pattern is searched for in the text as sent and in its folded forms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import groupby, product
from typing import Any, NamedTuple

import numpy as np
import re2
from numpy.typing import NDArray

from safeguard_streams.policies.document import pattern_options
from safeguard_streams.policies.folding import LEET, look_alikes, looks, members, plain, sent

Places = NDArray[np.intp]
Flags = NDArray[np.bool_]
Hit = tuple[int, int, int]
"""The number of a needle, where it starts in a text, and where it ends."""
Search = Callable[[Sequence[str]], Callable[[str], Iterable[Hit]]]
"""From needles to a function that finds all of them in a text, overlapping ones included."""

_LAST_LETTER = 0x32000  # no letters follow in Unicode
_STRETCHED = 3  # equal letters in a row that count as one
_MAX_DOUBLES = 3  # letters of a term that occur twice in a row and are looked for in every mixture of once and twice
_SPACED_MINIMUM = 4  # letters of a term that is found inside a longer row of spaced-out letters
_NEAR, _AROUND = 4, 40  # characters on either side that are looked at for spaced-out letters, and for the language
# Scripts written without spaces: a term may begin and end anywhere.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_SYLLABLE = re.compile(f"[{_SPACELESS}\uac00-\ud7a3]")
_TAKES_PARTICLES = re.compile("[\uac00-\ud7a3] ?[\uac00-\ud7a3]\\Z")  # Korean words carry their particles
_JOINS_WORDS = " '_-\u2019\u2010\u2011\u2012\u2013\u2014"  # between the words of a term
_MARKS = ".*_~^=+|#"  # may stand inside a word of a text, as symbols beyond ASCII may
_SYMBOL_CHARACTERS = "@$!+|"
_SYMBOL = re.compile(r"[@$!+|]++")
_ASCII = 128  # the entry of the tables below that stands for all characters beyond ASCII
_SYMBOLS_AT = np.array([chr(code) in _SYMBOL_CHARACTERS for code in range(_ASCII)] + [False])
_ALPHANUMERIC = np.array([chr(code).isalnum() for code in range(_ASCII)] + [False])
_SYMBOLS = str.maketrans("@$!+|", "45171")  # to digits that stand for the same letters
_COUNTED = re.compile(r"\d+[^\W\d_]{0,2}\Z")  # 1999, 50km, 2nd: not letters in disguise
_URL = re.compile(r"[a-z][a-z+.-]*+://|[^\s/.]++\.[^\s/]++/")
_LABEL = re.compile(r"[^\s./:@?#]{1,63}(?![^\s./:@?#])")
_URL_ENDS = re.compile(r"/?[.,;:!?*]*(?:[\s\"'<>()\[\]{}|\\^`]|\Z)")


# ---------------------------------------------------------------------------------------------------------- characters


class _Classes(NamedTuple):
    """letter [code points]: the form of a letter or mark, a line end for itself, and 0 for all others.

    ascii, not_letters: the same for the bytes of ASCII, and the bytes that are neither.
    marks, symbols: members of a character class: marks that are letters of their scripts, and symbols beyond ASCII.
    """

    letter: NDArray[np.uint32]
    ascii: bytes
    not_letters: bytes
    marks: str
    symbols: str


@cache
def _classes() -> _Classes:
    every = [chr(code) for code in range(_LAST_LETTER)]
    categories = [unicodedata.category(char) for char in every]
    marks = [char for char, category in zip(every, categories, strict=True) if category in ("Mn", "Mc")]
    symbols = [char for char, category in zip(every, categories, strict=True) if category[0] == "S" and char > "\x7f"]
    letters = [char for char in every if char.isalnum()] + marks + ["\n"]
    table = np.zeros(_LAST_LETTER + 1, dtype=np.uint32)
    table[_codes("".join(letters))] = _codes(skeleton("".join(letters)))
    forms = bytes(table[:256].tolist())  # only the first half is used
    return _Classes(
        table,
        forms,
        bytes(np.flatnonzero(table[:128] == 0).tolist()),
        members(map(ord, marks)),
        members(map(ord, symbols)),
    )


@cache
def _gap() -> str:
    """An expression for what stands between words."""
    return rf"(?:(?![{_classes().marks}])[\W_])++"


@cache
def _inside() -> str:
    """An expression for what may stand between the letters of one word."""
    return rf"[{re.escape(_MARKS)}{_classes().symbols}]*+"


@cache
def _inside_word() -> re.Pattern[str]:
    """Two characters of one word."""
    letter = rf"(?:[^\W_{_SPACELESS}]|[{_classes().marks}])"
    return re.compile(letter * 2)


def skeleton(text: str) -> str:
    """One form for letters that look alike, digits that stand for letters, and i and l. Of equal length."""
    return looks(text).translate(_SKELETON)


_SKELETON = str.maketrans({**LEET, "l": "i"})


@cache
def _alike() -> dict[str, list[str]]:
    """By skeleton, the characters that have it."""
    table: dict[str, list[str]] = {}
    for char in sorted({*map(chr, look_alikes()), *map(chr, range(ord("a"), ord("z") + 1)), *LEET}):
        table.setdefault(skeleton(char), []).append(char)
    return table


@cache
def _standing_for(letter: str) -> str:
    """An expression for a letter and its look-alikes. Two letters of one script are different, except in Latin."""
    others = [] if letter.isdigit() else _alike().get(skeleton(letter), [])
    stands = {letter} | {other for other in others if _may_stand(other, letter)}
    return f"[{''.join(re.escape(one) for one in sorted(stands))}]"


def _may_stand(other: str, letter: str) -> bool:
    if other.isdigit():
        return True
    if looks(other) != looks(letter) or (other.isascii() and letter.isascii()):
        return False
    return other.isascii() or letter.isascii() or _script(other) != _script(letter)


@cache
def _script(char: str) -> str:
    """The script of a letter: the first word of its name."""
    return unicodedata.name(char, "").split(" ")[0] if char.isalpha() else ""


def scripts(text: str) -> set[str]:
    """The scripts of the letters of a text, by the first words of their names."""
    return {script for char in set(text) if (script := _script(char))}


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


# ------------------------------------------------------------------------------------------------------------- letters


class Letters:
    """The letters and digits of texts, in one form for look-alikes, and where they are.

    source: the texts in their plain form, with a line end before and after each.
    points, forms [source]: code points; forms of letters, digits and line ends, and 0 for all other characters.
    folded: the forms that are not 0.
    repeated [source]: letters that `folded` leaves out, because they stretch the letter before; None if it has all.
    """

    def __init__(
        self, source: str, points: NDArray[Any], forms: NDArray[Any], folded: str, repeated: Flags | None = None
    ) -> None:
        self.source = source
        self.points = points
        self.forms = forms
        self.folded = folded
        self._repeated = repeated

    @cached_property
    def first(self) -> Places:
        """[folded] The place in `source` of the first letter that each stands for."""
        return np.flatnonzero(_kept(self.forms, self._repeated))

    def last(self, first: Places) -> Places:
        """The places of the last letters, from those of the first ones."""
        if self._repeated is None:
            return first
        others = np.flatnonzero(~self._repeated)
        return others[np.searchsorted(others, first, side="right")] - 1

    def numbers(self, places: Places) -> list[int]:
        """The number of the text that holds each of these places."""
        ends = np.flatnonzero(self.points == ord("\n"))[1:]
        return np.searchsorted(ends, places).tolist()  # type: ignore[no-any-return]  # numpy's tolist

    def inside_words(self, places: Places) -> Flags:
        """Whether a letter or digit in ASCII is at each place, and another one before it."""
        now, before = (_ALPHANUMERIC[np.minimum(self.points[at], _ASCII)] for at in (places, places - 1))
        inside: Flags = now & before
        return inside

    @cached_property
    def disguising(self) -> Places:
        """The places of symbols beside letters, for which they may stand."""
        symbols = _SYMBOLS_AT[np.minimum(self.points, _ASCII)]
        places = np.flatnonzero(symbols)
        before, after = self.forms[places - 1] > ord("\n"), self.forms[places + 1] > ord("\n")
        after |= symbols[places + 1]
        beside: Flags = (before & after) | ((self.points[places] == ord("$")) & (before | after))
        return places[beside]


def letters_of_ascii(source: str) -> Letters:
    """The letters of lines in ASCII, between line ends, at the least cost: stretched letters as they are."""
    points, classes = source.encode(), _classes()
    forms = np.frombuffer(points.translate(classes.ascii), dtype=np.uint8)
    folded = points.translate(classes.ascii, classes.not_letters).decode("ascii")
    return Letters(source, np.frombuffer(points, dtype=np.uint8), forms, folded)


def letters(source: str) -> Letters:
    """The letters of lines in plain form, between line ends. A stretched letter is there once."""
    points = _codes(source)
    forms = _classes().letter[np.minimum(points, _LAST_LETTER)]
    repeated = None
    stretched = _stretched(points, forms)
    if len(stretched):
        repeated = np.zeros(len(points), dtype=bool)
        repeated[stretched] = repeated[stretched + 1] = True
    folded = forms[_kept(forms, repeated)].tobytes().decode("utf-32-le", "surrogatepass")
    return Letters(source, points, forms, folded, repeated)


def _kept(forms: NDArray[Any], repeated: Flags | None) -> Flags:
    return forms > 0 if repeated is None else (forms > 0) & ~repeated


def _stretched(points: NDArray[Any], forms: NDArray[Any]) -> Places:
    """The places of letters between two equal ones. Digits are never stretched."""
    equal = points[1:] == points[:-1]
    places = np.flatnonzero(equal[1:] & equal[:-1]) + 1
    digits = (points[places] >= ord("0")) & (points[places] <= ord("9"))
    return places[(forms[places] >= ord("a")) & ~digits]


# --------------------------------------------------------------------------------------------------------------- terms


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
        return re.compile(_gap().join(_inside().join(_runs(word)) for word in self.words))

    @cached_property
    def _partly_spaced(self) -> re.Pattern[str]:
        """Words that are each written together or letter by letter."""
        return re.compile(_gap().join(f"(?:{_inside().join(_runs(word))}|{_apart(word)})" for word in self.words))

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
        around = [_script(char) for char in source[start:a] + source[b : min(end, b + _AROUND)]]
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
    return (before.isalnum() or not before.isascii()) and bool(_inside_word().match(source, place - 1))


def _belongs(char: str) -> bool:
    return bool(_classes().letter[min(ord(char), _LAST_LETTER)])


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
        return [skeletal(form)]
    other = " ".join(plain(_LABEL.sub(_other_label, written)).split())
    return list(dict.fromkeys([skeletal(form), skeletal(other if form.endswith("/") else other.rstrip("/"))]))


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
        exact = _inside().join([_standing_for(letter)] * len(list(run)))
        expressions.append(exact if letter.isdigit() else f"(?:{_standing_for(letter)}{{{_STRETCHED},}}+|{exact})")
    return expressions


def _apart(letters: str) -> str:
    """An expression for letters that are spaced out."""
    return _gap().join(map(_standing_for, letters))


def skeletal(lines: str) -> str:
    """Plain lines as literal terms see them: look-alike letters as Latin, one space for any white space."""
    return _WHITE_SPACE.sub(" ", looks(lines))


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
                odd = np.concatenate((_stretched(of.points, of.forms), of.disguising))
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
        line = skeletal(_between_ends(lines))
        hits = [
            (start, term)
            for needle, start, end in self._literal.find(line)
            if self._terms[term := int(self._literal.terms[needle])].is_literally_at(line, start, end)
        ]
        if hits:
            ends = np.flatnonzero(_codes(line) == ord("\n"))[1:]
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


# ------------------------------------------------------------------------------------------------------------ patterns

_PATTERN_MEMORY = 256 * 2**20  # bytes for RE2's automaton of all patterns; RE2 rebuilds it when it is full
_BEYOND_ASCII = re.compile(r"\\[pPx]|\[\^|[^\x00-\x7f]-|-[^\x00-\x7f]")
_BOUNDARY = re.compile(r"\\[bB]")
_FIRST_BOUNDARY = re.compile(r"\\b(?=[^\W_]|\(\?:[^\W_]|\\p|\[)")
_LAST_BOUNDARY = re.compile(r"(?<=[\w)\]}?*+])(?<!\\b)\\b\Z")
_INNER_BOUNDARY = re.compile(r"\\[bB](?:\(\?:|\(|\[)*[^\x00-\x7f]|[^\x00-\x7f][)\]?*+]*\\[bB]")
_BEFORE_WORD = r"(?:^|[^\p{L}\p{M}\p{N}_])"
_AFTER_WORD = r"(?:$|[^\p{L}\p{M}\p{N}_])"


class Patterns:
    """RE2 patterns, found in one pass over each form of each text."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._folded = _compiled([(number, _folded(pattern)) for number, pattern in enumerate(patterns)])
        # RE2's word boundaries know ASCII letters alone: next to any other letter they would be inside words.
        seen = [(number, _bounded(pattern)) for number, pattern in enumerate(patterns) if _sees_sent(pattern)]
        self._sent = _compiled(seen)
        self._seen_as_sent = _characters([pattern for _, pattern in seen])

    def find(self, texts: Sequence[str], plain_lines: Sequence[str], latin: Sequence[str]) -> list[tuple[int, int]]:
        """The texts and patterns, by number, that match. The texts come with their plain form, and in Latin letters."""
        if self._folded is None:
            return []
        found: list[tuple[int, int]] = []
        match, numbers = self._folded
        for text, line in enumerate(latin):
            if hits := match(line):
                found += [(text, numbers[hit]) for hit in hits]
            if line != plain_lines[text]:
                found += [(text, numbers[hit]) for hit in match(plain_lines[text]) or ()]
        if self._sent:
            match, numbers = self._sent
            for text, line in enumerate(texts):
                if not line.isascii() and self._seen_as_sent.search(line):
                    found += [(text, numbers[hit]) for hit in match(sent(line)) or ()]
        return found


class _Matching(NamedTuple):
    """match: from a line to the places of the matching ones in `numbers`; numbers: of the patterns in the set."""

    match: Callable[[str], Sequence[int] | None]
    numbers: list[int]


def _compiled(patterns: Sequence[tuple[int, str]]) -> _Matching | None:
    if not patterns:
        return None
    options: Any = pattern_options()
    options.max_mem = _PATTERN_MEMORY
    matching = re2.Set.SearchSet(options)
    for _, pattern in patterns:
        matching.Add(pattern)
    matching.Compile()
    return _Matching(matching.Match, [number for number, _ in patterns])


def _sees_sent(pattern: str) -> bool:
    """Whether a text as sent can match what its folded forms do not."""
    return not pattern.isascii() or bool(_BEYOND_ASCII.search(pattern) and not _BOUNDARY.search(pattern))


def _characters(patterns: Sequence[str]) -> re.Pattern[str]:
    """What a text that is not ASCII must hold in order to match one of the patterns as sent."""
    if any(_BEYOND_ASCII.search(pattern.replace(_BEFORE_WORD, "").replace(_AFTER_WORD, "")) for pattern in patterns):
        return re.compile("")
    text = "".join(patterns)
    forms = "".join((text, text.lower(), text.upper(), unicodedata.normalize("NFD", text)))
    return re.compile(f"[{''.join(re.escape(char) for char in sorted(set(forms)) if not char.isascii()) or 'x'}]")


def _bounded(pattern: str) -> str:
    """A pattern with characters beyond ASCII, whose first and last word boundaries know the letters of all scripts."""
    if pattern.isascii():
        return pattern
    first = _FIRST_BOUNDARY.match(pattern)
    pattern = _BEFORE_WORD + pattern[first.end() :] if first else pattern
    return _LAST_BOUNDARY.sub(lambda _: _AFTER_WORD, pattern)


def inner_boundary(pattern: str) -> bool:
    """Whether a word boundary is left that stands beside a letter beyond ASCII, where RE2 sees none."""
    return bool(_INNER_BOUNDARY.search(_bounded(pattern)))


def _folded(pattern: str) -> str:
    """A pattern whose letters are folded as texts are. A range of characters stays, because its ends mean more."""
    bounded = _bounded(pattern)
    folded = "".join(_OUTSIDE_CLASS if part in _APOSTROPHES else part for part in _PARTS.findall(bounded))
    if re.search(r"[^\x00-\x7f]-|-[^\x00-\x7f]", bounded):
        return folded
    several = "[" not in bounded
    return "".join(char if char.isascii() or char in _APOSTROPHES else _folded_letter(char, several) for char in folded)


_APOSTROPHES = "'\u2018\u2019\u02bc"
_OUTSIDE_CLASS = f"[{_APOSTROPHES}]"
_PARTS = re.compile(r"\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]?|.", re.DOTALL)  # a class is one part


def _folded_letter(char: str, several: bool) -> str:
    """several: whether it may become a group of letters, which a class of characters cannot hold."""
    folded = plain(char)
    if several and len(folded) > 1 and folded.isalnum():
        return f"(?:{folded})"
    return folded if not folded or (len(folded) == 1 and folded.isalnum()) else char
