"""`aiki acl`: a line for redis-cli, and what else there is to do."""

import hashlib
from pathlib import Path

import pytest

from aiki.cli import Exit
from aiki.store.rights import Role, commands
from tests.cli.till import invoke


async def test_acl_prints_one_line_and_asks_for_the_hash(place: Path) -> None:
    result = await invoke("acl", "reader")
    assert result.exit_code == Exit.DONE
    assert result.stdout == (
        "ACL SETUSER aiki-reader on #SHA256-OF-THE-PASSWORD resetkeys %R~aiki:default:{* "
        "resetchannels &aiki:default:{* -@all +hget +hgetall +hmget +info +ping +smembers "
        "+subscribe +time +unsubscribe +xinfo|consumers +xlen +xrange +zcard +zrange\n"
    )
    assert "--password-file" in result.stderr
    assert not (place / ".aiki").exists(), "it connects to nothing"


@pytest.mark.parametrize("role", Role)
async def test_acl_names_each_command_of_a_role_for_the_user_and_the_namespace_given(
    place: Path, role: Role
) -> None:
    (place / "password").write_text("hush\n")
    url = f"redis://shop%2B1@localhost/3?durability=replicated&password_file={place / 'password'}"
    options = ("--namespace", "shop [a]", "--redis", url)
    result = await invoke("acl", role.value, *options, "--password-file", "password")
    assert (result.exit_code, result.stderr) == (Exit.DONE, "")
    words = result.stdout.split()
    assert words[:4] == ["ACL", "SETUSER", "shop+1", "on"]
    assert words[4] == "#" + hashlib.sha256(b"hush").hexdigest()
    assert words[6].endswith("~aiki:shop?\\[a\\]:{*")
    assert words[8] == "&aiki:shop?\\[a\\]:{*"
    expected = [*commands(role), "wait", "select"]
    assert words[9:] == ["-@all", *(f"+{name}" for name in expected)]


async def test_acl_tells_what_sentinels_and_clusters_want() -> None:
    found = await invoke("acl", "client", "--redis", "redis+sentinel://a,b,c/runs")
    assert "sentinel|get-master-addr-by-name" in found.stderr
    found = await invoke("acl", "client", "--redis", "redis+cluster://a,b,c?durability=fsync")
    assert "+cluster|info +cluster|slots +waitaof" in found.stdout
    assert "all nodes" in found.stderr


async def test_acl_refuses_what_is_no_role_no_file_and_no_url() -> None:
    for arguments in (
        ("owner",), ("reader", "--password-file", "nowhere"), ("reader", "--redis", "nonsense"),
        ("reader", "--namespace", "a/b"), (),
    ):  # fmt: skip
        assert (await invoke("acl", *arguments)).exit_code == Exit.USAGE, arguments
