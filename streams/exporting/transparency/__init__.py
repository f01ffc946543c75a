"""The figures of a yearly transparency report, and the page that shows them.

- `source`: reads an export. `history`: what was done about one item. `notices`: what became of reports.
- `automated`: verdicts, and the recall of the gates. `counting`: counts the `figures` of a year.
- `page`, `charts`: the page.

## Design decisions

- **The figures come from an export, not from Kafka.** Topics keep most records for 90 days. The export is also what a
  warehouse has, and a test compares the figures with SQL over it.
- **What is not recorded is null, never zero.** A kind of records that was not exported makes its figures null, and the
  page names what the records do not hold, such as the Member State of an order.
- **An error rate says what was checked.** People decide about what is in review or appealed, and nobody draws these
  items at random. The page says so beside each rate. Only the recall is an estimate for the stream.
"""
