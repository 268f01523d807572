"""What README and docs say: their Python runs, their links lead somewhere, their tables are whole.

The blocks of a page are executed one after the other, as one module in which `client` is a client
and `await` may stand anywhere. So a page reads as a session, and every `assert` in it holds.
"""

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import aiki
from aiki.states import Status
from aiki.store.scripts import SCRIPTS
from aiki.supervisor.exits import Exit
from aiki.supervisor.settings import OPTIONS
from aiki.supervisor.signals import MEANINGS
from tests.support.supervised import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
README, OPERATIONS, ARCHITECTURE = (
    ROOT / name for name in ("README.md", "docs/operations.md", "docs/architecture.md")
)
TUTORIALS = (ROOT / "README.md", ROOT / "docs/tutorial.md")


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the Python blocks of a page, each with the line on which it begins."""
    text = page.read_text()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, block.start(1)), block[1]


def anchors(page: Path) -> set[str]:
    """Return what one may link to within a page, as GitHub names it."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty directory, and leave no module behind."""
    monkeypatch.delenv("AIKI_REDIS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "page", ModuleType("page"))
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if any(blocks(p))], ids=lambda p: p.name)
@pytest.mark.usefixtures("place")
async def test_the_python_of_a_page_runs(page: Path) -> None:
    namespace = vars(sys.modules["page"])
    async with aiki.client() as client:
        for line, source in blocks(page):
            code = compile(
                "\n" * line + source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            namespace["client"] = client
            result = eval(code, namespace)
            if inspect.isawaitable(result):
                async with asyncio.timeout(60):
                    await result


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.name)
def test_the_tutorial_of_a_page_is_a_program(page: Path, place: Path) -> None:
    program = place / "order_processing.py"
    program.write_text("\n\n".join(source for _, source in blocks(page)))
    done = subprocess.run(
        [sys.executable, program], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Workflow started: 0-" in done.stdout
    assert "Order processed: Receipt(success=True, order_id='order-" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_option_and_exit_code_of_the_supervisor_is_told() -> None:
    told = OPERATIONS.read_text()
    for option in OPTIONS:
        assert re.search(
            rf"^\| `--{option.key}[ `].*{re.escape(option.default)}", told, re.MULTILINE
        )
    for code in Exit:
        assert re.search(rf"^\| {code.value} \|", told, re.MULTILINE)


@pytest.mark.parametrize("page", [README, OPERATIONS], ids=lambda p: p.name)
def test_every_signal_is_told(page: Path) -> None:
    told = page.read_text()
    for number in MEANINGS:
        assert re.search(rf"^\| .*`{number.name.removeprefix('SIG')}`", told, re.MULTILINE), (
            number.name
        )


def test_every_script_and_status_is_told() -> None:
    told = ARCHITECTURE.read_text()
    assert [name for name in SCRIPTS if f"`{name}`" not in told] == []
    assert [status for status in Status if f"`{status}`" not in told] == []


def test_every_public_error_is_told() -> None:
    told = (ROOT / "docs/error-handling.md").read_text()
    errors = [
        name
        for name in aiki.__all__
        if isinstance(getattr(aiki, name), type) and issubclass(getattr(aiki, name), aiki.AikiError)
    ]
    assert [name for name in errors if f"`{name}`" not in told and name != "AikiError"] == []
