"""A tiny model with gpt-oss's architecture, so that the whole pipeline runs on a machine without a GPU.

It takes the same prompts as the real model, answers in the same format, and is loaded by the same vLLM. It is trained
on the library's policies and cannot judge under others. `card.md` has its figures.

- `weights`: the model on disk, compacted for the package and expanded for vLLM.
- `examples`, `sentences`: the training data, from data sets and of the project's own.
- `network`, `meanings`: the network in training, and where its embeddings begin.
- `batches`, `train`: what training draws, and the training, on a CPU.
- `report`: the measurement through vLLM, and the model card.

## Design decisions

- **The small model replaces the weights and nothing else.** Prompt, parser and worker are those of the real model, so
  trials and tests run the code that production runs.
- **The package ships compacted weights.** Only trained token ids have their own rows, and embeddings are int8: some
  megabytes instead of a table of 201,088 rows. The first use expands them to an ordinary checkpoint, and vLLM needs no
  special loader.
- **Embeddings begin as an encoder's.** The multilingual sentence encoder reads each token, and training learns one
  projection of all tokens. Words of one meaning lie close together in all languages. The small model thus learns from
  few texts, most of which are English. Training needs the encoder; the trained model does not.
- **Training has a time budget and continues after an interruption.** A checkpoint is written every three minutes.
"""
