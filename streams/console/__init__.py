"""The console: where people look, decide and change policy."""
