"""safeguard export."""

from __future__ import annotations

from collections.abc import Callable

import typer

from safeguard_streams.cli import export_statements
from safeguard_streams.cli.export_records import Form, Since, To, Until, export_records
from safeguard_streams.cli.options import Bootstrap, Json
from safeguard_streams.exporting.formats import FORMATS
from safeguard_streams.exporting.kinds import KINDS

app = typer.Typer(
    no_args_is_help=True,
    help="Export records to files for a warehouse. The files hold personal data: keep them as you keep content.",
)


def _command(kind: str) -> Callable[..., None]:
    """The command that exports the records of a kind."""

    def export(
        to: To,
        since: Since = None,
        until: Until = None,
        form: Form = FORMATS[0],
        bootstrap: Bootstrap = None,
        as_json: Json = False,
    ) -> None:
        export_records(kind, to, form, (since, until), bootstrap, as_json=as_json)

    export.__doc__ = (
        f"Export the records of {KINDS[kind].topic}, each once, in a folder for each day.\n\n"
        "Repeat the command to add newer records. After a kill, the same command goes on where the files end. Records "
        f"about items that were erased before the run are left out. The files hold {KINDS[kind].holds}."
    )
    return export


for _kind in KINDS:
    if _kind != export_statements.KIND:
        app.command(_kind)(_command(_kind))
app.command(export_statements.KIND)(export_statements.statements)
