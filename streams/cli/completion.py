"""safeguard completion."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # public, but not marked as such

from safeguard_streams.cli.options import one_of

PROGRAM = "safeguard"
_SHELLS = ("bash", "zsh", "fish", "powershell")


def completion(
    shell: Annotated[
        str, typer.Argument(parser=one_of("shell", _SHELLS), metavar="SHELL", help=f"One of {', '.join(_SHELLS)}.")
    ],
) -> None:
    """Print the script that makes a shell complete commands and options with Tab.

    For the current bash: eval "$(safeguard completion bash)". For every bash, append that line to ~/.bashrc. zsh takes
    the same line with its own name, in ~/.zshrc. fish: safeguard completion fish >
    ~/.config/fish/completions/safeguard.fish
    """
    print(get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell))
