"""Commands invoked in this process, without a terminal."""

from typer.testing import CliRunner

from safeguard_streams.cli import app


def invoke(*words, given=""):
    """The result of a command; `given` is its standard input. Raises the command's error."""
    done = CliRunner().invoke(app, [*map(str, words)], input=given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
