"""The commands about who may do and read what: users of a server, and keys of encryption."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from aiki.cli_command import on_store, say
from aiki.cli_exits import code_of
from aiki.cli_settings import StoreSettings
from aiki.encryption import new_key_line
from aiki.errors import AikiError
from aiki.names import checked_name
from aiki.store.login import read_password
from aiki.store.rights import Role, sentinel_line, user_line
from aiki.store.urls import redis_url, target

# No hash, so that a server refuses the line in which it was forgotten.
_PLACEHOLDER = "SHA256-OF-THE-PASSWORD"


def user_lines(
    role: Role, store: StoreSettings, password_file: str | None
) -> tuple[str, list[str]]:
    """Give the command for a user of a role on a store, and remarks.

    Raises `ConfigError` and `DefinitionError` for a URL, a file or a namespace that is none.
    """
    namespace = checked_name(store.namespace, "namespace")
    address = None if store.redis is None else target(redis_url(store.redis))
    named = "" if address is None else unquote(urlsplit(address.url).username or "")
    digest, remarks = _PLACEHOLDER, list[str]()
    if password_file is None:
        remarks.append(
            f"put the hash in the place of {_PLACEHOLDER}: printf %s PASSWORD | sha256sum, or "
            "name the file that has the password by --password-file"
        )
    else:
        digest = hashlib.sha256(read_password(Path(password_file)).encode()).hexdigest()
    if address is not None and address.kind == "sentinel":
        remarks.append(
            "the primary and its replicas all want this user; sentinels that ask for a login want "
            f"another one: {sentinel_line(f'aiki-{role}', _PLACEHOLDER)}"
        )
    if address is not None and address.kind == "cluster":
        remarks.append("all nodes of the cluster want this user")
    user = named or f"aiki-{role}"
    return user_line(role, user, digest, namespace=namespace, target=address), remarks


@click.command()
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.option(
    "--password-file", metavar="FILE", help="Put the hash of the password in it into the line."
)
@on_store
async def acl(store: StoreSettings, *, role: str, password_file: str | None) -> None:
    """Print the command that gives a user of your Redis the rights that ROLE needs.

    \b
      reader      lists runs, looks into them and waits for them; changes nothing
      client      starts runs, sends events, asks, steers; schedules
      worker      executes runs; keeps house where no supervisor does
      supervisor  a supervisor with its workers, and aiki audit

    Nothing is sent. The user is that of the URL, or aiki-ROLE. It may use keys and channels of the
    namespace, and the commands that this release sends in that role. Paste the line into
    redis-cli, or

    \b
      aiki acl worker --password-file /run/secrets/aiki | redis-cli

    Passwords that the user has already stay valid, until ACL SETUSER NAME <PASSWORD removes them.
    """  # noqa: D301  (the backspace is meant: it keeps click from wrapping lines)
    line, remarks = user_lines(Role(role), store, password_file)
    click.echo(line)
    for remark in remarks:
        say(remark)


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
        say(f"Error: {error}")
        raise SystemExit(code_of(error)) from None
