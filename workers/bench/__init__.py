"""Measures what the reasoning worker adds to its model: throughput from Kafka to Kafka, and latency of live content.

Every variant judges equal content items with equal vLLM settings on one broker.

- `run`: runs the variants one after another and compares them.
- `drains`: items that are published at once, and what the worker makes of them.
- `baselines`: vLLM without Kafka, and a plain loop of chat calls.
- `items`: the content items.
- `texts`: what a prompt costs by kind and length of text, for `safeguard bench texts`.
"""
