"""Addresses of a Redis: what is accepted, what is refused at once, and that no secret is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.exceptions import AuthenticationError

from aiki.errors import ConfigError
from aiki.store import finding
from aiki.store.connection import Address, Verdict, judge
from aiki.store.finding import Answer
from aiki.store.login import PasswordFile, read_password
from aiki.store.urls import Place


@pytest.mark.parametrize(
    ("given", "url", "described"),
    [
        (
            "redis://redis.example.com",
            "redis://redis.example.com",
            "redis://redis.example.com:6379",
        ),
        ("redis://:6380/3", "redis://:6380/3", "redis://localhost:6380/3"),
        ("rediss://u:p@host:1/0", "rediss://u:p@host:1/0", "rediss://host:1/0"),
        ("redis://[::1]:6379/1", "redis://[::1]:6379/1", "redis://[::1]:6379/1"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2", "unix:///run/redis.sock"),
        ("unix://u:p@/run/redis.sock", "unix://u:p@/run/redis.sock", "unix:///run/redis.sock"),
        (
            "redis+sentinel://u:p@a:1,b,[::1]:3/runs?sentinel_password=p",
            "redis+sentinel://u:p@a:1,b,[::1]:3/runs?sentinel_password=p",
            "redis+sentinel://a:1,b:26379,[::1]:3/runs",
        ),
        (
            "rediss+sentinel://a/runs/2",
            "rediss+sentinel://a/runs/2",
            "rediss+sentinel://a:26379/runs/2",
        ),
        ("redis+cluster://u:p@a:1,b", "redis+cluster://u:p@a:1,b", "redis+cluster://a:1,b:6379"),
        ({}, "redis://localhost:6379/0", "redis://localhost:6379/0"),
        ({"host": "h", "port": 7, "db": 1}, "redis://h:7/1", "redis://h:7/1"),
        ({"host": "::1", "ssl": True}, "rediss://[::1]:6379/0", "rediss://[::1]:6379/0"),
        (
            {"username": "a:b", "password": "p/#?@:%"},
            "redis://a%3Ab:p%2F%23%3F%40%3A%25@localhost:6379/0",
            "redis://localhost:6379/0",
        ),
    ],
)
def test_an_address_is_a_url_or_keywords(
    given: str | Mapping[str, Any], url: str, described: str
) -> None:
    address = Address(given)
    assert (address.url, address.described) == (url, described)


def test_a_password_with_special_characters_arrives_as_it_is() -> None:
    password = "p/#?@:% ü"
    settings = Address({"username": "a:b", "password": password})._pool.connection_kwargs
    assert (settings["username"], settings["password"]) == ("a:b", password)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "redis",
        "localhost:6379",
        "redis://",
        "redis:///0",
        "http://localhost:6379",
        "redis://localhost?durability=always",
        "redis+sentinel://localhost",
        "redis+sentinel://localhost/",
        "redis+sentinel://localhost/a service",
        "redis+sentinel://localhost/runs/orders",
        "redis+sentinel://localhost/runs/1/2",
        "redis+sentinel://localhost:port/runs",
        "redis+sentinel://localhost:66000/runs",
        "redis+sentinel://,/runs",
        "redis+sentinel://::1/runs",
        "redis+sentinel://localhost/runs?ssl_cert_reqs=none",
        "redis+sentinel://localhost/runs?service_name=runs",
        "rediss+sentinel://localhost/runs?ssl_ca_certs=/no/such/file",
        "redis+cluster://localhost/1",
        "redis+cluster://localhost/runs",
        "redis+cluster://localhost?db=0",
        "redis+cluster:///run/redis.sock",
        "redis://localhost:port",
        "redis://localhost:66000",
        "redis://localhost:-1",
        "redis://[::1",
        "redis://localhost/orders",
        "redis://localhost/-1",
        "redis://localhost/1/2",
        "redis://localhost/\N{ARABIC-INDIC DIGIT THREE}",
        "redis://localhost?db=orders",
        "redis://localhost#0",
        "redis://localhost?protocol=3",
        "redis://localhost?socket_timeout=never",
        "redis://localhost?no_such_option=1",
        "redis://localhost?ssl_cert_reqs=none",
        "rediss://localhost?ssl_cert_reqs=maybe",
        "rediss://localhost?ssl_ca_certs=/no/such/file",
        "unix://",
        "unix:///",
        "unix://run/redis.sock",
        "redis://localhost?password_file=/no/such/file",
        "redis://localhost?password_file=pyproject.toml",
        "redis://u:p@localhost?password_file=/etc/hosts",
        "redis+sentinel://:p@localhost/runs?password_file=/etc/hosts",
        "redis+sentinel://localhost/runs?sentinel_password=p&sentinel_password_file=/etc/hosts",
        "redis+cluster://u:p@localhost?password_file=/etc/hosts",
        "redis://localhost?sentinel_password_file=/etc/hosts",
        {"host": "localhost", "port": "port"},
        {"host": "localhost", "port": 66000},
        {"host": "localhost", "db": "orders"},
        {"hostname": "localhost"},
        {"host": "localhost", "decode_responses": True},
    ],
)
def test_a_malformed_address_is_refused_where_it_is_written(given: str | Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Address(given)


@pytest.mark.parametrize("character", list("/#?@:%[] "))
@pytest.mark.parametrize(
    "scheme", ["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster"]
)
def test_a_password_is_never_told_whether_it_was_escaped_or_not(
    scheme: str, character: str
) -> None:
    place = "/run/redis.sock" if scheme == "unix" else "host:1"
    place += "/runs" if scheme.endswith("sentinel") else ""
    for password in (f"hush{character}secret", f"1{character}secret"):
        told = ""
        try:
            told = Address(f"{scheme}://user:{password}@{place}").described
        except ConfigError as error:
            told = str(error)
        assert "secret" not in told
        assert "hush" not in told


def test_a_certificate_that_is_there_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    Address(f"rediss://localhost?ssl_ca_certs={tmp_path / 'ca.pem'}&ssl_check_hostname=false")


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", Verdict.NO_SCRIPT),
        ("BUSY Redis is busy running a script.", Verdict.TRY_LATER),
        ("LOADING Redis is loading the dataset in memory", Verdict.TRY_LATER),
        ("MISCONF Errors writing to the AOF file: No space left on device", Verdict.TRY_LATER),
        ("READONLY You can't write against a read only replica.", Verdict.TRY_ELSEWHERE),
        ("MOVED 13907 10.0.0.1:6379", Verdict.TRY_ELSEWHERE),
        ("CLUSTERDOWN The cluster is down", Verdict.TRY_ELSEWHERE),
        ("ASK 13907 10.0.0.1:6379", Verdict.TRY_LATER),
        ("NOREPLICAS Not enough good replicas to write.", Verdict.TRY_LATER),
        ("NOPERM this user has no permissions", Verdict.TRY_LATER),
        ("ERR The user executing the script can't run this command", Verdict.TRY_LATER),
        ("NOPERM ACL failure in script: User u has no permissions", Verdict.TRY_LATER),
        ("ERR ACL failure in script: User u has no permissions", Verdict.TRY_LATER),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Verdict.REFUSED),
        ("OOM command not allowed when used memory > 'maxmemory'.", Verdict.REFUSED),
        ("ERR unknown command", Verdict.REFUSED),
        ("ERR BUSY is not the first word", Verdict.REFUSED),
    ],
)
def test_an_error_is_judged_by_its_first_word(error: str, verdict: Verdict) -> None:
    assert judge(error) is verdict


# Who is asked


async def test_the_first_answer_is_waited_for_longer_than_those_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given nodes that are slow, and one that is silent."""
    monkeypatch.setattr(finding, "ASK_TIMEOUT", 0.1)
    prompt, slow, silent = ("prompt", 1), ("slow", 1), ("silent", 1)
    delays = {prompt: 0.0, slow: 0.3, silent: 1000.0}

    async def told(*places: Place, enough: int) -> list[object]:
        async def ask(place: Place) -> Answer:
            await asyncio.sleep(delays[place])
            return 1, place

        return [*await finding._ask_all([ask(place) for place in places], enough)]

    assert await told(slow, silent, enough=2) == [(1, slow)]
    assert await told(silent, slow, prompt, enough=2) == [(1, prompt)]
    monkeypatch.setattr(finding, "ASK_TIMEOUT", 60.0)
    assert await told(silent, slow, prompt, enough=2) == [(1, prompt), (1, slow)]
    monkeypatch.setattr(finding, "PATIENCE", 0.1)
    assert await told(silent, slow, enough=1) == []


# Passwords in files


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:1/0?{}", "rediss://host:1?{}", "unix:///run/redis.sock?db=1&{}",
        "redis+sentinel://host:1/runs?{}", "redis+cluster://host:1?{}",
    ],
)  # fmt: skip
def test_a_password_is_read_from_its_file_each_time(tmp_path: Path, url: str) -> None:
    file = tmp_path / "pass word"
    file.write_text("first\n")
    named = url.format(f"password_file={quote(str(file))}")
    for each, user in ((named, ()), (named.replace("://", "://app@"), ("app",))):
        address = Address(each)
        assert "password" not in address.described
        provider = address._pool.connection_kwargs["credential_provider"]
        assert "username" not in address._pool.connection_kwargs
        for written, password in (("first\n", "first"), ("a b\r\n", "a b"), (" c\n\n", " c\n")):
            file.write_text(written)
            assert provider.get_credentials() == (*user, password)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8"), (b"x" * 5000, "longer than")],
)
def test_a_file_without_a_password_is_told_by_its_name(
    tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_password(file)
    with pytest.raises(AuthenticationError, match=f"{file} .*{words}"):
        PasswordFile(str(file), "").get_credentials()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_password(tmp_path)
