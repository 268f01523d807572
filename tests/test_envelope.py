"""Envelopes: what is compressed or encrypted is read back, and nothing else is taken for it."""

from __future__ import annotations

import base64
import os
import pickle
import random
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

import aiki
from aiki import Compressed, Encrypted
from aiki.encryption import new_key_line, payload_codec
from aiki.envelope import COMPRESSED, ENCRYPTED, LARGEST, PayloadCodec, Sealed, head_of
from aiki.errors import ConfigError, DataError, Tampered, UnknownKey
from aiki.store.seals import Seals
from tests.support.app import TIMEOUT, App
from tests.support.marked import lasting, lasting_v1, paid, stored

KEY, OTHER = os.urandom(32), os.urandom(32)
LONG = b'"%b"' % (b"so it goes on and on " * 500)


def test_what_is_sealed_is_opened_again_by_whoever_has_the_key() -> None:
    codec = Encrypted({"k1": KEY})
    for payload in (b'"a text"', LONG, bytes(range(256))):
        sealed = codec.seal(payload, "0-1", "input")
        assert payload not in sealed
        assert Encrypted({"k2": OTHER, "k1": KEY}).open(sealed, "0-1", "input") == payload
    assert codec.seal(b"1", "0-1", "input") != codec.seal(b"1", "0-1", "input")


@pytest.mark.parametrize(
    ("run_id", "place"), [("0-2", "input"), ("0-1", "end"), ("", "input"), ("0-1", "input\0")]
)
def test_what_is_sealed_opens_only_where_it_belongs(run_id: str, place: str) -> None:
    codec = Encrypted({"k1": KEY})
    with pytest.raises(Tampered, match="changed, or moved there"):
        codec.open(codec.seal(b"1", "0-1", "input"), run_id, place)


def test_a_key_of_the_same_id_that_is_another_one_is_no_key_to_it() -> None:
    sealed = Encrypted({"k1": KEY}).seal(b"1", "0-1", "input")
    with pytest.raises(Tampered, match="another key has that id"):
        Encrypted({"k1": OTHER}).open(sealed, "0-1", "input")


@pytest.mark.parametrize("codec", [PayloadCodec(), Compressed(), Encrypted({"k2": OTHER})])
def test_a_missing_key_is_named_with_what_to_do(codec: PayloadCodec) -> None:
    sealed = Encrypted({"k1": KEY}).seal(b"1", "0-1", "input")
    with pytest.raises(UnknownKey, match=r"'k1'.*AIKI_ENCRYPTION_KEYS.*resume\(\)") as unknown:
        codec.open(sealed, "0-1", "input")
    assert unknown.value.key_id == "k1"
    copied: UnknownKey = pickle.loads(pickle.dumps(unknown.value))
    assert (copied.key_id, str(copied)) == ("k1", str(unknown.value))


def test_no_changed_cut_or_made_up_envelope_is_taken_for_one(rng: random.Random) -> None:
    codec = Encrypted({"k1": KEY}, compress_over=100)
    whole = codec.seal(LONG, "0-1", "input")
    bad = [whole[:length] for length in range(1, len(whole))]
    bad += [whole + b"x", b"\0", b"\0\0", b"\0\xff" + whole[2:]]
    for place in range(1, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        bad.append(bytes(changed))
    bad += [b"\0" + rng.randbytes(rng.randrange(100)) for _ in range(500)]
    for data in bad:
        with pytest.raises((Tampered, UnknownKey)):
            codec.open(data, "0-1", "input")
        Sealed.of(data)  # what is shown in its place can always be shown


def test_what_is_larger_than_the_limit_is_compressed_if_that_makes_it_smaller() -> None:
    codec = Compressed(over=1000)
    assert codec.seal(LONG[:1000], "0-1", "input") == LONG[:1000]
    noise = os.urandom(2000)
    assert codec.seal(noise, "0-1", "input") == noise
    packed = codec.seal(LONG, "0-1", "input")
    assert len(packed) < len(LONG) / 20
    for reader in (codec, PayloadCodec(), Encrypted({"k1": KEY})):  # nothing is needed to read it
        assert reader.open(packed, "0-1", "input") == LONG
    both = Encrypted({"k1": KEY}, compress_over=1000).seal(LONG, "0-1", "input")
    assert len(both) < len(LONG) / 20
    assert Encrypted({"k1": KEY}).open(both, "0-1", "input") == LONG


def test_a_bomb_is_not_unpacked() -> None:
    bomb = head_of(COMPRESSED) + zlib.compress(bytes(1 << 26))
    with pytest.raises(Tampered, match="more than 4 MiB"):
        PayloadCodec().open(bomb, "0-1", "input")
    edge = b" " * LARGEST
    assert Compressed().open(Compressed().seal(edge, "0-1", "input"), "0-1", "input") == edge
    assert Compressed().seal(edge + b" ", "0-1", "input") == edge + b" "  # so that it can be read


@pytest.mark.parametrize("body", [b"", b"no stream", zlib.compress(LONG)[:-3]])
def test_a_damaged_compressed_payload_is_refused(body: bytes) -> None:
    with pytest.raises(Tampered, match="input of run 0-1 is damaged"):
        PayloadCodec().open(head_of(COMPRESSED) + body, "0-1", "input")
    with pytest.raises(Tampered):
        PayloadCodec().open(head_of(COMPRESSED) + zlib.compress(LONG) + b"more", "0-1", "input")


def test_seals_look_at_nothing_that_is_plain() -> None:
    seals = Seals(Encrypted({"k1": KEY}))
    for plain in (b"", b"null", b"\n{}", b"r1"):
        assert seals.opened(plain, "0-1", "input") == plain
    assert seals.payload(b"", "0-1", "input") == b""  # nothing stays nothing
    assert seals.shown_reason("\0no base64", "0-1") == "\0no base64"
    assert Seals().shown_reason(seals.reason("why", "0-1"), "0-1") == "encrypted (key id k1)"


@pytest.mark.parametrize(
    "keys",
    [{}, [], None, {"k": b"short"}, {"k": "x" * 32}, {"a key": KEY}, {"": KEY}, {7: KEY}],
)
def test_what_is_no_key_is_refused_and_not_repeated(keys: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        Encrypted(keys)
    assert "short" not in str(refused.value)
    with pytest.raises(ConfigError, match="compress_over is a number of bytes"):
        Encrypted({"k": KEY}, compress_over=-1)


def test_keys_for_reading_only_leave_plain_what_is_written(tmp_path: Path) -> None:
    sealed = Encrypted({"k1": KEY}).seal(LONG, "0-1", "input")
    line = f"k1 {base64.b64encode(KEY).decode()}"
    reading = Encrypted.from_file(key_file(tmp_path / "keys", f"plain\n{line}"), compress_over=99)
    assert repr(reading) == "<Encrypted by nothing yet; it reads k1>"
    assert reading.open(sealed, "0-1", "input") == LONG
    assert reading.seal(b'"short"', "0-1", "input") == b'"short"'
    assert PayloadCodec().open(reading.seal(LONG, "0-1", "input"), "0-1", "input") == LONG
    assert reading.fingerprint("abc", reading.key_id) == "abc"
    assert reading.fingerprint("abc", "k1") == Encrypted({"k1": KEY}).fingerprint("abc", "k1")


def key_file(path: Path, text: str, bits: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(bits)
    return path


def test_a_file_of_keys_has_the_newest_first(tmp_path: Path) -> None:
    newest, oldest = new_key_line("2030-02"), new_key_line("2030-01")
    path = key_file(tmp_path / "keys", f"# rotated in February\n\n{newest}\n  {oldest}\n")
    codec = Encrypted.from_file(path)
    assert repr(codec) == "<Encrypted with key 2030-02; it reads 2030-02, 2030-01>"
    assert len(base64.b64decode(newest.split()[1])) == 32
    old = Encrypted.from_file(key_file(tmp_path / "old", oldest, 0o640))
    assert codec.open(old.seal(b"1", "0-1", "input"), "0-1", "input") == b"1"
    assert payload_codec(None, None) is None
    assert isinstance(payload_codec(path, 100), Encrypted)


@pytest.mark.parametrize(
    ("text", "bits", "said"),
    [
        ("", 0o600, "holds no keys; `aiki new-key ID`"),
        ("k1\n", 0o600, "line 1: is not an id and a key in base64"),
        ("k1 no%base64", 0o600, "line 1: is not an id"),
        ("# one\nk1 AAAA", 0o600, "key 'k1' is not 32 bytes"),
        (f"k {'A' * 43}=\nk {'A' * 43}=", 0o600, "line 2: there is a key 'k' above"),
        (f"k {'A' * 43}=", 0o604, "everybody on this host can read or change the keys; chmod o="),
        (None, 0, "the keys cannot be read: No such file"),
    ],
)
def test_a_file_that_is_none_of_keys_is_refused_without_showing_it(
    tmp_path: Path, text: str | None, bits: int, said: str
) -> None:
    path = tmp_path / "keys"
    if text is not None:
        key_file(path, text, bits)
    with pytest.raises(ConfigError, match="keys") as refused:
        Encrypted.from_file(path)
    assert said in str(refused.value)
    assert "AAAA" not in str(refused.value)


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ConfigError, match=r"pip install 'aiki\[encryption\]'"):
        Encrypted({"k1": KEY})


async def test_a_client_takes_its_codec_or_the_keys_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: Any = {"k1": KEY}
    with pytest.raises(ConfigError, match=r"codec is aiki\.Encrypted\(…\) or"):
        aiki.client(codec=wrong)
    monkeypatch.setenv("AIKI_ENCRYPTION_KEYS", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="No such file"):
        aiki.client()
    aiki.client(codec=Compressed())


@pytest.mark.plain_only("what compresses does not depend on how a run is executed")
async def test_compressed_payloads_are_read_by_everybody(app: App) -> None:
    client = await app.connect(Compressed(over=100))
    await app.serve(lasting)  # by a client that compresses nothing
    text = "again and again " * 5000
    handle = await lasting_v1.start(client, text)
    await paid.send(handle, text)
    assert await handle.wait_for_completion(TIMEOUT) == f"{text}! {text}"
    assert (
        await lasting_v1.handle(app.client, handle.id).wait_for_completion(0) == f"{text}! {text}"
    )
    sizes = {
        key.rpartition(":")[2]: sum(map(len, each)) for key, each in (await stored(client)).items()
    }
    assert sizes["journal"] > len(text)
    bomb = head_of(COMPRESSED) + zlib.compress(b"0" * (LARGEST + 1))
    key, link = f"{app.base_of(handle.id)}run:{handle.id}", app.link_of(handle.id)
    await link.send(("HSET", key, "result", bomb))
    with pytest.raises(DataError, match="more than 4 MiB"):
        await handle.wait_for_completion(0)
    await link.send(("HSET", key, "result", head_of(ENCRYPTED, b"k9") + b"x"))
    with pytest.raises(UnknownKey, match="'k9'"):
        await handle.wait_for_completion(0)
