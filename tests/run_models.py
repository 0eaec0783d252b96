"""Run the loom models, and fail when fewer ran than the source lists.

A model checker that is configured away compiles to nothing and is green; so the names
in ``rust/core/src/models.rs`` are compared with the names that cargo reports.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "rust" / "core" / "src"
COMMAND = ["test", "--locked", "-p", "pagefrag", "--release", "--lib", "models"]

_MODEL = re.compile(r"#\[test\]\s*(?:#\[[^\]]*\]\s*)*fn\s+(\w+)")
_PASSED = re.compile(r"^test (?:\w+::)*(\w+) (?:- should panic )?\.\.\. ok$", re.MULTILINE)


def listed(sources: Path = SOURCES) -> set[str]:
    """Return the names of the models in the source."""
    files = [sources / "models.rs", *sorted((sources / "models").glob("**/*.rs"))]
    return {name for file in files if file.exists() for name in _MODEL.findall(file.read_text())}


def passed(output: str) -> set[str]:
    """Return the names of the tests that cargo's *output* reports as passed."""
    return set(_PASSED.findall(output))


def run() -> tuple[int, str]:
    """Run cargo under ``--cfg loom``, repeat what it says, and return its status and words."""
    flags = f"{os.environ.get('RUSTFLAGS', '')} --cfg loom -C debug-assertions".strip()
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    environment = {
        **os.environ,
        "RUSTFLAGS": flags,
        "CARGO_TARGET_DIR": f"{target}/loom",
        "CARGO_PROFILE_RELEASE_LTO": "false",
        "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    }
    cargo = os.environ.get("CARGO", "cargo")
    with subprocess.Popen(
        [cargo, *COMMAND], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def main() -> int:
    """Return 0 when every listed model ran and passed."""
    models = listed()
    started = time.monotonic()
    status, output = run()
    missing = models - passed(output)
    if status == 0 and (missing or not models):
        print(f"models that did not run: {', '.join(sorted(missing)) or 'all'}", file=sys.stderr)
        return 1
    bound = os.environ.get("LOOM_MAX_PREEMPTIONS", "any number of")
    seconds = time.monotonic() - started
    print(
        f"{len(models & passed(output))} of {len(models)} models passed, {bound} preemptions, "
        f"{seconds:.0f} s"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
