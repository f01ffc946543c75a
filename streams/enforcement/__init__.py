"""Enforcement: verdicts in, actions out, as rules in a file say."""
