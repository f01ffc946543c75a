"""Kafka behind the interface of the bus, and the few other clients that commands need.

Each input partition has a transactional producer of its own. aiokafka sends no group generation with a transaction's offsets, so
a process that lost a partition without noticing must be fenced by the transactional id, GROUP-TOPIC-PARTITION: only one living
producer can hold it.

clients    shared options, translated errors, bounded stops      probes     does the broker answer, has it transactions?
bus        group membership, polling, positions                  writers    commits of outputs and offset together
reading    whole topics up to their ends                         positions  offsets of groups, from outside
admin      creates topics
"""

from safeguard_streams.bus.kafka.admin import create_topics
from safeguard_streams.bus.kafka.bus import KafkaBus
from safeguard_streams.bus.kafka.clients import producer, started
from safeguard_streams.bus.kafka.positions import begin_at_end, group_positions, set_first_positions
from safeguard_streams.bus.kafka.probes import has_transactions, wait_for_broker
from safeguard_streams.bus.kafka.reading import EndOffsets, partitions_of, read_all, reader
from safeguard_streams.bus.kafka.writers import Write, exclusive_writer

__all__ = [
    "EndOffsets",
    "KafkaBus",
    "Write",
    "begin_at_end",
    "create_topics",
    "exclusive_writer",
    "group_positions",
    "has_transactions",
    "partitions_of",
    "producer",
    "read_all",
    "reader",
    "set_first_positions",
    "started",
    "wait_for_broker",
]
