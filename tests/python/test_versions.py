"""`show_versions`: one block of text that says what a bug report must say."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import pagefrag
from pagefrag import info


def told(text: str) -> dict[str, str]:
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines())


def test_it_tells_versions_build_machine_and_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    pagefrag.show_versions()
    facts = told(capsys.readouterr().out)
    assert facts["pagefrag"] == pagefrag.__version__
    assert facts["build"].split(", ") == pagefrag.build_features()
    assert facts["python"].startswith(f"{platform.python_version()} (CPython, ")
    assert facts["system"] == f"Linux {platform.release()} {platform.machine()}"
    assert facts["processors"].endswith(f" of {os.cpu_count()}")
    assert facts["OS page"] == f"{os.sysconf('SC_PAGE_SIZE'):,} bytes"
    assert facts["huge pages"]
    assert {facts["UDP_GRO"], facts["UDP_SEGMENT"]} <= {"yes", "no"}


def test_it_tells_whether_threads_run_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    pagefrag.show_versions()
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    assert ("free-threaded" in told(capsys.readouterr().out)["python"]) is free


def test_it_names_every_extra_with_its_version_or_says_that_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = metadata.version

    def without_pyarrow(name: str) -> str:
        if name == "pyarrow":
            raise metadata.PackageNotFoundError(name)
        return here(name)

    monkeypatch.setattr(info.metadata, "version", without_pyarrow)
    pagefrag.show_versions()
    facts = told(capsys.readouterr().out)
    assert facts["numpy"] == here("numpy")
    assert facts["pyarrow"] == "not installed"
    assert {"dpkt", "matplotlib", "python-pcapng", "rich"} <= set(facts)


def test_the_command_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    pagefrag.show_versions()
    command = [sys.executable, "-m", "pagefrag", "info"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ours = capsys.readouterr().out
    # What a region got of huge pages may differ from one moment to the next.
    moment = re.compile(r"^huge pages .*$", re.MULTILINE)
    assert moment.sub("", printed) == moment.sub("", ours)


def test_a_system_without_the_files_of_linux_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(info, "_PROCESSORS", tmp_path / "none")
    monkeypatch.setattr(info, "_HUGE_PAGES", tmp_path / "none")
    facts = info.facts()
    assert facts["processors"].startswith(platform.machine())
    assert facts["huge pages"] == "not offered by this kernel"


def test_importing_the_package_does_not_import_what_it_asks() -> None:
    script = (
        "import sys, pagefrag; sys.exit(bool({'pagefrag.info', 'platform'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
