"""A tiny model with gpt-oss's architecture, so that the whole pipeline runs on a machine without a GPU.

It takes the same prompts as the real model, answers in the same format, and is loaded by the same vLLM. It is trained
on the library's policies and cannot judge under others. `card.md` has its figures.

- `weights`: the model on disk, compacted for the package and expanded for vLLM.
- `examples`, `sentences`: the training data.
- `train`: the training, on a CPU.
- `report`: the measurement through vLLM, and the model card.

## Design decisions

- **The small model replaces the weights and nothing else.** Prompt, parser and worker are those of the real model, so
  trials and tests run the code that production runs.
- **The package ships compacted weights.** Only trained token ids have their own rows, and embeddings are int8: 7 MB
  instead of a table of 201,088 rows. The first use expands them to an ordinary checkpoint, and vLLM needs no special
  loader.
"""
