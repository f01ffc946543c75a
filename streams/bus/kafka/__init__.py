"""The bus on Apache Kafka, and the Kafka clients that commands need.

On a broker with transactions, outputs and position are committed in one transaction. A broker without them is detected,
and outputs are then written before the position. Every client stops in bounded time and raises the errors of
`safeguard_streams.errors` with a hint about what to do.

- `clients`: options that all clients share, translated errors, bounded stops.
- `probes`: whether the broker answers, and whether it has transactions.
- `bus`: membership in a consumer group, polling, positions.
- `writers`: commits of outputs and position; writes under an exclusive name.
- `batches`: batches to write, also with header names of any bytes.
- `recording`: positions as records of our own, for when Kafka has none.
- `topic_ids`: tells a topic from one that was created again under its name.
- `reading`: topics without a group, up to their ends; what cannot be read is left out and counted.
- `content`: where the records about a content item are.
- `positions`: committed positions of groups, read and set from outside.
- `admin`: creates the topics of the catalogue.

## Design decisions

- **One transactional producer for each input partition.** aiokafka sends no group generation with a transaction's
  offsets. A process that lost its partition must therefore be fenced by its transactional id, GROUP-TOPIC-PARTITION.
  Only one live producer can hold it. The new owner opens its producer first and reads the position after that.
- **The bus, not aiokafka, decides where reading goes on.** aiokafka may move the position of one partition and then
  raise at another. After any error, every partition goes back to what was handed on last. What cannot be decoded
  becomes a dead letter with its bytes, and its neighbours in the batch are read one by one.
- **A log that ends before the position is read from its first record.** The log was cut, restored or created again.
  Offsets and timestamps cannot tell which of its records are new: producers set timestamps, and a restored cluster
  counts its leader epochs again. Rather twice than lost: enforcement deduplicates, and no alarm finds a lost record.
- **Positions are records of our own, too.** Kafka drops the positions of a group that was empty for 7 days. Writers add
  theirs to moderation.positions, in the same transaction: once a minute, and each time for finite runs.
- **An unknown error is no answer.** A broker that ends other brokers' transactions has transactions, whatever it
  answers at the moment. Only one without those requests makes a process at-least-once.
- **A refusal by the broker ends the process.** A retry cannot change an access list, and a process that retries forever
  looks healthy.
"""

from safeguard_streams.bus.kafka.admin import create_topics
from safeguard_streams.bus.kafka.bus import KafkaBus
from safeguard_streams.bus.kafka.clients import producer, started
from safeguard_streams.bus.kafka.content import Mention, Place, likely_partition, partition_of_content, records_at
from safeguard_streams.bus.kafka.groups import forget_group
from safeguard_streams.bus.kafka.positions import (
    begin_at_end,
    begin_unused_at_end,
    begin_where_another_stands,
    group_positions,
    set_first_positions,
)
from safeguard_streams.bus.kafka.probes import COMMAND_SECONDS, has_transactions, wait_for_broker
from safeguard_streams.bus.kafka.reading import (
    EndOffsets,
    Reading,
    decoded_or_left_out,
    end_offsets,
    follow,
    offsets_at,
    partitions_of,
    plausible,
    read_all,
    read_decoded,
    read_table,
    reader,
    watched,
    watching,
)
from safeguard_streams.bus.kafka.topic_ids import topic_ids_of
from safeguard_streams.bus.kafka.writers import Write, exclusive_writer

__all__ = [
    "COMMAND_SECONDS",
    "EndOffsets",
    "KafkaBus",
    "Mention",
    "Place",
    "Reading",
    "Write",
    "begin_at_end",
    "begin_unused_at_end",
    "begin_where_another_stands",
    "create_topics",
    "decoded_or_left_out",
    "end_offsets",
    "exclusive_writer",
    "follow",
    "forget_group",
    "group_positions",
    "has_transactions",
    "likely_partition",
    "offsets_at",
    "partition_of_content",
    "partitions_of",
    "plausible",
    "producer",
    "read_all",
    "read_decoded",
    "read_table",
    "reader",
    "records_at",
    "set_first_positions",
    "started",
    "topic_ids_of",
    "wait_for_broker",
    "watched",
    "watching",
]
