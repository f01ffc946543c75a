"""The stream engine and the bus below it: records in, outputs out, exactly once.

A stage of the pipeline is a `Transform`, an async function from records to outputs with optional state for each
partition. The engine consumes the partitions that the bus assigns, calls the transform, and commits a record's outputs
together with the fact that it is done. On a bus with transactions, each record takes effect once, no matter which
process is killed or when. On a bus without them it takes effect at least once. A record that cannot be processed
becomes a dead letter and does not delay others.

- `interface`: what the engine asks of a bus, and the records that pass through it.
- `transform`: what the engine asks of a stage.
- `engine`: polls, distributes records to partition workers, decides when a run ends.
- `partition_worker`: processes and commits one partition.
- `backlog`: tracks a partition's records, from polled to committed.
- `watermark`: which offsets are done, in memory and in the metadata of a commit.
- `owned_writer`: the partition's writer, replaced after a failed commit.
- `admission`: which topic's call begins next when capacity is short.
- `dead_letters`: records that could not be processed, and how to requeue them.
- `timestamps`: the ages of records, whose timestamps anybody may write.
- `tracing`: a span for each traced record in each stage.
- `memory`: a bus in memory, for tests.
- `kafka`: the bus on Apache Kafka.

## Design decisions

- **The completed set travels in the commit.** Reasoning finishes out of order. The records that are done above the
  watermark are a bitmap in the committed offset's metadata, in the same transaction as their outputs. The broker takes
  4,096 bytes of metadata. Completion therefore runs at most 16,384 offsets ahead of the watermark.
- **The outcome of a failed commit is read, never guessed.** The partition worker opens a new writer, which fences the
  old one, and reads the position. If it is the requested one, the commit took place. If it is the one before, the
  worker sends the same outputs again without processing the records again. Any other position means that another owner
  has committed. A commit with work of an earlier log bears metadata of its own.
- **A commit that failed is tried again in halves.** Its size may be why it failed. An output that is refused is thereby
  traced to one record, which gets a dead letter. Outputs of one call cannot be told apart by record, and a transform's
  state already includes them. A refused batch therefore ends the ownership, and the next one begins with half of it.
- **A record is in hand until its commit is known.** Limits, lag, age and the alarm for stalls all follow from these
  accounts, which hold while commits fail. What is committed ahead of a slow record is not in hand.
- **A reset log is new.** Where a log ends before the position, offsets name other records. The worker begins a new
  watermark there, commits it at once, and still answers what it has read of the earlier log.
- **A partition takes at most four fifths of the free places.** Calls that never end then leave some for the others, and
  one busy partition alone still fills the inference backend.
- **An overtaken partition worker stops.** It drops its records and closes its writer, and a new worker reads the
  position. If the old one committed anything after that, records would take effect twice and the position would go
  back.
- **Outputs keep the partition number of their input.** Everything about one content item stays in order whatever
  partitioner its producer uses, and a transaction touches few partitions.
- **State belongs to one ownership of a partition.** `opened` restores it after earlier owners are fenced, and `closed`
  drops it when nothing more will be committed. State that outlived its ownership would miss what the next owner wrote.
- **Background work has a bounded share.** Concurrent work slows live content, even while slots are free. While there is
  live content, and for a moment after, lower ranks take a bounded number of slots.
- **Sampling is decided where a trace begins.** A record whose producer sampled it gets a span in each stage. All others
  cost only a check of their headers. The hot path therefore pays only for metrics, which are counted by batch after the
  commit.
"""
