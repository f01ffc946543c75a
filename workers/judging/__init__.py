"""Judging: an escalation becomes a verdict and its rationale.

The package decides by which policy version an item is judged, builds the prompt, runs the model, and reads its output.
Equal input has an equal `verdict_id`. Output that does not match the required format exactly is retried once, then
becomes `undetermined`. The model's reasoning goes to the rationale only. The modules, in reading order:

- `judge`: the transform of the stream engine: resolves the policy, runs the model, builds the records.
- `instructions`: the text to judge by, of one policy or of a bundle.
- `cache`: identical items share one judgement.
- `reasoner`: windows, samples, the retry, and admission to the model.
- `prompt`: the user message, and how long content is cut.
- `parse`: the strict parser of completions.
- `judgement`: how findings of windows and samples are combined, and the score.

## Design decisions

- **The parser repairs nothing.** A completion either matches the format exactly or is malformed, with a reason that is
  counted. Repaired output could state a decision that the model did not make.
- **The score is the decision token's probability.** It is p(1) / (p(0) + p(1)) at the token after `"violation":`. The
  confidence that the model writes about itself is a separate field, and the score does not use it.
- **A bundle costs one call.** Each policy of a bundle has its own escalation, and all of them make the same request for
  the same content. Identical requests share one call, so a bundle needs no separate records and no waiting.
- **Effort steps down by each item's own lag.** There is no state that could oscillate: an item that has waited long is
  judged at less effort until the lag is gone. The verdict's id contains the policy's own effort, so a repeated
  judgement has the same id.
- **Comparisons reuse no judgements.** Replays and shadows are judged again even for identical content. A shared
  judgement would hide the difference, or the noise, that they measure.
- **Long content is judged in windows, and the most severe window decides.** Content beyond the maximum number of
  windows is sampled from its beginning to its end and marked as truncated. Authors then cannot hide a violation at
  either end.
- **Only a request's own tokens count for admission.** All requests under a policy share the policy's tokens in the
  prefix cache. A bound on the other tokens keeps a few long items from evicting the cache of others.
"""
