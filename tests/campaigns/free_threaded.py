"""Run the Python tests on an interpreter without a global lock.

    python tests/campaigns/free_threaded.py [PYTEST ARGUMENTS...]

Takes ``FREE_THREADED_PYTHON``, else ``python3.14t`` or ``python3.15t`` from the path, else the one
that an earlier run has built; else it builds one of the source package that Debian has of it,
which takes apt, a ``deb-src`` line, a C compiler and ten minutes. That interpreter and its packages
live in ``.free-threaded``. Of the packages in ``requirements-dev.txt`` those without a wheel for it
are left out, and the tests that need them are skipped. The last line says what it came to.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".free-threaded"
REQUIREMENTS = ROOT / "requirements-dev.txt"
CHOSEN = "FREE_THREADED_PYTHON"
SERIES = ("3.14", "3.15")  # what PyO3 knows; 3.13t was an experiment and it refuses it
DESCRIBE = """
import sys, sysconfig
print("%d.%d" % sys.version_info[:2], bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
"""
ALONE = """
import sys, pagefrag
assert not sys._is_gil_enabled(), "importing pagefrag has switched the global lock on"
"""


class Unavailable(Exception):  # noqa: N818 - it is no error of ours
    """There is no such interpreter here; the text says what is missing."""


def fits(python: str) -> bool:
    """Return whether *python* has no global lock and is of a series that can be built for."""
    try:
        asked = subprocess.run([python, "-c", DESCRIBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    series, _, is_free = asked.stdout.strip().partition(" ")
    return series in SERIES and is_free == "True"


def found(environment: Mapping[str, str]) -> str | None:
    """Return an interpreter that is there already."""
    chosen = environment.get(CHOSEN)
    if chosen:
        if fits(chosen):
            return chosen
        series = " or ".join(f"{series}t" for series in SERIES)
        raise Unavailable(f"{CHOSEN}={chosen} is not a CPython {series}")
    for series in SERIES:
        name = f"python{series}t"
        for python in (shutil.which(name, path=environment.get("PATH")), built(series)):
            if python and fits(python):
                return python
    return None


def built(series: str) -> str:
    """Return where an interpreter of *series* is installed when we have built it."""
    return str(HOME / f"python{series}t" / "bin" / f"python{series}t")


def packaged() -> str:
    """Return the first series whose source package apt knows."""
    if shutil.which("apt-get") is None:
        raise Unavailable(f"no python{SERIES[0]}t here, and no apt to fetch its source with")
    for series in SERIES:
        command = ["apt-cache", "showsrc", "--only-source", f"python{series}"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if "Package:" in told.stdout:
            return series
    raise Unavailable(
        f"no python{SERIES[0]}t here, and apt knows no source package python{SERIES[0]}: it needs "
        "a deb-src line of a release that has one, and an apt-get update; or name an interpreter "
        f"with {CHOSEN}=..."
    )


def step(command: list[str], folder: Path, told: str) -> None:
    """Run a *command* of the build in *folder*; its output goes to a file."""
    print(f"{told} ...", flush=True)
    log = HOME / f"{Path(command[0]).name}.log"
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        why = next((line for line in lines if re.match(r"E:|.*error", line)), lines[-1])
        raise Unavailable(f"{told} failed: {why.strip()} (all of it is in {log})")


def build(series: str) -> str:
    """Build the interpreter of *series* from its source package; return where it is."""
    source, prefix = HOME / "source", HOME / f"python{series}t"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    fetch = ["apt-get", "source", "--download-only", "--tar-only", "--only-source"]
    step([*fetch, f"python{series}"], source, f"fetching the source of python{series}")
    (archive,) = source.glob("*.orig.tar.*")
    step(["tar", "-xf", archive.name], source, "unpacking it")
    (tree,) = (entry for entry in source.iterdir() if entry.is_dir())
    step(["./configure", "-q", "--disable-gil", f"--prefix={prefix}"], tree, "configuring it")
    step(["make", "-s", f"-j{os.cpu_count() or 1}"], tree, "building it, some minutes")
    step(["make", "-s", "install"], tree, "installing it")
    shutil.rmtree(source)
    return built(series)


def pinned() -> Iterator[str]:
    """Yield the requirements, one package each."""
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if re.match(r"\w", line):
            yield line


def furnish(python: str) -> Path:
    """Make the folder of *python*'s packages, unless it is there; return its interpreter."""
    told = python + REQUIREMENTS.read_text(encoding="utf-8")
    folder = HOME / f"venv-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    inside = folder / "bin" / "python"
    mark = folder / "complete"
    if mark.exists():
        return inside
    print("installing what the tests need ...", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pip = [inside, "-m", "pip", "--disable-pip-version-check"]
    left_out = []
    for package in pinned():
        install = [*pip, "install", "--no-deps", "--only-binary", ":all:", package]
        if subprocess.run(install, capture_output=True, check=False).returncode != 0:
            left_out.append(package)
    # What lacks a part of itself is as good as missing.
    check = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False)
    needs = re.findall(r"^(\S+) \S+ requires (\S+), which is not", check.stdout, re.MULTILINE)
    gone = {package.partition("==")[0] for package in left_out}
    lame = [package for package, part in needs if part in gone]
    if lame:
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *lame], check=True)
    print("no wheel for it:", ", ".join([*left_out, *lame]) or "none", flush=True)
    mark.touch()
    return inside


def test(python: Path, arguments: list[str]) -> int:
    """Build the module for *python*, run pytest with the *arguments*, and say what came of it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(target / "free-threaded"),
        "VIRTUAL_ENV": str(python.parents[1]),
        "PYO3_PYTHON": str(python),
    }
    maturin = [python.with_name("maturin"), "develop", "--release", "--locked", "--quiet"]
    subprocess.run(maturin, cwd=ROOT, env=environment, check=True)
    subprocess.run([python, "-W", "error", "-c", ALONE], cwd=ROOT, check=True)
    # A package that does not know of such interpreters would switch the lock on.
    environment["PYTHON_GIL"] = "0"
    command = [python, "-m", "pytest", *arguments]
    last = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as pytest:
        for line in pytest.stdout or ():
            print(line, end="", flush=True)
            last = line.strip("= \n") or last
    asked = subprocess.run([python, "-VV"], capture_output=True, text=True, check=True)
    print(f"{asked.stdout.partition(' (')[0]}, global lock off: {last}")
    return pytest.returncode


def main(arguments: list[str]) -> int:
    """Find or build an interpreter and test on it."""
    try:
        python = found(os.environ) or build(packaged())
        HOME.mkdir(exist_ok=True)
        return test(furnish(python), arguments)
    except Unavailable as missing:
        print(missing)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
