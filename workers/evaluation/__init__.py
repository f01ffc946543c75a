"""Evaluation: a model judges labelled texts without Kafka, and its results are compared with the labels.

Authors of policies use it before a release. The package computes figures and reports progress to a callback; it prints
nothing. The modules, in reading order:

- `interface`: the protocols of a judge of texts and of a progress display.
- `offline`: judges texts with the same reasoner that the worker runs.
- `golden_eval`: a policy on its golden set, and two versions of a policy compared.
- `trials`: both for commands and for the console.
- `model_check`: whether the configured model can be reached, keeps the form, and has room.
- `score_calibration`: how close scores are to probabilities, and the map that corrects them.
- `benchmark`: a model on published data.

## Design decisions

- **Each run has its own order.** Batches change the results of equal requests a little. Runs in different orders show
  this noise, and a difference between two versions must exceed it.
- **Undetermined counts as wrong.** A policy whose text leaves the model without an answer should not look better for
  it.
- **Score maps are measured on rows that they were not fitted on.** The reported calibration is cross-validated, so a
  map cannot look good by learning its own labels.
"""
