"""The grammar of names, versions, idempotency keys and tags.

They become parts of keys in the store and of lines that people read. So a name has one spelling
(NFC), holds nothing that separates the parts of a key, and nothing that cannot be seen.
"""

from __future__ import annotations

import re
import unicodedata

from aiki.errors import DataError, DefinitionError

MAX_NAME_BYTES = 200
MAX_KEY_BYTES = 256
MAX_TAG_BYTES = 128
MAX_REASON_BYTES = 4096  # it is in the record, and sent to all who wait

# ":" and "/" separate the parts of a key, "{" and "}" enclose its hash tag.
_RESERVED = frozenset(":/{}")
# Control characters, line and paragraph separators, and halves of surrogate pairs.
_UNPRINTABLE = frozenset({"Cc", "Zl", "Zp", "Cs"})
# No leading zeros, or "1.0.0" and "01.0.0" would be two versions that read as one.
_VERSION = re.compile(r"(?:(?:0|[1-9][0-9]{0,8})\.){2}(?:0|[1-9][0-9]{0,8})")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def kebab_case(identifier: str) -> str:
    """Return the name that a function called `identifier` gives to its definition."""
    words = _WORD_START.sub("_", identifier).split("_")
    return "-".join(word.lower() for word in words if word)


def checked_name(value: object, what: str) -> str:
    """Return `value` as a name, normalised to NFC; `what` it names begins the message.

    Raises `DefinitionError` for anything that is not a name.
    """
    if not isinstance(value, str):
        raise DefinitionError(f"{what}: a name is a str, not {_shown(value)}")
    name = unicodedata.normalize("NFC", str.__str__(value))
    problem = _problem(name, MAX_NAME_BYTES)
    if problem is None:
        reserved = sorted(_RESERVED.intersection(name))
        if reserved:
            problem = f"holds {reserved[0]!r}; none of : / {{ }} may stand in a name"
    if problem is not None:
        raise DefinitionError(f"{what}: the name {name!r:.300} {problem}")
    return name


def checked_version(value: object, what: str) -> str:
    """Return `value` as a version; `what` it versions begins the message.

    Raises `DefinitionError` for anything but three numbers, as in "1.0.0".
    """
    if not isinstance(value, str) or _VERSION.fullmatch(value) is None:
        raise DefinitionError(
            f"{what}: a version is MAJOR.MINOR.PATCH, a str of three numbers of at most nine "
            f'digits without leading zeros, such as "1.0.0"; not {_shown(value)}'
        )
    return str.__str__(value)


def checked_key(value: object) -> str:
    """Return `value` as an idempotency key, unchanged: equal keys are equal byte by byte.

    Raises `DataError` for anything else, for a key comes with the data of one run.
    """
    if not isinstance(value, str):
        raise DataError(f"an idempotency key is a str, not {_shown(value)}")
    key = str.__str__(value)
    problem = _problem(key, MAX_KEY_BYTES)
    if problem is not None:
        raise DataError(f"the idempotency key {key!r:.300} {problem}")
    return key


def checked_tag(value: object) -> str:
    """Return `value` as a tag, unchanged: equal tags are equal byte by byte.

    Raises `DataError` for anything else, for a tag comes with the data of one run.
    """
    if not isinstance(value, str):
        raise DataError(f"a tag is a str, not {_shown(value)}")
    tag = str.__str__(value)
    problem = _problem(tag, MAX_TAG_BYTES)
    if problem is not None:
        raise DataError(f"the tag {tag!r:.300} {problem}")
    return tag


def checked_reason(value: object) -> str:
    """Return `value` as the reason of a cancel, unchanged; it may be empty.

    Raises `DataError` for what is no text or too long a one.
    """
    if not isinstance(value, str):
        raise DataError(f"a reason is a str, not {_shown(value)}")
    reason = str.__str__(value)
    size = len(reason.encode(errors="surrogatepass"))
    if size > MAX_REASON_BYTES:
        raise DataError(f"a reason has at most {MAX_REASON_BYTES:,} bytes in UTF-8, not {size:,}")
    if any(unicodedata.category(character) == "Cs" for character in reason):
        raise DataError(f"the reason {reason!r:.100} is not Unicode: it holds a lone surrogate")
    return reason


def checked_run_id(value: object) -> str:
    """Return `value` as the id of a run; whether there is such a run is another question.

    Raises `DataError` for what is no text that could be sent.
    """
    if not isinstance(value, str):
        raise DataError(f"the id of a run is a str, not {_shown(value)}")
    run_id = str.__str__(value)
    problem = _problem(run_id, MAX_NAME_BYTES)
    if problem is not None:
        raise DataError(f"the id of a run {run_id!r:.300} {problem}")
    return run_id


def _shown(value: object) -> str:
    return f"{type(value).__qualname__} {value!r:.100}"


def _problem(text: str, max_bytes: int) -> str | None:
    if not text:
        return "is empty"
    for character in text:
        if unicodedata.category(character) in _UNPRINTABLE:
            return f"holds the unprintable character {character!r}"
    if text != text.strip():
        return "begins or ends with white space"
    size = len(text.encode())
    if size > max_bytes:
        return f"is {size} bytes long in UTF-8; at most {max_bytes} are allowed"
    return None
