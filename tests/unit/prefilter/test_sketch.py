"""Sketches: texts that differ by little have nearly the same, in any script; other texts do not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard_streams.contract.limits import SKETCHED
from safeguard_streams.prefilter.sketch import is_similar, sketches

TEXTS = {
    "English": "Cheap designer watches with free shipping today, order before they are all gone",
    "Russian": "Дешёвые дизайнерские часы с бесплатной доставкой сегодня, закажите пока не закончились",
    "Chinese": "今天购买便宜的名牌手表免费送货，数量有限，赶快下单，错过就没有机会了",
    "Arabic": "ساعات رخيصة من أفضل الماركات مع شحن مجاني اليوم، اطلب قبل أن تنتهي الكمية",
    "Hindi": "आज ही सस्ती घड़ियाँ मुफ़्त डिलीवरी के साथ खरीदें, स्टॉक खत्म होने से पहले ऑर्डर करें",
    "Thai": "นาฬิกาแบรนด์เนมราคาถูกจัดส่งฟรีวันนี้สั่งซื้อก่อนสินค้าหมด",
}


def similar(one, other):
    first, second = sketches([one, other])
    return is_similar(first.bits, second.bits)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + " 17",
        lambda text: "@user17 " + text,
        lambda text: text + " https://a.example/x?id=17",
        lambda text: text + "!!",
        lambda text: text[:20] + text[21:],
        lambda text: text[:20] + "\u200b" + text[20:],
        lambda text: text.upper(),
    ],
    ids=["number", "mention", "link", "signs", "letter", "invisible", "capitals"],
)
def test_texts_that_differ_by_little_are_similar(text, edit):
    assert similar(text, edit(text))


def test_texts_of_different_content_are_not():
    for one, other in itertools.combinations(TEXTS.values(), 2):
        assert not similar(one, other)
    assert not similar("the train to the coast was late again this morning", TEXTS["English"])


def test_numbers_links_mentions_and_look_alikes_make_no_difference():
    first, *others = sketches(
        [
            "win 100 at https://a.example now @ann",
            "win 729 at https://b.example/else now @benjamin",
            "w\u0456n 100 at https://a.example NOW @ann",
        ]
    )
    assert {one.bits for one in others} == {first.bits}


def test_a_text_without_visible_characters_has_no_sketch():
    assert [tuple(one) for one in sketches(["", " \n\t", "\u200b\u2060"])] == [(None, 0)] * 3
    assert sketches([]) == []


def test_short_texts_are_similar_only_where_they_are_the_same():
    ok, same, other = sketches(["ok", " OK ", "no"])
    assert (ok.bits, ok.characters) == (same.bits, 2)
    assert not is_similar(ok.bits, other.bits)


def test_of_a_long_text_both_ends_count():
    first, second = "a b c d e " * SKETCHED, "v w x y z " * SKETCHED
    inside = first[:SKETCHED] + second + first[-SKETCHED:]
    assert sketches([first])[0].bits == sketches([inside])[0].bits
    assert not similar(first, second)


@given(st.lists(st.text(max_size=80), max_size=6))
def test_a_text_has_the_same_sketch_in_every_batch(texts):
    assert sketches(texts) == [one for text in texts for one in sketches([text])]
