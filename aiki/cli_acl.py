"""What `aiki acl` prints: the command that makes a user of a server, and what else is to do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aiki.cli_settings import StoreSettings
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
