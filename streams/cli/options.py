"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Bootstrap = Annotated[
    str | None, typer.Option("--bootstrap", metavar="HOST:PORT", help="Kafka brokers; default SAFEGUARD_BOOTSTRAP.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Data = Annotated[
    Path,
    typer.Option(
        "--data", help="Folder of labelled texts: JSON lines {text, violates, category, harm}, .jsonl or .jsonl.gz."
    ),
]
