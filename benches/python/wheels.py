"""Wheels of this tree, each in an environment that has nothing else.

For what is asked of a wheel and not of the module: ``tests/campaigns/wheel.py`` and
``bench_wheel.py``. A *kind* is ``version-specific``, which is what we ship, or ``abi3``, one wheel
for every CPython from 3.11 on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import record

KINDS = {"version-specific": (), "abi3": ("--features", "abi3")}


@dataclass(frozen=True)
class Installed:
    """A wheel, and the interpreter of the environment that it is installed in."""

    kind: str
    wheel: Path
    python: Path


def build(kind: str, folder: Path) -> Path:
    """Build the wheel of a *kind* into *folder*, as `make wheel` does."""
    out = folder / f"{kind}-wheel"
    maturin = Path(sys.executable).with_name("maturin")
    command = [maturin, "build", "--quiet", "--release", "--locked", "--out", out, *KINDS[kind]]
    subprocess.run(
        command, cwd=record.ROOT, env=os.environ | {"PYO3_PYTHON": sys.executable}, check=True
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def install(wheel: Path, *where: str | Path) -> None:
    """Install a *wheel* and nothing else, from nowhere else; *where* are words for pip."""
    options = ["--quiet", "--disable-pip-version-check", *where[:2], "install"]
    command = [sys.executable, "-m", "pip", *options, "--no-index", "--no-deps", *where[2:], wheel]
    subprocess.run(command, check=True)


def installed(kind: str, folder: Path) -> Installed:
    """Build a wheel and install it into an environment of its own."""
    wheel, environment = build(kind, folder), folder / f"{kind}-environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    install(wheel, "--python", python)
    return Installed(kind, wheel, python)
