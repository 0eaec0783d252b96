"""Which interpreter `make test-free-threaded` takes, and what it says when there is none."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from campaigns import free_threaded


def program(folder: Path, name: str, output: str) -> Path:
    script = folder / name
    script.write_text(f"#!/bin/sh\necho '{output}'\n")
    script.chmod(0o755)
    return script


@pytest.fixture(autouse=True)
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_threaded, "HOME", tmp_path / "built")


def test_this_interpreter_fits_if_it_has_no_global_lock() -> None:
    is_free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert free_threaded.fits(sys.executable) == is_free


@pytest.mark.parametrize(
    ("says", "fits"),
    [("3.14 True", True), ("3.15 True", True), ("3.14 False", False), ("3.13 True", False)],
)
def test_the_one_that_is_named_is_taken_or_refused(tmp_path: Path, says: str, fits: bool) -> None:
    python = program(tmp_path, "python", says)
    named = {free_threaded.CHOSEN: str(python)}
    if fits:
        assert free_threaded.found(named) == str(python)
    else:
        with pytest.raises(free_threaded.Unavailable, match=r"is not a CPython 3\.14t or 3\.15t"):
            free_threaded.found(named)


def test_the_one_on_the_path_is_found(tmp_path: Path) -> None:
    assert free_threaded.found({"PATH": str(tmp_path)}) is None
    program(tmp_path, "python3.14t", "3.14 False")
    python = program(tmp_path, "python3.15t", "3.15 True")
    assert free_threaded.found({"PATH": str(tmp_path)}) == str(python)


@pytest.mark.parametrize(
    ("tools", "missing"),
    [({}, "no apt"), ({"apt-get": "", "apt-cache": ""}, "needs a deb-src line of a release")],
)
def test_what_is_missing_is_said(
    tools: dict[str, str],
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, output in tools.items():
        program(tmp_path, name, output)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(free_threaded.CHOSEN, raising=False)
    assert free_threaded.main([]) == 1
    assert missing in capsys.readouterr().out


def test_a_source_package_that_apt_knows_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "apt-get", "")
    program(tmp_path, "apt-cache", "Package: python3.14")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_threaded.packaged() == "3.14"
