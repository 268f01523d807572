"""The command that makes keys; it needs no store."""

from __future__ import annotations

import click

from aiki.cli_exits import code_of
from aiki.encryption import new_key_line
from aiki.errors import AikiError


@click.command()
@click.argument("key_id", metavar="ID")
def new_key(key_id: str) -> None:
    """Make a key for the encryption of payloads, and print its line of the file of keys.

    ID has letters, digits, dots, hyphens and underscores. The first key of the file encrypts.

    \b
      (umask 077; aiki new-key 2030-01 > aiki.keys)
    """  # noqa: D301  (the backspace is meant: it keeps click from wrapping lines)
    try:
        click.echo(new_key_line(key_id))
    except AikiError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(code_of(error)) from None
