"""Terms and patterns: found in every script, under every disguise that the guide names, and nowhere else."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard_streams.policies import patterns
from safeguard_streams.policies.files import load_library
from safeguard_streams.policies.folding import looks, plain, sent
from safeguard_streams.policies.letters import letters
from safeguard_streams.policies.patterns import Patterns
from safeguard_streams.policies.terms import Term, Terms, one_by_one

# A term of each script, with words of its script before and after.
SCRIPTS = {
    "Latin": ("kill yourself", "they said", "and left"),
    "accented Latin": ("suicídate", "ella dijo", "ahora"),
    "Turkish": ("kendimi öldürmek", "bugün", "istiyorum"),
    "Cyrillic": ("хочу умереть", "я просто", "сегодня"),
    "short Cyrillic": ("рак", "у него", "легких"),
    "Ukrainian": ("вбий себе", "просто", "і йди"),
    "Greek": ("θελω να πεθανω", "απλα", "σημερα"),
    "Arabic": ("أريد أن أموت", "قال", "اليوم"),
    "Persian": ("می\u200cخواهم بمیرم", "من", "امروز"),
    "Hebrew": ("רוצה למות", "אני", "היום"),
    "Devanagari": ("आत्महत्या", "वह", "करेगा"),
    "Bengali": ("আত্মহত্যা", "সে", "করবে"),
    "Tamil": ("தற்கொலை", "அவன்", "செய்தான்"),
    "Thai": ("ฆ่าตัวตาย", "เขาอยาก", "วันนี้"),
    "Georgian": ("თვითმკვლელობა", "მან", "ჩაიდინა"),
    "Armenian": ("ինքնասպանություն", "նա", "գործեց"),
    "Hangul": ("죽고 싶", "나는", "오늘"),
    "Han": ("自杀", "我想", "了"),
    "Kana": ("しにたい", "もう", "です"),
    "Ethiopic": ("ራስን ማጥፋት", "እሱ", "ነው"),
    "Telugu": ("ఆత్మహత్య", "అతను", "చేసుకున్నాడు"),
}
HOMOGLYPHS = str.maketrans("aeopcxyi", "аеорсхуі")
LATIN = "abcdefghijklmnopqrstuvwxyz"


def shifted(first):
    return str.maketrans({letter: chr(first + i) for i, letter in enumerate(LATIN)})


def joined(text, between):
    """The text with `between` inside each word. Marks of scripts stay with their letters."""
    return "".join(
        char + (between if char.isalpha() and text[i + 1 : i + 2].isalpha() else "") for i, char in enumerate(text)
    )


# Disguises that apply to every script.
ANYWHERE = {
    "as it is": str,
    "upper case": str.upper,
    "title case": str.title,
    "tab": lambda t: t.replace(" ", "\t"),
    "line break": lambda t: t.replace(" ", "\r\n"),
    "no-break space": lambda t: t.replace(" ", "\u00a0"),
    "many spaces": lambda t: t.replace(" ", "  \u2003 "),
    "decomposed": lambda t: unicodedata.normalize("NFD", t),
    **{
        f"U+{code:04X}": lambda t, code=code: joined(t, chr(code))
        for code in (
            *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x180B, 0x180E, 0x200B, 0x200E, 0x202E, 0x2060, 0x2064, 0x2066),
            *(0x3164, 0xFE0F, 0xFEFF, 0xFFA0, 0xFFF0, 0xFFF9, 0xFFFA, 0xFFFB, 0xE0020, 0xE01EF, 0xD800),
        )
    },
}
LATIN_ONLY = {
    "full width": lambda t: t.translate(shifted(0xFF41)),
    "mathematical": lambda t: t.translate(shifted(0x1D4EA)),
    "enclosed": lambda t: t.translate(shifted(0x24D0)),
    "negative enclosed": lambda t: t.translate(shifted(0x1F170)),
    "regional indicators": lambda t: t.translate(shifted(0x1F1E6)),
    "small capitals": lambda t: t.translate(str.maketrans("kilouref", "ᴋɪʟᴏᴜʀᴇꜰ")),
    "homoglyphs": lambda t: t.translate(HOMOGLYPHS),
    "stacked marks": lambda t: joined(t, "\u0336\u0301\u0489\u20dd"),
    "accents": lambda t: t.translate(str.maketrans("aeiou", "áéíóú")),
    "leetspeak": lambda t: t.translate(str.maketrans("ieos", "1305")),
    "leetspeak with symbols": lambda t: t.replace("i", "!"),
    "stretched": lambda t: t.replace("l", "lll").replace("o", "oooo"),
    "spaced out": lambda t: "  ".join(" ".join(word) for word in t.split()),
    "spaced out evenly": lambda t: " ".join(t.replace(" ", "")),
    "spaced out by hyphens": lambda t: " ".join("-".join(word) for word in t.split()),
    "spaced out by tabs": lambda t: "\t".join(t.replace(" ", "")),
    "spaced out by braille blanks": lambda t: "\u2800".join(t.replace(" ", "")),
    "first word spaced out": lambda t: " ".join([" ".join(t.split()[0]), *t.split()[1:]]),
    "last word spaced out": lambda t: " ".join([*t.split()[:-1], "-".join(t.split()[-1])]),
    "struck letters": lambda t: t.replace("l", "ł").replace("o", "ø"),
    "references to what is not seen": lambda t: joined(t, "&#8203;").replace(" ", "&#xA0;"),
    "spaced out digits": lambda t: " ".join(t.replace(" ", "").replace("i", "1").replace("e", "3")),
    "dots": lambda t: joined(t, "."),
    "a mark": lambda t: t.replace("il", "i*l"),
    "emoji": lambda t: joined(t, "\U0001f525"),
    "references": lambda t: "".join(f"&#{ord(char)};" if char.isalpha() else char for char in t),
    "hexadecimal references": lambda t: "".join(f"&#x{ord(char):x};" if char.isalpha() else char for char in t),
}
OF_ITS_SCRIPT = {
    "Arabic": {
        "tatweel": lambda t: joined(t, "\u0640\u0640"),
        "harakat": lambda t: joined(t, "\u064e"),
        "presentation forms": lambda t: t.replace("أ", "\ufe83"),
    },
    "Hebrew": {"niqqud": lambda t: joined(t, "\u05b8"), "cantillation": lambda t: joined(t, "\u0591")},
    "Cyrillic": {"Latin letters": lambda t: t.replace("о", "o").replace("е", "e")},
    "short Cyrillic": {"Latin letters": lambda t: t.replace("а", "a")},
    "Han": {"spaced out": " ".join},
    "Latin": LATIN_ONLY,
    "Thai": {"zero width": "\u200b".join},
    "Persian": {"without joiners": lambda t: t.replace("\u200c", "")},
}
CASES = [
    (script, name, disguise)
    for script in SCRIPTS
    for name, disguise in (ANYWHERE | OF_ITS_SCRIPT.get(script, {})).items()
]


def found(term, *texts):
    """For each text, whether the term is in it."""
    hits = Terms([term], one_by_one).find([plain(text) for text in texts])
    return [(number, 0) in hits for number in range(len(texts))]


@pytest.mark.parametrize(("script", "name", "disguise"), CASES, ids=[f"{s}, {n}" for s, n, _ in CASES])
def test_a_term_is_found_in_sentences_of_its_script_in_every_disguise(script, name, disguise):
    term, before, after = SCRIPTS[script]
    hidden = disguise(term)
    texts = (f"{before} {hidden} {after}", f"{hidden} {after}", f"{before} {hidden}", f"{before}, «{hidden}»! {after}")
    assert found(term, *texts, hidden) == [True] * 5


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_disguise_on_the_side_of_the_term_is_undone_too(script):
    term, before, after = SCRIPTS[script]
    text = f"{before} {term} {after}"
    for name in ("upper case", "decomposed", "U+200B", "U+FFF9"):
        assert found(ANYWHERE[name](term), text) == [True], name


@pytest.mark.parametrize("policy", sorted(load_library()))
def test_every_shipped_term_is_found_between_words_of_its_script(policy):
    for term in load_library()[policy].gate.terms:
        for script, (_, before, after) in SCRIPTS.items():
            if script in ("Latin", "Cyrillic", "Arabic", "Han", "Devanagari"):
                assert found(term, f"{before} {term} {after}") == [True], (term, script)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("हत्या", "वह ह त् या करेगा"),
        ("हत्या", "ह.त्.या"),
        ("আত্মহত্যা", "সে আ ত্ম হ ত্যা করবে"),
        ("தற்கொலை", "த ற் கொ லை"),
        ("ฆ่าตัวตาย", "ฆ่ า ตั ว ต า ย"),
        ("죽고 싶", "나는 죽고싶어요"),
        ("죽고 싶", "죽 고 싶"),
        ("evil.example", "http://evil\u3002example/buy"),
        ("evil.example", "at evil\uff61example\u3002"),
        ("evil.example", "请访问 evil.example\u3002谢谢"),
        ("evil.example", "evil\u3002example\u3002谢谢"),
        ("evil.example/buy", "请看 evil.example/buy\u3002谢谢"),
        ("@evil", "请看 @evil\u3002谢谢"),
    ],
)
def test_syllables_that_are_spaced_out_korean_without_spaces_and_dots_of_domains_are_seen_through(term, text):
    assert found(term, text) == [True]


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("죽고 싶", "안죽고싶"),
        ("the rapist", "a therapist"),
        ("рак", "PAK army of Pakistan"),  # a word of another language, in its own script
        ("cop", "не вынесу сор из избы"),
        ("рак", "зимний брак"),
        ("kill", "a kil here"),
        ("kill", "skills"),
        ("ana", "anna banana an a"),
        ("kil", "kill"),
        ("god", "good"),
        ("hell", "he'll go"),
        ("boo", "800"),
        ("as", "4s"),
        ("ten", "10 of 10"),
        ("kms", "10 km south"),
        ("ill", "i love lions"),
        ("मर", "वह मरा"),
        ("c++", "c c+ vitamin c"),
        ("#kys", "kys"),
        ("50%", "50 people"),
        ("5g", "he is 59"),
        ("aşı", "hot asl pls"),
        ("ana", "b.a.n.a.n.a"),
        ("kill yourself", "k i l l yourselfie"),
        ("kill yourself", "k i ll yourself"),
        ("a bad kid", "a b ad kid"),
    ],
)
def test_other_words_are_not_terms(term, text):
    assert found(term, text) == [False]


@pytest.mark.parametrize("word", ["cool", "good", "kill", "bee", "too", "hello"])
def test_a_letter_counts_as_stretched_from_three_on(word):
    for at in range(len(word)):
        for times in (3, 4, 9):
            assert found(word, f"so {word[:at]}{word[at] * times}{word[at + 1 :]} here") == [True]


@pytest.mark.parametrize(
    ("term", "matching", "others"),
    [
        (
            "https://evil.example/buy",
            ["see https://evil.example/buy", "(HTTPS://Evil.example/buy).", '<a href="https://evil.example/buy">x</a>'],
            ["https://good.example", "https://evil.example/buyer", "https://evil.example/buy/2", "evil example buy"],
        ),
        (
            "evil.example",
            ["evil.example", "at https://www.evil.example/x?y=1.", "mail bob@evil.example", "еvil.example"],
            ["notevil.example", "evil.example.com", "my-evil.example", "evil example", "https://good.example"],
        ),
        ("@bob", ["hi @bob!", "@Bob", "(@bob)"], ["@bobby", "@alice", "mail x@bob.example", "bob"]),
        ("#free", ["go #free", "#Free!"], ["free", "#freedom"]),
        ("c++", ["I like C++", "c++, java"], ["c", "c+"]),
        ("bob@evil.example", ["to bob@evil.example."], ["bob@good.example", "bob"]),
        ("https://evil.example/buy/", ["https://evil.example/buy", "https://evil.example/buy/."], ["evil.example"]),
        ("\U0001f52b", ["I have a \U0001f52b", "a\U0001f52bb"], ["\U0001f52a", "gun"]),
        ("\u2764\ufe0f", ["my \u2764", "\u2764\ufe0f\u200d\U0001f525"], ["\U0001f49b"]),
        ("bücher.example", ["see https://xn--bcher-kva.example/x", "BÜCHER.example"], ["xn--bcher-kva.example.com"]),
        ("xn--e1afmkfd.example", ["на пример.example.", "XN--E1AFMKFD.example"], ["example"]),
        ("उदाहरण.example", ["http://xn--p1b6ci4b4b3a.example", "उदाहरण.example"], []),
        ("kill \U0001f52a", ["kill\u00a0\U0001f52a!"], ["kill", "\U0001f52a"]),
    ],
)
def test_an_address_as_a_term_matches_that_address_only(term, matching, others):
    assert found(term, *matching) == [True] * len(matching)
    assert found(term, *others) == [False] * len(others)


def matches(pattern, text):
    return bool(Patterns([pattern]).find([text], [plain(text)], [looks(plain(text))]))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"adiós", "adiós amigo"),
        (r"adiós", "ADIO\u0301S"),
        (r"adiós", "adios"),
        (r"adi[oó]s", "adiós"),
        (r"\bрак\b", "у него рак, и всё"),
        (r"\bрак\b", "рак"),
        (r"\bçok\s+kötü\b", "bu çok kötü bir"),
        (r"ёлка", "Ёлка"),
        (r"自杀|他杀", "他自杀了"),
        (r"\p{Cyrillic}{4}", "рука"),
        (r"[^\x00-\x7f]{3}", "éèê"),
        (r"\bkill\s+\w+\b", "KILL yöu"),
        (r"evil\.example/\d+", "https://evil.example/123"),
        (r"@evil\w*", "hi @evilbob"),
        (r"kill", "k\u200bill"),
        (r"kill", "&#107;ill"),
        (r"😀+", "😀😀"),
        (r"\bdon't\b", "I don\u2019t"),
        ("don\u2019t", "don't"),
        (r"[^']i'?m\b", "I\u2019m, i\u02bcm"),
        (r"straße", "STRASSE"),
        (r"straße", "Straße"),
        (r"(?:straße|gasse)[nr]", "STRASSEN"),
        ("adio\u0301s", "ADIÓS"),
        ("كِتاب", "كتاب"),
        ("[كق]ِتاب", "كتاب"),
        ("می\u200cخواهم", "میخواهم"),
        ("b\u200bad", "bad"),
        ("\u200b{3,}", "hi\u200b\u200b\u200b"),
        ("[\u200b\u200c]{2}", "hi\u200b\u200cho"),
        ("\\w\u202e\\w", "a\u202eb"),
        ("\u0301+", "\u0301\u0301"),
    ],
)
def test_a_pattern_sees_the_text_as_sent_and_folded(pattern, text):
    assert matches(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"), [(r"\bрак\b", "брак"), (r"\bрак\b", "ракета"), (r"\bmail\b", "émail"), (r"\bana\b", "banána")]
)
def test_a_word_boundary_knows_the_letters_of_all_scripts(pattern, text):
    assert not matches(pattern, text)


@pytest.mark.parametrize(
    "pattern",
    [
        "\u200b",
        "\ufeff",
        "(\u200b|\u200d)x",
        "\u200b{3,}",
        "[\u200b\u00ad]",
        "\u0301+",
        "\\w\u200b\\w",
        "\u0640",
        "[^x]\u202e",
    ],
)
def test_a_pattern_of_characters_that_nobody_sees_matches_them_and_nothing_else(pattern):
    assert not any(matches(pattern, text) for text in ("hello world", "у него рак", "5 x", ""))


def test_patterns_that_are_too_large_together_are_found_in_several_passes(monkeypatch):
    monkeypatch.setattr(patterns, "_PATTERN_MEMORY", 2**20)
    texts = ["-7!", "-59!"]
    found = Patterns([rf"[^a-z]{{1,90}}{n}!" for n in range(60)]).find(texts, texts, texts)
    assert {(0, 7), (1, 59)} <= set(found)


ANY = st.text(st.characters(), max_size=80)
DISGUISED = st.lists(
    st.sampled_from(
        [*map(chr, range(32, 127)), *"\t\n\u200b\u0336\u064e\u0640\u2800\ufff9\ud800éаірξ가自ไ🇰🅺", "&#107;"]
    ),
    max_size=60,
).map("".join)


@given(st.one_of(ANY, DISGUISED))
def test_the_plain_form_is_one_line_and_folding_it_again_changes_nothing(text):
    once = plain(text)
    assert not set(once) & set("\n\r")
    assert plain(once) == once or "&#" in once
    assert len(looks(once)) == len(once)
    sent(text).encode()
    assert len(once) <= 18 * len(text)  # the longest compatibility form has 18 characters


@given(st.one_of(ANY, DISGUISED), st.one_of(ANY, DISGUISED))
@settings(max_examples=200)
def test_no_term_and_no_text_raises(term, text):
    found(term, text, f"{text} {term} {text}")
    of = letters("\n" + plain(text) + "\n")
    assert len(of.folded) <= len(of.source) == len(plain(text)) + 2


@given(st.sampled_from(CASES), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_a_term_is_found_among_random_words_of_its_script(case, drawn):
    script, _, disguise = case
    term, before, after = SCRIPTS[script]
    words = [word for word in f"{before} {after}".split() for _ in range(3)]
    drawn.shuffle(words)
    at = drawn.randint(0, len(words))
    assert found(term, " ".join([*words[:at], disguise(term), *words[at:]])) == [True]


@pytest.mark.parametrize(
    "text",
    [
        "a b ",
        "kill",
        "k i l l ",
        "l",
        "kil",
        "рак ",
        "k" + " " * 99,
        "a.",
        "@",
        "$a!",
        "&#107;",
        "\u0301",
        "\ud800",
        "가 ",
    ],
)
def test_the_work_is_proportional_to_the_length(text, monkeypatch):
    """Counted in comparisons of finds with the text."""
    calls = []
    compare = Term.is_at
    monkeypatch.setattr(Term, "is_at", lambda self, source, a, b: calls.append(b - a) or compare(self, source, a, b))
    terms = Terms(["kill", "kill kill", "рак", "a b"], one_by_one)

    def work(times):
        calls.clear()
        terms.find([plain(text * times)])
        return sum(calls)

    once = work(1000)
    assert work(2000) <= 2 * once + 200
    assert work(4000) <= 4 * once + 400


def test_the_shipped_table_of_look_alikes_maps_one_character_to_one():
    generator = random.Random(1)
    text = "".join(chr(generator.randrange(0x20, 0x30000)) for _ in range(20_000))
    assert len(looks(text)) == len(text)
