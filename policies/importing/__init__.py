"""Import of policies that were written for gpt-oss-safeguard elsewhere, and of their golden sets in CSV.

In reading order:

- `source`: from the bytes of a file to lines of text, whatever their encoding, HTML included.
- `labels`: the words by which policies and their labels call content safe or violating.
- `ids`: rule ids as authors write them, and as the format of this package has them.
- `lines`: what one line is: a heading, a bullet, a table's row, a quoted example.
- `outline`: a policy as it was read: sections, rules with their sub-rules and severities, and examples.
- `wording`: what headings and sentences say of the text, and what they say of the answer.
- `numbering`: the ids that the rules have here.
- `reader`: from lines to an outline.
- `settle`: what the text leaves open, and the answers.
- `severities`: what the levels of a policy say about the severity of their rules.
- `compose`: from an outline to a policy.md.
- `csv_tables`: from a CSV file to columns of texts and labels.
- `golden_csv`: from these to golden texts.
- `importer`: all of it, for one policy.

## Design decisions

- **The text is kept.** Every line of the source stands in the policy, or the report names it. Left out are only lines
  that ask for another form of answer than the one that the parser accepts, and decoration.
- **A severity level is a rule, and its sub-rules are rules below it.** Labels of golden sets often name the level
  alone, and the model cites whichever is more specific. Figures and enforcement rules for SP2 therefore count SP2.a.
- **Guesses are named.** What the text does not say is a question with a default, the safest answer. The report lists
  each default that nobody confirmed.
"""
