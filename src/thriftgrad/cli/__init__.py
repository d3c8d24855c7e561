"""The command line: `thriftgrad train`, `evaluate`, `predict`. One file a command."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on the arguments that the process was given, and exit.

    The exit code is 0 where all went well, 1 after an error, 2 where the command was not
    understood, and 130 after an interrupt from the keyboard.
    """
    try:
        from thriftgrad.cli.app import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "typer":
            raise
        print(
            "error: the command line needs typer, which is not installed: "
            "pip install 'thriftgrad[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    app(prog_name="thriftgrad")
