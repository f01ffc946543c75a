"""A small model of the real gpt-oss architecture, for trying the pipeline without a GPU. It is no judge of content."""
