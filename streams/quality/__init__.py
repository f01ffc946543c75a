"""How good the gates, scores and policy versions are, and how to improve them.

The figures come from labelled texts, or from the reasoner's verdicts weighted by how their content was drawn. Estimates
have 95% intervals, and a result that is too uncertain to use is reported as such, with the next step. Only
`gate_taking` changes a running pipeline; calibration and distillation write a policy that an operator then releases.

- `verdict_labels`: the reasoner's verdicts as labels.
- `weighted`: totals and shares of a stream from items drawn at known rates: the estimator of all figures.
- `proportions`: shares of counts with their intervals.
- `agreement`: agreement of people with each other and with the model, beyond chance.
- `scoring`: the scores that are measured.
- `evaluation`: how well scores rank violating texts.
- `threshold`: the threshold of a gate for a target recall.
- `gate_recall`: the recall of gates on live traffic, from audits.
- `shadow_comparison`: a shadow compared with the version in force.
- `model_comparison`: a canary's model compared with the live one.
- `distillation`: a classifier distilled for one policy.
- `gate_choice`, `gate_curve`: two gates compared on the same labels, and the curve of one.
- `gate_evidence`, `gate_rungs`, `gate_candidates`, `gate_cost`: what is known of each policy in force, and the gates
  that it could have.
- `gate_advice`, `gate_taking`: the next gate of each policy, and its taking.
- `threshold_margin`: whether thresholds of distilled classifiers reach their recall on other texts.
- `benign_bank`: harmless texts that ship with the package.
- `golden_corpus`, `golden_gate`, `golden_release`: a policy's first gate, learned from its golden set.
- `golden_live`: that gate compared with the present one by live verdicts, and taken into force.
- `golden_coverage`: what the present gate would miss of a golden set.
- `paired`: several scores of the same texts, side by side.
- `encoded_labels`: what log odds and the encoder's vectors add to a distilled classifier.
- `training`: the prefilter's fastText classifier.
- `model_card`: the card of that classifier.
- `harm_heads`: the encoder's harm heads.
- `encoder_card`: the card of these heads, with the figures of gates by language.
- `threshold_labels`: labels for the thresholds of the library's gates.
- `languages`: the language of a text, for figures alone.

## Design decisions

- **A shadow has its own key, lane and topic.** Its own key lets a shadow and the version in force change independently.
  Its own lane lets it yield to live content. Its verdicts go to a topic that enforcement never reads, because a flag on
  a verdict works only for readers that know it. The shadow judges what either version's gates escalate, which makes the
  comparison complete.
- **Every drawn item stands for 1/rate items.** Samples and audits draw from the same content, which the gates let pass.
  The prefilter therefore records the probability that either draws an item, and no estimator counts content twice.
- **A golden gate proves itself on live labels.** A golden set is small and its texts resemble each other. Its figures
  flatter every gate, most of all one that was learned from it. The gate therefore runs in shadow, and the command that
  puts it into force refuses while chance could explain its lead.
- **A golden gate in force is a distilled classifier.** Both add a vector's weights to the present gate's log odds.
  Releases, replays, fingerprints and the fallback without the encoder are those that exist.
- **Terms escalate beside a golden gate, too.** An operator who adds a term expects it to work. As a bonus to the score,
  it would work on some texts only.
- **Intervals are Fay and Feuer's.** Missed content is a sum of few items with large weights, for which normal and
  bootstrap intervals are too narrow. Simulations in the tests hold every estimator to 93% coverage.
- **Scores of different gates are never pooled.** A verdict names the fingerprint of its gate. The newest gate counts,
  and commands print how many verdicts they left out.
- **A gate is proposed only on verdicts that neither gate saw.** A classifier looks better on the labels that it learned
  from. Cross-validation gives each label a score of a classifier that did not see it. A distilled classifier in force
  is compared on what was judged after its first release.
- **A new gate keeps its policy's labels.** The version of a policy names its gate, but the model judges by its text.
  Verdicts under all versions that judge alike are labels.
"""
