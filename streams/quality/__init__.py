"""How good the gates, scores and policy versions are, and how to improve them.

The figures come from labelled texts, or from the reasoner's verdicts weighted by how their content was drawn. Estimates
have 95% intervals, and a result that is too uncertain to use is reported as such, with the next step. Nothing here
changes a running pipeline: calibration and distillation write a policy that an operator then releases.

- `verdict_labels`: the reasoner's verdicts as labels.
- `weighted`: totals and shares of a stream from items drawn at known rates: the estimator of all figures.
- `proportions`: shares of counts with their intervals.
- `scoring`: the scores that are measured.
- `evaluation`: how well scores rank violating texts.
- `threshold`: the threshold of a gate for a target recall.
- `gate_recall`: the recall of gates on live traffic, from audits.
- `shadow_comparison`: a shadow compared with the version in force.
- `model_comparison`: a canary's model compared with the live one.
- `distillation`: a classifier distilled for one policy.
- `paired`: several scores of the same texts, side by side.
- `encoded_labels`: what log odds and the encoder's vectors add to a distilled classifier.
- `training`: the prefilter's fastText classifier.
- `model_card`: the card of that classifier.
- `harm_heads`: the encoder's harm heads.
- `encoder_card`: the card of these heads, with the figures of gates by language.
- `library_labels`: labels for the thresholds of the library's gates.
- `languages`: the language of a text, for figures alone.

## Design decisions

- **A shadow has its own key, lane and topic.** Its own key lets a shadow and the version in force change independently.
  Its own lane lets it yield to live content. Its verdicts go to a topic that enforcement never reads, because a flag on
  a verdict works only for readers that know it. The shadow judges what either version's gates escalate, which makes the
  comparison complete.
- **Every drawn item stands for 1/rate items.** Samples and audits draw from the same content, which the gates let pass.
  The prefilter therefore records the probability that either draws an item, and no estimator counts content twice.
- **Intervals are Fay and Feuer's.** Missed content is a sum of few items with large weights, for which normal and
  bootstrap intervals are too narrow. Simulations in the tests hold every estimator to 93% coverage.
- **Scores of different gates are never pooled.** A verdict names the fingerprint of its gate. The newest gate counts,
  and commands print how many verdicts they left out.
"""
