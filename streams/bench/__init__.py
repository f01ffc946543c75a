"""Benchmarks of the prefilter, of releases and of the console: `safeguard bench`.

Those on Kafka print their figures beside baselines measured in the same run, on the same broker and the same texts.
Modules in reading order:

- `common`: the broker, the texts, topics for one measurement.
- `policies`: the policies in force during a benchmark.
- `second_stage`: policies whose gates use vectors for a given share of the texts.
- `processes`: processes started as an operator would start them.
- `variants`: the baselines: a plain Faust agent and bare consumer loops.
- `prefilter`: throughput, latency, and the cost of telemetry and of many terms.
- `costs`: texts by kind and length, and what work on one costs.
- `texts`: what the prefilter and the prompt of a text cost, without a broker.
- `release`: a policy released and rolled back under load.
- `console`: projecting into the console's database, and its pages.

## Design decisions

- **Baselines run in the same command.** Figures from different machines or days are not comparable. One run compares
  the pipeline with hand-written alternatives.
- **Figures are read back from Kafka.** Throughput and latency come from committed output records, so work that was not
  committed does not count.
"""
