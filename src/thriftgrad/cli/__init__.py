"""The command line: `thriftgrad train`, `evaluate`, `predict`. One file a command."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on the arguments that the process was given, and exit.

    The exit code is 0 where all went well, 1 after an error, 2 where the command was not
    understood, and 130 after an interrupt from the keyboard.
    """
    try:
        _run()
    except KeyboardInterrupt:  # while importing; later ones are met where they happen
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # nobody reads on, as under `| head`
        # What is still in the buffer has to go somewhere when Python flushes it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run() -> None:
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
    try:
        app(prog_name="thriftgrad")
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()
