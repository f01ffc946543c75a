"""The first stage: it turns content events into escalations and cleared verdicts.

Every event on content.events is answered. Each policy's gate either escalates it to the reasoner or lets it pass, and
an event that passes all gates is cleared. Decisions depend only on the event and the policies in force, so a rerun
repeats them. A release takes effect between two batches. A release whose gate does not compile changes nothing. After
the last policy has been retired, the stage waits as at its start. In reading order:

- `app`: the process, from settings to the running engine.
- `faust_bridge`: the Faust app that carries batches from the engine to the prefilter.
- `decision`: records to escalations and cleared verdicts, in two stages.
- `event_batch`: which policies escalate an event and why, and which texts need a vector for that.
- `compiled`: the policies in force, compiled for batches.
- `batches`: cuts batches into parts whose cost has a bound.
- `golden`: golden gates in shadow.
- `long_texts`: the gates on texts of any length, at a cost that has a bound.
- `gates`: the gates of all policies, evaluated on a batch of texts.
- `normalise`: one form of text for many spellings.
- `classifier`: fastText's probabilities for windows of a text, and distilled classifiers.
- `fingerprint`: what identifies the scores of a gate, so that only equal ones are compared.
- `sketch`: 64 bits of a text, by which the author ledger finds texts that differ by little.
- `encoder`: vectors of texts, with an extra, for the second stage of gates.
- `sampling`: random draws that depend only on ids.
- `outputs`: the escalations and the cleared verdicts as records.
- `reports`: reports of content to escalations, each text once.

## Design decisions

- **Faust carries batches, and does not consume from Kafka.** Its consumer acknowledges unfinished records. A service of
  the Faust app therefore owns the Kafka clients and hands batches to the agent over a channel. The engine commits a
  batch after the agent has answered.
- **One cleared verdict covers all policies.** A verdict for each policy would multiply the busiest topic by the number
  of policies. `policy_version` of a cleared verdict is the version of the set of policies in force.
- **The classifier uses fastText's model with its own arithmetic.** fastText's answer is a softmax over a mean of input
  rows, and each piece of text has a fixed share in that mean. The shares are kept in a table. A batch is one gather,
  one running sum and its differences, in integers. A text therefore has the same score in every batch. fastText's
  `predict` took five times as long.
- **Every step works on a batch.** Texts are the lines of one string while they are folded. Rare steps, such as joining
  spaced-out letters or replacing homoglyphs, run only on the lines that need them. Comparing arrays of characters finds
  those lines.
- **A shadow is judged on what either version's gates escalate.** The comparison with the version in force is then
  complete. Its escalations have their own lane, behind live content.
- **Costly decisions leave the event loop.** Ordinary batches are decided on it. A thread for all of them costs a
  quarter of the throughput, because each call of the event loop then waits for the interpreter. A batch is cut by
  bytes. A thread takes over once its parts have taken 0.2 s, and for large events, which may hold many new words.
- **A vector is computed where it could change a decision.** It costs twenty times as much as the rest. Only what the
  first stage of a gate leaves open is encoded, in a thread that leaves the event loop free. A drawn item is no
  exception: whether the gate also escalates it says how many items it stands for. The score of a text that is not
  encoded takes the middle of what vectors usually add.
- **The encoder is optional in each process.** Without the extra, a gate uses its weights without vectors. The
  fingerprint tells the two apart, and their scores are never pooled. The process loads the encoder once, for the first
  release that has a use for it.
- **A golden gate in shadow scores judged content only.** What is not judged has no label, and only labels tell which
  gate is better. It scores all that is drawn and 5% of what the present gate escalates, which bounds the share of
  content that is encoded for it. Results carry the score with its rate, from which estimates for all content follow.
- **A very long text is judged in part.** The classifier reads its beginning, its end and samples, and the result says
  `truncated`. Terms and patterns see all of it, in overlapping sections. No text takes long or much memory.
- **A report holds the event.** Finding a text by its id would need an index of all content, or a search of a partition
  for each report. An application that shows an item to the person who reports it has the text at hand. `safeguard
  reports add` searches once, for a person who does not.
- **Reports are a second engine of this process.** They need the policies in force and the gates, which tell whether
  they would have escalated the text. Reports write no cleared verdict, and nothing about the other batches changes.
- **A cleared verdict names the author.** It adds 7% to its bytes and 4% to the time of a decision. An edit that is
  cleared ends actions, and their records must name the author, too.
- **Samples and audits are drawn by a hash of ids.** A rerun or another process draws the same content items, and the
  draws of different policies are independent.
"""
