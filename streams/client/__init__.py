"""The library for applications: publish content events and follow verdicts.

It needs aiokafka, cramjam, msgspec and orjson, and it patches no other library. Applications import it as `from
safeguard_streams import Publisher, Verdicts`. Both take a MemoryBroker instead of an address in tests.

- `publisher`: checks content events and publishes them.
- `verdicts`: follows verdicts, without duplicates and without superseded ones.
- `item_verdicts`: what the verdicts say about an item under all policies.
- `memory`: both clients' connections to a MemoryBroker.
- `kafka_errors`: Kafka's errors as errors of this package.
- `recent_ids`: a bounded set of ids.

## Design decisions

- **It never imports `bus`.** An application that follows verdicts needs no engine, no settings and no telemetry.
- **Only its own consumers are stricter.** aiokafka reads a failed offset fetch as "nothing committed". `StrictConsumer`
  raises the error instead. Other consumers in the process keep aiokafka's behaviour.
- **A fold, not a ledger.** Consumers keep what stands in their own store, in the transaction that acts. `ItemVerdicts`
  is a value that folds in one verdict, with the rules of enforcement.
- **Deduplication needs a window, not a database.** After a rebalance, `Verdicts` reads a window of verdicts before its
  offset and remembers their ids. A duplicate across the boundary is dropped too.
"""
