"""Errors of policy documents."""


class PolicyError(ValueError):
    """A policy document is malformed; the message says where and what to change."""
