"""Which lines of the core, the binding and the Python package the tests run.

    python tests/campaigns/lines.py [--again] [--write PAGE]

Core and binding are built with ``-C instrument-coverage``; Rust's tests and the models run the
core, pytest runs all three. The package is measured by coverage.py. Processes that tests start
count as well, and so does what runs before one dies or is killed, because the counters lie in a
file that is mapped. What no test has run is told file by file, with the reason that ``unrun.toml``
gives; a line without one fails the run, and so does a reason that fits nothing. With ``--write``
the page gets all that. With ``--again`` nothing runs: what the last run has counted is told anew,
for who writes reasons.

Reading the counters takes ``llvm-profdata`` and ``llvm-cov`` of the LLVM that rustc comes with.
Without them this says what to install, and measures the package alone. Left out are the tests of
this repository's own tools, and those that measure time, instructions and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import run_models  # noqa: E402 - found through the line above
from planted.steps import OTHERS  # noqa: E402

from campaigns import unrun  # noqa: E402

CRATES = ["-p", "pagefrag", "-p", "pagefrag-tests", "--features", "pagefrag/bytes"]
# What measures, as in the Makefile's `MEASURES`, and what opens sockets by the thousand.
MEASURES = {"net_idle", "net_lots", "promises_of_speed", "pinning"}
# Tests that bear no coverage.py in their processes: it lives neither through a failed allocation
# nor in a second interpreter, and it imports what the package does not. They run without it.
BARE = ["interpreters", "no_memory", "threads"]
# The bounds of `make loom-quick`: what counts is each step, and not each order of them.
BOUNDS = {"LOOM_MAX_PREEMPTIONS": "2", "LOOM_MAX_DURATION": "10"}
# Members of the workspace are counted, and nothing that they use. With the relocation the counters
# lie in a mapped file.
WRAPPER = """#!/bin/sh
exec "$@" -Cinstrument-coverage -Cllvm-args=-runtime-counter-relocation
"""
SETTINGS = """
[run]
branch = False
parallel = True
source = {package}
data_file = {data}
patch = subprocess
    _exit
    execv
[report]
exclude_also =
    if TYPE_CHECKING:
"""


class Missing(Exception):  # noqa: N818 - no error of ours
    """A tool is not here; the text says what to install."""


def llvm_tools() -> tuple[str, str]:
    """Return ``llvm-profdata`` and ``llvm-cov`` of rustc's own LLVM."""
    rustc = os.environ.get("RUSTC", "rustc")
    told = subprocess.run([rustc, "-vV"], stdout=subprocess.PIPE, text=True, check=True).stdout
    version = re.findall(r"LLVM version: (\d+)", told)[0]
    host = re.findall(r"host: (\S+)", told)[0]
    asked = [rustc, "--print", "sysroot"]
    sysroot = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    folders = f"{sysroot}/lib/rustlib/{host}/bin", f"/usr/lib/llvm-{version}/bin"
    names = "llvm-profdata", "llvm-cov"
    for folder in folders:
        tools = [Path(folder) / name for name in names]
        if all(tool.is_file() for tool in tools):
            return str(tools[0]), str(tools[1])
    profdata, cov = (shutil.which(f"{name}-{version}") for name in names)
    if profdata and cov:
        return profdata, cov
    raise Missing(
        f"left out: lines of Rust need llvm-profdata and llvm-cov of LLVM {version} "
        f"(apt install llvm-{version}, or rustup component add llvm-tools)"
    )


class Run:
    """Builds with counters, and what they counted."""

    def __init__(self, folder: Path, *, counts: bool, again: bool = False) -> None:
        """Build in *folder*, and count there, or count *again*; Rust too if it *counts*."""
        self.folder = folder
        self.notes = folder / "notes"
        self.package = folder / "python" / "pagefrag"
        self.counts = counts
        self.failed = 0
        if not again:
            shutil.rmtree(self.notes, ignore_errors=True)
            shutil.rmtree(self.folder / "python", ignore_errors=True)
            self.notes.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "CARGO_TARGET_DIR": str(folder),
            "PYO3_PYTHON": sys.executable,
            # One file for each program and library, into which all their processes count.
            "LLVM_PROFILE_FILE": str(self.notes / "tests-%c%m.profraw"),
        }
        if counts:
            wrapper = folder / "counted.sh"
            wrapper.write_text(WRAPPER, encoding="utf-8")
            wrapper.chmod(0o755)
            self.environment["RUSTC_WORKSPACE_WRAPPER"] = str(wrapper)

    def _said(self, words: list[str], **more: str) -> str:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            print(done.stdout[-6000:])
            raise SystemExit(f"failed: {' '.join(words[:6])} ...")
        return done.stdout

    def _tests(self, what: str, words: list[str], **more: str) -> None:
        """Run pytest. One that fails fails the run, in the end: what it ran was run."""
        environment = {**self.environment, **more}
        with subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            lines = list(process.stdout or ())
        if process.returncode != 0:
            print("".join(lines)[-6000:])
            self.failed += 1
        print(f"{what}: {lines[-1].strip()}", flush=True)

    def _cargo(self, *words: str, **more: str) -> str:
        return self._said([os.environ.get("CARGO", "cargo"), *words], **more)

    def _built(self, words: list[str], **more: str) -> list[str]:
        """Build the tests that *words* name; return their programs."""
        told = self._cargo(*words, "--no-run", "--message-format=json", **more)
        messages = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
        return [word["executable"] for word in messages if word.get("executable")]

    def rust(self) -> list[str]:
        """Run Rust's tests; return the programs that ran them."""
        files = {path.stem for path in (ROOT / "tests/rust").glob("*.rs")} - MEASURES
        tests = [word for name in sorted(files) for word in ("--test", name)]
        words = ["test", "--locked", *CRATES, "--lib", *tests]
        programs = self._built(words)
        print(f"Rust: {_passed(self._cargo(*words))} tests passed", flush=True)
        return programs

    def models(self) -> list[str]:
        """Run the models; return the program that ran them."""
        build = {
            "RUSTFLAGS": "--cfg loom -C debug-assertions",
            "CARGO_TARGET_DIR": str(self.folder / "loom"),
            "CARGO_PROFILE_RELEASE_LTO": "false",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
        }
        programs = self._built(run_models.COMMAND[:-1], **build)
        notes = {"LLVM_PROFILE_FILE": str(self.notes / "models-%c%m.profraw")}
        told = self._said([*programs, run_models.COMMAND[-1]], **BOUNDS, **notes)
        print(f"Models: {_passed(told)} passed", flush=True)
        return programs

    def python(self) -> str:
        """Run Python's tests over a copy of the package; return the module in it."""
        self._cargo("build", "--locked", "-p", "pagefrag-python")
        copied = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / unrun.PARTS["package"], self.package, ignore=copied)
        module = self.package / f"_pagefrag{sysconfig.get_config_var('EXT_SUFFIX')}"
        shutil.copy(self.folder / "debug" / "lib_pagefrag.so", module)
        settings = self.folder / "coverage.ini"
        words = SETTINGS.format(package=self.package, data=self.notes / "python")
        settings.write_text(words, encoding="utf-8")
        coverage = [sys.executable, "-m", "coverage"]
        file = f"--rcfile={settings}"
        place = {"PYTHONPATH": str(self.package.parent)}
        pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        ignored = [f"--ignore=tests/python/test_{name}.py" for name in [*OTHERS, *BARE]]
        self._tests("Python", [*coverage, "run", file, *pytest, *ignored], **place)
        files = [f"tests/python/test_{name}.py" for name in BARE]
        self._tests("Python without coverage.py", [sys.executable, *pytest, *files], **place)
        self._said([*coverage, "combine", "-q", file])
        self._said([*coverage, "json", "-q", file, "-o", str(self.notes / "python.json")])
        return str(module)

    def counted_in_rust(
        self, tools: tuple[str, str], which: str, programs: list[str]
    ) -> list[unrun.File]:
        """Return the files of core and binding, as the *programs* have counted in *which* notes."""
        profile = str(self.notes / f"{which}.profdata")
        noted = sorted(str(path) for path in self.notes.glob(f"{which}-*.profraw"))
        self._said([tools[0], "merge", "-sparse", "--failure-mode=all", *noted, "-o", profile])
        objects = [word for program in programs[1:] for word in ("-object", program)]
        places = [str(ROOT / unrun.PARTS[part]) for part in ("core", "binding")]
        export = [tools[1], "export", "-format=lcov", f"-instr-profile={profile}"]
        return list(unrun.of_lcov(self._said([*export, programs[0], *objects, *places])))

    def counted_in_python(self) -> Iterator[unrun.File]:
        """Yield the files of the package, as coverage.py has counted."""
        found = json.loads((self.notes / "python.json").read_text(encoding="utf-8"))
        for name, file in found["files"].items():
            place = (ROOT / name).resolve()
            inner = f"{unrun.PARTS['package']}/{place.relative_to(self.package.resolve())}"
            source = place.read_text(encoding="utf-8")
            lines = file["executed_lines"], file["missing_lines"]
            yield unrun.of_coverage(inner, source, *lines)


def _passed(told: str) -> int:
    return sum(map(int, re.findall(r"test result: ok. (\d+) passed", told)))


def measured(folder: Path, *, again: bool) -> tuple[list[unrun.File], int]:
    """Run the tests, unless *again*; return what they ran, file by file, and if any failed."""
    try:
        tools = llvm_tools()
    except Missing as why:
        print(why)
        run = Run(folder, counts=False, again=again)
        if not again:
            run.python()
        return list(run.counted_in_python()), run.failed
    run = Run(folder, counts=True, again=again)
    kept = run.notes / "programs.json"
    if not again:
        programs = {"tests": [*run.rust(), run.python()], "models": run.models()}
        kept.write_text(json.dumps(programs), encoding="utf-8")
    programs = json.loads(kept.read_text(encoding="utf-8"))
    tests, models = (run.counted_in_rust(tools, *item) for item in programs.items())
    return [*unrun.run_too(tests, models), *run.counted_in_python()], run.failed


def main(words: list[str]) -> int:
    """Measure, tell, and write the page that the *words* name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    asked = parser.parse_args(words)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    files, failed = measured(target.absolute() / "coverage", again=asked.again)
    names = {file.name for file in files}
    is_whole = {file.part for file in files} == unrun.PARTS.keys()
    table = [reason for reason in unrun.reasons() if is_whole or reason.file in names]
    why, stale = unrun.explained(files, table)
    text = unrun.laid_out(files, why)
    print(text)
    if asked.write and is_whole:
        unrun.write(ROOT / asked.write, text)
    left = unrun.unexplained(files, why)
    print("\n".join([*left, *stale]))
    missed = sum(len(file.missed) for file in files)
    told = f"{unrun.said(files)}; {missed} lines not run, {len(left)} of them without a reason"
    told += f", {len(stale)} stale reasons" if stale else ""
    print(told + (", and tests failed" if failed else ""))
    return 1 if left or stale or failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
