"""How runs are shown, without a store."""

import json
from datetime import timedelta

import pytest

from aiki.cli_output import _laid_out, duration, plain


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 ms"),
        (0.0123, "12 ms"),
        (1, "1.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86400 * 3 + 7300, "3 d 2 h"),
    ],
)
def test_a_length_of_time_is_as_exact_as_people_want_it(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


def test_what_others_have_written_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[2Jb\r\x07\u202e") == "a\\x1b[2Jb\\r\\x07\\u202e"
    assert plain("Grüße,\n\twie gesagt") == "Grüße,\n\twie gesagt"


def test_json_takes_as_few_lines_as_fit() -> None:
    order = {"order": {"email": "ada@example.com", "items": [{"id": "cup", "quantity": 2}]}}
    assert _laid_out(order, 80) == json.dumps(order)
    assert _laid_out(order, 50) == (
        '{\n  "order": {\n    "email": "ada@example.com",\n'
        '    "items": [{"id": "cup", "quantity": 2}]\n  }\n}'
    )
    assert _laid_out([[1, 2], "a\nb" * 9], 12) == '[\n  [1, 2],\n  "' + "a\\nb" * 9 + '"\n]'
