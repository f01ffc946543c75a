"""Second opinions on labels: how likely a linear classifier thinks each text is to violate the policy.

Labels of large data sets contradict each other, and a model that follows each of them learns their mistakes. Here, a
classifier on letters, words and the encoder's vectors judges texts that it was not fitted on. Training then wants the
mean of a text's label and this opinion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from safeguard_streams.workers.small import meanings
from safeguard_streams.workers.small.examples import Example

FOLDS = 3
_LETTERS, _WORDS = 200_000, 100_000  # the most frequent ones
_READ = 400  # characters of a text whose letters and words are read
_ENCODED = 600  # characters of a text that are encoded
_ITERATIONS = 80
_CERTAIN = 6.0  # log odds; no opinion is more certain


def opinions(examples: Sequence[Example]) -> dict[str, float]:
    """How likely each text is to violate the policy, from 0 to 1, if as many texts violated it as did not.

    examples: of one lesson. Each fold of them needs texts of both sides.
    """
    violates = np.array([example.violates for example in examples])
    folds = np.array([hashlib.sha256(e.text.lower().encode()).digest()[0] % FOLDS for e in examples])
    features = _features([example.text for example in examples])
    scores = np.zeros(len(examples))
    for fold in range(FOLDS):
        fitted = folds != fold
        classifier = LogisticRegression(C=3.0, max_iter=_ITERATIONS, class_weight="balanced")
        classifier.fit(features[fitted], violates[fitted])
        scores[~fitted] = classifier.decision_function(features[~fitted])
    chances = 1 / (1 + np.exp(-scores.clip(-_CERTAIN, _CERTAIN)))
    return dict(zip((example.text for example in examples), chances.tolist(), strict=True))


def _features(texts: Sequence[str]) -> csr_matrix:
    """Letters and words by tf-idf, and the encoder's vectors at the scale of these [texts, features]."""
    read = [text[:_READ] for text in texts]
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=_LETTERS)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=_WORDS)
    vectors = meanings.vectors([text[:_ENCODED] for text in texts]).astype(np.float32)
    vectors -= vectors.mean(axis=0)
    vectors *= 3 / (vectors.std(axis=0).mean() * np.sqrt(vectors.shape[1]))
    return hstack([letters.fit_transform(read), words.fit_transform(read), csr_matrix(vectors)]).tocsr()
