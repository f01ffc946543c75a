"""Benchmarks of a model on published, labelled data: `safeguard bench model`.

The data is the user's own file. The package ships only policies for the taxonomies, under `policies/`; they are no part
of the library that a release of all policies takes. The modules, in reading order:

- `data`: formats of published files, read into labelled rows.
- `journal`: what was judged, without texts, for a run that goes on after it was stopped.
- `run`: judges each row under each policy that it has a label for, in several runs.
- `figures`: F1, precision, recall and the rest, with bootstrap intervals.
- `report`: all results of a benchmark.

## Design decisions

- **The journal is the result.** Each judgement is one line of rows.jsonl, and all figures are computed from these
  lines. A benchmark that was stopped ten times therefore has the same figures as one that was not.
- **Equal texts are judged once in each run.** The journal names a text by its hash.
- **The bootstrap draws rows, not judgements.** Runs of one row are not independent, and intervals that take them for
  independent would be too narrow.
"""
