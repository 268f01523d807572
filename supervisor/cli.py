"""The command `python -m aiki.supervisor`: arguments in, an exit code out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from aiki.errors import ConfigError
from aiki.supervisor.exits import Exit
from aiki.supervisor.settings import OPTIONS, Settings
from aiki.supervisor.signals import MEANINGS
from aiki.supervisor.supervisor import Supervisor


class _Command(click.Command):
    """A command whose help also tells signals and exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Signals"):
            formatter.write_dl(
                [
                    (number.name.removeprefix("SIG"), " ".join(text.split()))
                    for number, (_, text) in MEANINGS.items()
                ]
            )
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), code.sentence) for code in Exit])
        formatter.write_paragraph()
        formatter.write_text(
            "Each option may also be set as AIKI_OPTION in the environment (--redis as "
            "AIKI_REDIS_URL) or as option in [tool.aiki] of pyproject.toml. A flag beats the "
            "environment, which beats the file. TIME is seconds, or a number with ms, s, m, h or "
            "d. SIZE is bytes, or a number with KiB, MiB or GiB."
        )


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(OPTIONS):
        # Read by the settings and not by click, so that flag, variable and file take the same.
        command = click.option(
            f"--{option.key}",
            option.name,
            metavar=option.metavar,
            help=f"{option.help}  [{option.default}]",
            multiple=option.name == "pools",
        )(command)
    return command


@click.command(
    cls=_Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("modules", metavar="MODULE[:NAME]...", nargs=-1, required=True)
@_with_options
def command(modules: tuple[str, ...], **flags: Any) -> None:
    """Serve the workflows of these modules with supervised worker processes.

    A MODULE is imported by the workers, and every workflow that it holds is served; with :NAME,
    only that workflow, version, registry or list of them.

    \b
      python -m aiki.supervisor shop.orders
      python -m aiki.supervisor shop.orders:order_workflow --workers 4
      python -m aiki.supervisor shop.orders --redis rediss://redis.example.org/0
    """  # noqa: D301  (the backspace is meant: it keeps click from wrapping lines)
    flags["pools"] = flags["pools"] or None
    try:
        Supervisor(modules, settings=Settings.load(flags, flags=True)).run()
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def main() -> None:
    """Run the command (supervisor process)."""
    command(prog_name="python -m aiki.supervisor")
    sys.exit(Exit.ENDED)
