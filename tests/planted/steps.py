"""The steps that may find a bug, cheapest first, each of them part of ``make test``.

| step | what it is |
|---|---|
| `unit` | the core's tests beside its code |
| `loom` | the models, two preemptions, none cut short |
| `rust` | the files of ``tests/rust``, built with checks |
| `traces` | the corpus of programs: the core against its model, or all four executors |
| `python` | the files of ``tests/python`` |

A step is a list of checks, such as one model or one file of tests. What a check says is read:
which test failed first. A program that died, or did not end in many times the time that the sound
tree took, has found the bug as well; but a model that goes on for ever has found nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from planted import weaken

STEPS = {
    "core": ("unit", "loom", "rust", "traces", "python"),
    # On processors that keep the order of stores the running tests could show nothing.
    "ordering": ("loom",),
    "binding": ("python", "traces", "rust", "loom"),
    "package": ("python",),
}

# About this repository and its tools, and not about what the bugs are in.
OTHERS = [
    "bench_docs",
    "bench_rings",
    "docs",
    "extras",
    "free_threaded",
    "house",
    "ledger",
    "lines",
    "memray",
    "planted",
    "records",
    "sanitize",
    "versions",
]

FASTER, PATIENCE = 10, 120.0  # a check may take so many times as long, and so many seconds more
QUICK_LINK = {"CARGO_PROFILE_RELEASE_LTO": "false", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
CRATES = ("-p", "pagefrag", "-p", "pagefrag-tests", "--features", "pagefrag/bytes")

_LINES = re.MULTILINE
_FAILED = re.compile(
    r"^(?:test (\S+) (?:- should panic )?\.\.\. FAILED|FAILED (\S+))", re.MULTILINE
)
_RAN = re.compile(r"^running [1-9]|^=+ test session|^\d+ passed|passed in", _LINES)


class Broken(Exception):  # noqa: N818 - the planted bug is in error, or the sound tree
    """Something does not build, or fails without a bug."""


@dataclass(frozen=True)
class Check:
    """One thing to run, and what it needs built before."""

    step: str
    name: str
    build: Callable[[], None]
    words: Callable[[], list[str]]
    environment: dict[str, str]

    @property
    def key(self) -> str:
        """How the tables name it."""
        return f"{self.step}: {self.name}"


@dataclass(frozen=True)
class Verdict:
    """What a check said: how long it took, and which test found something, if any did."""

    seconds: float
    found: str = ""


class Workshop:
    """A copy of the tree, where bugs are planted, and its builds, which stay."""

    def __init__(self, tree: Path, build: Path, interpreter: Path) -> None:
        """Work in the copy *tree*, with builds in *build* and the packages of *interpreter*."""
        self.tree, self.folder, self.interpreter = tree, build, interpreter
        self.cargo_words = [os.environ.get("CARGO", "cargo")]
        self.built: list[Callable[[], None]] = []
        self.switch = ""
        self._models: Path | None = None

    @contextmanager
    def planted(self, file: Path, text: str, switch: str) -> Iterator[None]:
        """Have *text* in *file*, or the order that *switch* asks for, for a while."""
        place = self.tree / file
        before = "" if switch else place.read_text(encoding="utf-8")
        self.switch = switch
        try:
            if not switch:
                place.write_text(text, encoding="utf-8")
                self.built.clear()
            yield
        finally:
            self.switch = ""
            if not switch:
                place.write_text(before, encoding="utf-8")
                self.built.clear()

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("PAGEFRAG_", "CARGO_P"))}
        target = {"CARGO_TARGET_DIR": str(self.folder), "PYO3_PYTHON": str(self.interpreter)}
        return {**keep, **target, "CARGO_INCREMENTAL": "1", **more}

    def cargo(self, words: list[str], more: dict[str, str] | None = None) -> str:
        """Run cargo, which must succeed; return what it says."""
        done = subprocess.run(
            [*self.cargo_words, *words],
            cwd=self.tree,
            env=self._environment(more or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Broken(done.stdout[-3000:])
        return done.stdout

    # --- the core's own tests, the models, the files of tests ---

    def _tests(self, *which: str) -> list[str]:
        return ["test", "--locked", *CRATES, *which]

    def unit(self) -> list[Check]:
        """The tests beside the code."""
        only = ("--lib",)
        build = lambda: void(self.cargo([*self._tests(*only), "--no-run"]))  # noqa: E731
        words = lambda: [*self.cargo_words, *self._tests(*only)]  # noqa: E731
        return [Check("unit", "pagefrag", build, words, {})]

    def _build_models(self) -> None:
        words = ["test", "--locked", "-p", "pagefrag", "--release", "--lib", "--no-run"]
        loom = {
            **QUICK_LINK,
            "RUSTFLAGS": "--cfg loom -C debug-assertions",
            "CARGO_TARGET_DIR": str(self.folder / "loom"),
        }
        said = self.cargo(words, loom)
        program = re.findall(r"Executable .*\((.+)\)", said)
        self._models = Path(program[-1])

    def _model(self, name: str) -> list[str]:
        return [str(self._models), "--exact", name]

    def loom(self) -> list[Check]:
        """The models, one by one."""
        self._build_models()
        said = subprocess.run(
            [str(self._models), "--list"], capture_output=True, text=True, check=True
        ).stdout
        names = re.findall(r"^(models::\S+): test", said, _LINES)
        bound = {"LOOM_MAX_PREEMPTIONS": "2"}
        return [
            Check(
                "loom",
                name.removeprefix("models::"),
                self._build_models,
                lambda name=name: self._model(name),
                bound,
            )
            for name in names
        ]

    def rust(self) -> list[Check]:
        """The files of tests."""
        files = sorted(path.stem for path in (self.tree / "tests/rust").glob("*.rs"))
        return [
            Check(
                "rust",
                name,
                lambda name=name: void(self.cargo([*self._tests("--test", name), "--no-run"])),
                lambda name=name: [*self.cargo_words, *self._tests("--test", name)],
                {"PROPTEST_CASES": "64"},
            )
            for name in files
        ]

    # --- the module, the traces, the files of tests in Python ---

    def _build_module(self) -> None:
        self.cargo(["build", "--locked", "-p", "pagefrag-python"])
        made = (self.folder / "debug" / "lib_pagefrag.so").read_bytes()
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        place = self.tree / "python" / "pagefrag" / f"_pagefrag{suffix}"
        if not place.is_file() or place.read_bytes() != made:
            place.unlink(missing_ok=True)
            place.write_bytes(made)

    def _build_traces(self) -> None:
        self._build_module()
        self.cargo(["build", "--locked", "-p", "pagefrag-tests", "--bin", "trace"])
        self.cargo(["build", "--locked", "-p", "pagefrag-faults"])

    def traces(self) -> list[Check]:
        """The corpus, in all four executors."""
        debug = self.folder / "debug"
        words = [
            str(self.interpreter),
            "tests/campaigns/traces.py",
            "replay",
            str(debug / "trace"),
            "tests/traces/corpus",
        ]
        preload = {"LD_PRELOAD": str(debug / "libpagefrag_faults.so")}
        return [Check("traces", "corpus", self._build_traces, lambda: words, preload)]

    def python(self) -> list[Check]:
        """The files of tests in Python."""
        files = sorted((self.tree / "tests/python").glob("test_*.py"))
        names = [file.stem for file in files if file.stem.removeprefix("test_") not in OTHERS]
        pytest = [str(self.interpreter), "-m", "pytest", "-q", "-x", "--tb=no", "-p"]
        return [
            Check(
                "python",
                name,
                self._build_module,
                lambda name=name: [*pytest, "no:cacheprovider", f"tests/python/{name}.py"],
                {},
            )
            for name in names
        ]

    def run(self, check: Check, limit: float | None) -> Verdict:
        """Build what *check* needs and run it, for no more than *limit* seconds."""
        if check.build not in self.built:
            check.build()
            self.built.append(check.build)
        more = {"PYTHONPATH": str(self.tree / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
        begun = time.monotonic()
        with subprocess.Popen(
            check.words(),
            cwd=self.tree,
            env=self._environment({**more, **check.environment, weaken.SWITCH: self.switch}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.communicate()
                endless = "" if check.step == "loom" else "does not end"
                return Verdict(time.monotonic() - begun, endless)
        seconds = time.monotonic() - begun
        return Verdict(seconds, "" if process.returncode == 0 else told(said))


def told(said: str) -> str:
    """Return which test a check that failed says has failed."""
    if names := [one or two for one, two in _FAILED.findall(said)]:
        return names[0].rpartition("::")[2]
    if trace := re.search(r"^trace \S*?([\w.-]+): ", said, _LINES):
        return trace[1]
    if not _RAN.search(said) and "panicked" not in said:
        print(said[-2000:], file=sys.stderr)
    return "the program died"


def void(_: object) -> None:
    """Take what nobody wants."""
