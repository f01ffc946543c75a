"""The reasoning worker: prompts, inference engines, strict parsing, verdicts."""
