"""Written policies: their documents, the checks before a release, and the library.

A policy is one Markdown document. Its front matter configures the pipeline, and its text is what the model reads.
Parsing either returns a consistent policy or reports every problem with its file, its line and the fix.
In reading order:

- `vocabulary`: types that policies, records and settings share.
- `document`: what a parsed policy holds.
- `parsing`: from text to a policy or to problems with their lines.
- `version`: a hash of everything in a document that decides about content.
- `statements`: what a policy says for statements of reasons.
- `folding`, `letters`: one form for the spellings of a text.
- `terms`, `patterns`: how gates find them in content; `trial`: each is tried as the prefilter uses it.
- `files`: reading policy.md and distilled.json, and changing a gate in place.
- `golden`: golden sets, the labelled texts that show what a policy's rules mean.
- `importing`: policies from elsewhere, and their golden sets in CSV.
- `skeleton`: a new policy to fill in.
- `harmony`: the encoding in which the model reads, for counting tokens.
- `check` and `gate_check`: what makes a policy fit for release.
- `difference`: what differs between two versions.
- `distilled`: classifiers distilled from one policy's verdicts.
- `golden_gates`: first gates that are learned from a policy's golden set.
- `small_model`: which texts the small model in the package has learned.
- `labelled`: data sets of labelled texts, and the split that is held out from training.

## Design decisions

- **The version names everything that decides.** It is a hash over the text, effort, samples, agreement, score map, gate
  and scope. Verdicts with the same version were reached in the same way. A new title or owner leaves it unchanged.
- **A distilled classifier travels with its policy.** It is linear in letter groups and takes 20 to 40 kB of JSON inside
  the release record. A prefilter therefore takes the policy and its classifier together, or neither.
- **Parsing is safe on hostile input.** Running processes parse releases. YAML aliases are refused, patterns must be
  RE2, and sizes are bounded. The only error that any text can cause is `PolicyError`.
"""
