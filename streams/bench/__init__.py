"""Benchmarks: `safeguard bench`. Each figure stands beside its baseline, measured in the same run."""
