"""Past content judged again by another version of a policy: run, compare, publish.

A replay covers everything between its bounds that either version's gates escalate, and escalates each event once, even
if processes are killed. Its verdicts go to `moderation.replays`, which enforcement never reads. They count only after
an operator promotes them, and reverting restores what stood before.

- `jobs`: replay jobs, and what operators do to them.
- `status`: what each replay is doing, and how far it has come.
- `estimate`: what a replay will escalate and cost, before it starts.
- `selection`: which events a replay escalates.
- `runner`: runs a replay to its end.
- `pairs`: what a replay changes about one item: the rule that differences, promotion and reversion share.
- `diff`: what a replay changes, computed in DuckDB from the queries in `sql/`; `diff_tables` holds the records.
- `headline`: what the differences say, in words that their intervals allow.
- `page`: the same as an HTML page for decision makers.
- `paused`: keeps reasoning workers from judging what is paused.
- `promotion`: publishes superseding verdicts, and reverts them.

## Design decisions

- **A replay is a record and a consumer group.** The record fixes documents, bounds and filters. The group's offsets
  are the progress, committed with the escalations by the same engine that the prefilter runs on. A runner keeps no
  state of its own, and any process can resume its replay.
- **A replay runs the prefilter's own code.** In the replay's prefilter the version before is in force and the new
  version is its shadow. Content that either version escalates is judged, by the same code as live content.
- **The versions of a replay have their own keys.** They travel on `moderation.policies` under these keys. Reasoning
  workers therefore have them regardless of what is in force.
- **Promotion reads the topic instead of keeping notes, and publishes the plan that was shown.** It fences any other
  writer, reads which superseding verdicts exist, and writes the missing ones of its plan. Repeating a killed promotion
  writes no duplicates.
- **One rule decides what becomes of an item.** Of an edited item, the newest text counts, in the order of offsets
  within a partition and of time between partitions. `diff` and `promotion` ask the same code, and the flips that one
  shows are therefore the verdicts that the other writes. What it leaves out, both name.
- **Counts are committed, too.** With each batch of escalations, a runner commits a record of what it has counted in the
  partition so far. Shares of a replay are therefore shares of exactly the events that it covers, despite kills.
- **A pause holds a partition of the replay lane.** Reasoning workers follow the replays' records and stop before the
  first escalation of a paused replay. Nothing is moved or copied, and no work is admitted that would wait.
- **Replays are bounded by time.** A verdict on a replayed event is not older than the event. Commands therefore read
  verdicts only since the replay's first event, and join them on disk.
"""
