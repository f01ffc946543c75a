"""The bus on Apache Kafka, and the Kafka clients that commands need.

On a broker with transactions, outputs and position are committed in one transaction. A broker without them is detected,
and outputs are then written before the position. Every client stops in bounded time and raises the errors of
`safeguard_streams.errors` with a hint about what to do.

- `clients`: options that all clients share, translated errors, bounded stops.
- `probes`: whether the broker answers, and whether it has transactions.
- `bus`: membership in a consumer group, polling, positions.
- `writers`: commits of outputs and position; writes under an exclusive name.
- `reading`: topics without a group, up to their ends; what cannot be read is left out and counted.
- `content`: where the records about a content item are.
- `positions`: committed positions of groups, read and set from outside.
- `admin`: creates the topics of the catalogue.

## Design decisions

- **One transactional producer for each input partition.** aiokafka sends no group generation with a transaction's
  offsets. A process that lost its partition must therefore be fenced by its transactional id, GROUP-TOPIC-PARTITION.
  Only one live producer can hold it. The new owner opens its producer first and reads the position after that.
- **A refusal by the broker ends the process.** A retry cannot change an access list, and a process that retries forever
  looks healthy.
"""

from safeguard_streams.bus.kafka.admin import create_topics
from safeguard_streams.bus.kafka.bus import KafkaBus
from safeguard_streams.bus.kafka.clients import producer, started
from safeguard_streams.bus.kafka.content import Mention, likely_partition, partition_of_content
from safeguard_streams.bus.kafka.positions import begin_at_end, group_positions, set_first_positions
from safeguard_streams.bus.kafka.probes import has_transactions, wait_for_broker
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
from safeguard_streams.bus.kafka.writers import Write, exclusive_writer

__all__ = [
    "EndOffsets",
    "KafkaBus",
    "Mention",
    "Reading",
    "Write",
    "begin_at_end",
    "create_topics",
    "decoded_or_left_out",
    "end_offsets",
    "exclusive_writer",
    "follow",
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
    "set_first_positions",
    "started",
    "wait_for_broker",
    "watched",
    "watching",
]
