"""The whole pipeline on one machine: `safeguard demo`."""
