"""safeguard topics."""

from __future__ import annotations

import asyncio

import orjson
import typer
from rich.table import Table

from streams import asyncapi as described
from streams import kafka, settings
from streams import topics as catalogue
from streams.cli.options import Bootstrap, Json, console

app = typer.Typer(no_args_is_help=True, help="Topics of the pipeline.")


@app.command("create")
def create(bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Create the topics that are missing; those that exist are left as they are."""
    made = asyncio.run(kafka.create_topics(settings.load(bootstrap=bootstrap)))
    if as_json:
        print(orjson.dumps(made).decode())
    else:
        for name, new in made.items():
            print(f"{'created' if new else 'exists '} {name}")


@app.command("list")
def show(as_json: Json = False) -> None:
    """The catalogue: names, keys, records, retention."""
    current = settings.load()
    rows = [
        {
            "topic": current.prefix + topic.name,
            "key": topic.key,
            "record": topic.record.__name__,
            "partitions": topic.partitions or current.partitions,
            **topic.config,
        }
        for topic in catalogue.CATALOGUE
    ]
    if as_json:
        print(orjson.dumps(rows).decode())
        return
    table = Table("topic", "key", "record", "partitions", "cleanup", "retention, days", box=None)
    for topic, row in zip(catalogue.CATALOGUE, rows, strict=True):
        days = str(topic.retention // catalogue.DAY) if "delete" in topic.cleanup else ""
        shown = [str(row[column]) for column in ("topic", "key", "record", "partitions")]
        table.add_row(*shown, topic.cleanup, days)
    console().print(table)


@app.command("asyncapi")
def asyncapi() -> None:
    """The topics and their records as an AsyncAPI 3 document, for code in other languages."""
    print(orjson.dumps(described.document(), option=orjson.OPT_INDENT_2).decode())
