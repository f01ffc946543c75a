"""Brokers for development and tests, container images, pinned requirements."""
