"""The console: where people look, decide and change policy. The database behind it is projected from the topics.

The projector follows the topics and writes rows; the pages read them. In reading order:

- `schema`: the tables, what each column means, and who writes it.
- `database`, `native`: engines for PostgreSQL and SQLite; what each of them does by its own means.
- `migrations`: the versions of the schema.
- `folding`: from records to rows, one module for each kind.
- `rows`, `statements`: the rows of a batch, and how they are written whichever topic comes first.
- `erasing`: the words about an erased item.
- `store`: a batch of records and its positions in one transaction; texts whose time is over.
- `projector`: follows the topics, through outages of Kafka and of the database.
- `labels`: what people decided, as labels for calibration, distillation and golden sets.
- `app`: the projector's process, and a rebuild.
- `web`: the pages.

## Design decisions

- **Rows and positions change in one transaction, in the database.** Kafka's committed offsets cannot be part of it. A
  position moves from the offset that the process knows, or the batch is not written. Each record thus counts once,
  whatever is killed, and two projectors do no harm.
- **Rows do not depend on the order of topics.** Each topic is read on its own, and any of them may be ahead. A column
  is written from one topic, or is computed again from the rows of two. A test projects the same records in many orders.
- **The queue comes from moderation.standing.** The agent writes there what stands on an item, decisions included, in
  the order in which it followed them. Verdicts and actions alone would tell two orders. Without a running agent,
  nothing acts on verdicts, and the queue stays as it is.
- **An erasure removes words and nothing else.** Texts, contexts, reasons, matched terms and rationales go, decisions
  and scores stay. A record that is read before its erasure and one that is read after it lead to the same row. Tables
  and full-text index are rewritten, so that the files hold no trace.
- **A strike is as its last record says.** Records about an author are in one partition, in the order in which the
  ledger follows them. What stands holds the strikes without their items, so that an erasure finds each item in one
  column.
- **A forgotten author loses all rows about strikes.** A table of these authors tells which late records of other topics
  are left out.
- **Cleared items are counted.** Most content is cleared. Counts by minute stay small, and move with the positions.
- **A record that the database refuses is skipped alone.** The batch is halved until that record is found. An error
  that the data did not cause is an outage, which is waited for.
- **PostgreSQL gets a batch as one JSON document.** One statement for each table takes a third of the time of a
  statement for each row, and needs no second table. It also says which rows are new, and these are counted.
- **A verdict changes no row of its item.** The row holds the text and its words, so that each change would write them
  again. This alone makes projecting verdicts twice as fast.
- **Texts have an end.** They are kept for a number of days after the item was escalated first, and a rebuild does not
  prolong that.
"""
