"""What the command `aiki` ends with, and the end of its help that says so."""

from __future__ import annotations

from enum import IntEnum

import click

from aiki.errors import (
    AikiError,
    NotFound,
    RunCancelled,
    RunFailed,
    StoreRefused,
    StoreUnavailable,
)


class Exit(IntEnum):
    """What `aiki` ends with."""

    DONE = 0
    UNSUCCESSFUL = 1
    USAGE = 2
    NOT_FOUND = 3
    STORE = 4
    INTERRUPTED = 130  # as shells count a SIGINT


EXITS = {
    Exit.DONE: "Done. With --wait: the run completed.",
    Exit.UNSUCCESSFUL: (
        "With --wait: the run failed, was cancelled or is stalled. Of audit: something is wrong."
    ),
    Exit.USAGE: "A wrong argument or setting. Nothing was started.",
    Exit.NOT_FOUND: "There is no such run, or nobody has ever served that workflow.",
    Exit.STORE: "The store could not be reached, or refused.",
    Exit.INTERRUPTED: "Interrupted. With --wait: the run goes on.",
}


def code_of(error: AikiError) -> Exit:
    """Give what an error ends the command with."""
    match error:
        case NotFound():
            return Exit.NOT_FOUND
        case StoreRefused() | StoreUnavailable():
            return Exit.STORE
        case RunFailed() | RunCancelled():
            return Exit.UNSUCCESSFUL
        case _:
            return Exit.USAGE


def _write_epilog(formatter: click.HelpFormatter) -> None:
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(code.value), sentence) for code, sentence in EXITS.items()])
    formatter.write_paragraph()
    formatter.write_text(
        "Where the runs are may also be said by AIKI_REDIS_URL, AIKI_DATA_DIR and AIKI_NAMESPACE "
        "in the environment, or by redis, data-dir and namespace in [tool.aiki] of "
        "pyproject.toml. A flag beats the environment, which beats the file."
    )


class Command(click.Command):
    """A command whose help ends with the exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write them below all options."""
        _write_epilog(formatter)


class Group(click.Group):
    """The same of a group of commands."""

    command_class = Command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write them below all options."""
        _write_epilog(formatter)
