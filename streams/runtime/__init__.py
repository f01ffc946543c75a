"""What every process and command shares: settings, security, logs, signals, health pages, telemetry.

Settings come from the environment, a file and a folder of secrets, and an error names the invalid setting and the
reason. After SIGTERM, a process runs for nine seconds at most. Content is never logged, and no metric holds it.

- `settings`: all settings, by the role that uses them.
- `brokers`: addresses of brokers.
- `server_urls`: base URLs of inference servers.
- `security`: TLS and SASL options of Kafka clients.
- `aiokafka_patch`: a consumer that never mistakes a failed offset fetch for "no offset".
- `record_batches`: a fetch taken apart, so that one bad record or batch costs only that.
- `memory_broker`: a broker in memory, for tests of the project and of its users.
- `process`: logs, signals, an end that is bounded in time, garbage collection, tasks that end together.
- `ports`: whether a process can listen on a port.
- `health`: liveness, readiness and metrics over HTTP.
- `metrics`: every metric, declared once.
- `telemetry`: export of metrics and traces.
- `durations`, `counts`: spans of time such as 15m; numbers with their nouns, for people.

## Design decisions

- **A failed offset fetch is never "no offset".** aiokafka mistakes a coordinator's "not now" for "nothing was
  committed" and starts again from the beginning. Our consumers raise the error instead, and aiokafka retries. aiokafka
  itself stays unchanged for the other consumers of a process.
- **Metrics are objects, not strings.** Code, dashboards, the list in METRICS.md and the tests name the same object. A
  test scrapes all processes and finds every declared metric, and no other.
"""
