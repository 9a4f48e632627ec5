"""Types as a user has them: the guides' Python blocks and `typing_api.py`, checked by mypy and pyright, both strict.

    python -m tests.check_readme

Without this project's own settings and mypy plugins: a user has none of them. A problem is told at its guide's line. An
ignore that nothing needs is a problem, too; `# type: ignore[…]` is mypy's, and `# pyright: ignore[…]` pyright's. Blocks
that run on Ray or Spark are left out, and are run by `test_readme` where those are installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDES = (ROOT / "README.md", *sorted((ROOT / "aisolution_async").rglob("README.md")))
TYPING = ROOT / "tests" / "typing_api.py"


def name_of(guide: Path) -> str:
    """The guide as it is called here: its path from the project's folder."""
    return guide.relative_to(ROOT).as_posix()


def engine_of(code: str) -> str | None:
    """The engine that a block runs on, if it does: a package that is not among those of the tests."""
    found = re.search(r"^(?:import|from) (ray|pyspark)\b", code, re.MULTILINE)
    return None if found is None else found[1]


def blocks(text: str) -> dict[int, str]:
    """A guide's Python blocks by the line of their fence, each at its own lines: what is before it is empty."""
    found = {}
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        fence = text.count("\n", 0, match.start()) + 1
        found[fence] = "\n" * fence + match[1]
    return found


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="checked-") as name:
        folder = Path(name)
        shutil.copy(TYPING, folder)
        checked = {str(TYPING.relative_to(ROOT)): TYPING.name}
        for number, guide in enumerate(GUIDES):
            for fence, code in blocks(guide.read_text(encoding="utf-8")).items():
                if engine_of(code) is None:
                    (folder / f"guide{number}_{fence}.py").write_text(code, encoding="utf-8")
            checked[name_of(guide)] = rf"guide{number}_\d+\.py"
        settings = {
            "typeCheckingMode": "strict",
            "pythonVersion": "3.11",
            "enableTypeIgnoreComments": False,
            "reportUnnecessaryTypeIgnoreComment": True,
        }
        (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
        cache = ROOT / ".mypy_cache" / "readme"
        failed = 0
        for command in (
            ["mypy", "--config-file=", "--strict", "--python-version=3.11", "--cache-dir", str(cache), name],
            ["pyright", "--project", name, "--pythonpath", sys.executable],
        ):
            print("==", command[0], flush=True)
            done = subprocess.run(
                [sys.executable, "-m", *command],
                check=False,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            said = done.stdout
            for shown, file in checked.items():
                said = re.sub(rf"\S*{folder.name}/{file}", shown, said)
            print(said, end="", flush=True)
            failed = failed or done.returncode
        return failed


if __name__ == "__main__":
    sys.exit(main())
