"""The definitions that a worker serves."""

from __future__ import annotations

from typing import Any

from aiki.errors import ConfigError, DefinitionError
from aiki.workflow import Start, Workflow, WorkflowVersion, refuse_second


class Registry:
    """Versions of workflows, by name and version."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], WorkflowVersion[..., Any]] = {}
        self.served_by = ""
        """The worker that reads for these versions now, and would not for others."""

    def add(self, definition: Workflow | WorkflowVersion[..., Any]) -> None:
        """Serve a version, or all versions that a workflow has by now.

        Raises `DefinitionError`, and adds nothing, for anything else and for a second handler of
        one name and version; `ConfigError` while its worker runs.
        """
        if self.served_by:
            raise ConfigError(
                f"worker {self.served_by} runs and would not serve what is added now; stop it "
                "first, or make another one"
            )
        added = _versions_of(definition)
        for version in added:
            refuse_second(self.find(version.name, version.version), version)
        self._versions.update({(version.name, version.version): version for version in added})

    def find(self, name: str, version: str) -> WorkflowVersion[..., Any] | None:
        """Return what serves the runs of this name and version."""
        return self._versions.get((name, version))

    def versions(self) -> list[WorkflowVersion[..., Any]]:
        """Return everything served, in the order in which it was first added."""
        return list(self._versions.values())


def _versions_of(definition: object) -> list[WorkflowVersion[..., Any]]:
    match definition:
        case WorkflowVersion():
            return [definition]
        case Workflow() if definition.versions:
            return definition.versions
        case Workflow():
            raise DefinitionError(f"{definition!r}; define one with `v` before it is added")
        case Start():
            raise DefinitionError(
                f"{definition} has options about one run, such as an idempotency key; register "
                "the version without them"
            )
        case _:
            raise DefinitionError(
                f"a registry takes workflows and their versions, not {type(definition).__name__}"
            )
