"""Written policies: documents, their checks, and the library."""
