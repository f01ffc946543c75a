"""Judging: an escalation becomes a verdict and its rationale.

The package decides by which policy version an item is judged, builds the prompt, runs the model, and reads its output.
An escalation that is read again has the same `verdict_id`. After output that does not match the required format, the
model writes the answer once more, held to the format; without an answer the item is `undetermined`. The model's
reasoning goes to the rationale only. The modules, in reading order:

- `judge`: the transform of the stream engine: resolves the policy, runs the model, builds the records.
- `instructions`: the text to judge by, of one policy or of a bundle.
- `cache`: identical items share one judgement.
- `reasoner`: windows, samples, the retry, and admission to the model.
- `warming`: policies' prefixes are computed before content needs them.
- `reasoner`: windows, samples, and second attempts.
- `attempt`: one attempt with its requests: the answer, its constrained second try, the score.
- `asking`: single requests, within the allowance of a content item.
- `form`: the form of answers as grammars, made from policies.
- `prompt`: the user message, and how long content is cut.
- `rationale`: the outputs behind a verdict, within the bounds of a record.
- `parse`: the strict parser of completions.
- `judgement`: how findings of windows and samples are combined, and the score.
- `label_judge`: judging by a model that answers with a label alone.
- `stages`: such a judge in front of the reasoner.
- `arrangement`: which judges the settings ask for.

## Design decisions

- **Content cannot pose as a context.** Content alone is sent as it is. Content whose words come near a heading of a
  context gets a heading in front, which says that its author wrote all others. The model and the cache of judgements
  can therefore tell every pair of context and content from every other.
- **No text costs more than another by its script.** The tokeniser is quadratic in runs without breaks. It gets texts in
  pieces of 512 characters, cut where it would begin a new run anyway. Longer texts than 16 windows hold are sampled
  before they are tokenised.
- **A content item has an allowance.** Its windows, samples and retries share a bound of time and of tokens. Beyond it
  the item is undetermined, because one slow item would otherwise hold up its partition.
- **A late release is waited for.** Only a tombstone ends a policy. Content that is declared undetermined because a
  release took long would stay undetermined.
- **The parser repairs nothing.** A completion either matches the format exactly or is malformed, with a reason that is
  counted. Repaired output could state a decision that the model did not make. The few variants that the parser accepts
  stand around the object and cannot decide. An object that stands in the content is its author's.
- **A rejected final message is written once more, after the same reasoning.** A grammar of the whole completion would
  bind from its first token and leave the reasoning out. A request of its own, which begins with the reasoning and the
  final message's first characters, binds on any engine. It takes some 30 tokens at a cached prompt.
- **The score is the decision token's probability.** It is p(1) / (p(0) + p(1)) at the token after `"violation":`. The
  confidence that the model writes about itself is a separate field, and the score does not use it.
- **The score has a request of its own.** vLLM computes log-probabilities for all tokens of a request, and for all
  requests of a step. The request for one token begins with everything up to the decision, which is in the prefix cache.
- **A bundle costs one call.** Each policy of a bundle has its own escalation, and all of them make the same request for
  the same content. Identical requests share one call, so a bundle needs no separate records and no waiting.
- **Effort steps down by each item's own lag.** There is no state that could oscillate: an item that has waited long is
  judged at less effort until the lag is gone. The verdict's id does not contain this effort, so a repeated judgement
  has the same id.
- **Comparisons reuse no judgements.** Replays and shadows are judged again even for identical content. A shared
  judgement would hide the difference, or the noise, that they measure.
- **Long content is judged in windows, and the most severe window decides.** Content beyond the maximum number of
  windows is sampled from its beginning to its end and marked as truncated. Authors then cannot hide a violation at
  either end.
- **Only a request's own tokens count for admission.** All requests under a policy share the policy's tokens in the
  prefix cache. A bound on the other tokens keeps a few long items from evicting the cache of others.
- **A first judge is believed only where it is sure.** It takes one token, and has no reasoning that shows a mistake.
  Its label and a score outside the band must agree. Everything else goes on, also what it cannot read or answer in
  time: an outage of the first judge costs time of the model, and no verdict.
- **A guard's unsafe is no violation.** Its classes are its maker's, and the policy is yours. It may only clear content
  under policies whose harms its classes cover, which the settings say.
- **Audits skip the first judge.** They measure what all stages in front of the model miss. A share of its own decisions
  is judged twice.
- **A score map is for the model that it was fitted to.** It is not applied to the first judge's scores.
"""
