"""What the command says before anything is served: help, usage, and why it could not boot."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aiki.supervisor.cli import command
from aiki.supervisor.exits import Exit
from aiki.supervisor.settings import OPTIONS
from aiki.supervisor.signals import MEANINGS
from tests.support.supervised import Supervised

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command in this process, in an empty directory; it must not come to serve."""
    monkeypatch.chdir(tmp_path)
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)

    def invoked(*arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(command, arguments, env=env)

    return invoked


def test_help_tells_every_option_signal_and_exit_code(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for option in OPTIONS:
        assert f"--{option.key} {option.metavar}" in result.output
        assert option.default in result.output
    for number in MEANINGS:
        assert f"\n  {number.name.removeprefix('SIG')} " in result.output
    for code in Exit:
        assert f"\n  {code.value}  " in result.output
    assert max(map(len, result.output.splitlines())) <= 100


def test_without_a_module_it_says_how_it_is_used(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == Exit.USAGE
    assert "Missing argument 'MODULE[:NAME]...'" in result.output


def test_an_option_that_does_not_exist_is_refused(invoke: Invoke) -> None:
    result = invoke("shop", "--worker", "3")
    assert result.exit_code == Exit.USAGE
    assert "No such option" in result.output


@pytest.mark.parametrize(
    ("arguments", "variables", "file", "said"),
    [
        (("--workers", "0"), {}, "", "--workers: expected a whole number"),
        (("--redis", "http://there"), {}, "", "--redis: a Redis URL starts with"),
        ((), {"AIKI_GRACE": "soon"}, "", "AIKI_GRACE: expected seconds"),
        ((), {}, "[tool.aiki]\nlease = 'x'", "pyproject.toml: [tool.aiki] lease: expected"),
    ],
)
def test_a_bad_setting_is_refused_with_where_it_stands(
    invoke: Invoke,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    file: str,
    said: str,
) -> None:
    Path("pyproject.toml").write_text(file)
    result = invoke("shop", *arguments, env=variables)
    assert result.exit_code == Exit.USAGE
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output


async def boot(
    directory: Path, source: str, *arguments: str, environ: dict[str, str] | None = None
) -> tuple[int, str]:
    """Try to serve a module; return exit code and output."""
    supervised = Supervised(directory, *arguments, environ=environ)
    supervised.write("shop", textwrap.dedent(source))
    with supervised:
        code = await supervised.ends()
        await supervised.leaves_nothing()
        return code, supervised.output()


async def test_a_module_that_raises_ends_it_with_one_traceback(tmp_path: Path) -> None:
    code, output = await boot(tmp_path, "raise RuntimeError('out of stock')", "shop")
    assert code == Exit.BOOT
    assert output.count("Traceback") == 1
    assert output.count("RuntimeError: out of stock") >= 1
    assert "shop.py" in output


async def test_a_module_that_does_not_exist_ends_it(tmp_path: Path) -> None:
    code, output = await boot(tmp_path, "", "shopp")
    assert code == Exit.BOOT
    assert "ModuleNotFoundError: No module named 'shopp'" in output


@pytest.mark.parametrize(
    ("source", "given", "said"),
    [
        ("", "shop", "module shop holds no workflow with a version"),
        ("", "shop:orders", "module shop has no orders"),
        ("orders = 3", "shop:orders", "shop:orders: expected a workflow, a version"),
        ("orders = []", "shop:orders", "shop:orders holds no workflow with a version"),
        ("", "./shop.py", "./shop.py is a path; write the module's name, such as shop"),
        ("from aiki.workflow import workflow\nworkflow('a:b')", "shop", "DefinitionError: "),
        ("import sys; sys.exit(0)", "shop", "SystemExit: 0"),
        ("import os; os._exit(0)", "shop", "ended with exit code 0"),
        ("import os; os.kill(os.getpid(), 11)", "shop", "was killed by SIGSEGV"),
    ],
)
async def test_a_module_without_something_to_serve_ends_it_with_the_reason(
    tmp_path: Path, source: str, given: str, said: str
) -> None:
    code, output = await boot(tmp_path, source, given)
    assert code == Exit.BOOT
    assert said in output


async def test_a_store_that_cannot_be_reached_ends_it(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nobody.sock"
    environ = {"AIKI_REDIS": "redis://elsewhere"}
    code, output = await boot(tmp_path, "", "shop", "--redis", url, environ=environ)
    assert code == Exit.STORE
    assert "nothing reads AIKI_REDIS of the environment; did you mean AIKI_REDIS_URL?" in output
    assert "nobody.sock" in output
    assert "Traceback" not in output


async def test_a_password_in_the_url_is_shown_to_nobody(tmp_path: Path) -> None:
    url = "redis://:secret@127.0.0.1:1"
    _, output = await boot(tmp_path, "", "shop", "--redis", url, "--log-level", "debug")
    assert "127.0.0.1:1" in output
    assert "secret" not in output
