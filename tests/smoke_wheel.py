"""Try a built wheel as its first user would: `python tests/smoke_wheel.py dist/aiki-….whl`.

Installs it into a fresh environment in another directory, where no checkout can help it out.
Each check is a function of that environment; to add one, write it and name it in CHECKS.
"""

import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT = 120.0  # seconds for one command; the installation waits for the network


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and an empty directory to work in."""

    version: str
    scripts: Path
    directory: Path

    def run(self, script: str, *arguments: str) -> str:
        """Run a command of the environment in the directory; return its output, and show it."""
        done = subprocess.run(
            [self.scripts / script, *arguments],
            cwd=self.directory,
            timeout=LIMIT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        print("$", script, *arguments, end=f"\n{done.stdout}")
        if done.returncode != 0:
            raise SystemExit(f"exit code {done.returncode}")
        return done.stdout

    def python(self, program: str) -> str:
        """Run a program as a file of the directory, as a user's own would be."""
        (self.directory / "program.py").write_text(program)
        return self.run("python", "program.py")


def install(wheel: Path, folder: Path) -> Installed:
    venv.create(folder / "venv", with_pip=True)
    directory = folder / "elsewhere"
    directory.mkdir()
    installed = Installed(wheel.name.split("-")[1], folder / "venv" / "bin", directory)
    quietly = ("--quiet", "--disable-pip-version-check")
    installed.run("python", "-m", "pip", "install", *quietly, str(wheel.resolve()))
    return installed


def the_package_is_whole(installed: Installed) -> None:
    output = installed.python(
        "import importlib.metadata, importlib.resources, aiki.store, aiki.supervisor\n"
        "package = importlib.resources.files('aiki')\n"
        "assert package.joinpath('py.typed').is_file()\n"
        "assert any(f.name.endswith('.lua') for f in package.joinpath('store/lua').iterdir())\n"
        "print(importlib.metadata.version('aiki'), aiki.supervisor.__file__)\n"
    )
    version, place = output.split(maxsplit=1)
    assert version == installed.version
    assert Path(place.strip()).is_relative_to(installed.scripts.parent.resolve())


def the_command_line_reaches_the_embedded_server(installed: Installed) -> None:
    installed.run("aiki", "start", "smoke/1.0.0")
    assert "smoke 1.0.0" in installed.run("aiki", "runs", "--status", "queued")


CHECKS: tuple[Callable[[Installed], None], ...] = (
    the_package_is_whole,
    the_command_line_reaches_the_embedded_server,
)


def main(wheel: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="aiki-wheel-")).resolve()
    try:
        installed = install(wheel, folder)
        for check in CHECKS:
            print("--", check.__name__.replace("_", " "))
            check(installed)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
