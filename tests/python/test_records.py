"""Every figure that is written down has the one shape, and names neither a host nor a path."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import record

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "benches" / "record").glob("*.json"))
PATHS = re.compile(r"(?<![\w.*/])/(?:\w+/)+\w")
COMMAND = re.compile(r"(cargo|python|make) [ -~]+")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_record_has_the_shape(path: Path) -> None:
    found = record.load(path)
    assert found.shape == record.SHAPE
    assert path.name == found.file_name()
    assert re.fullmatch(r"[0-9a-f]{7,}", found.commit)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.date)
    assert COMMAND.fullmatch(found.command)
    assert set(found.machine) == {"cpu", "cores"}
    assert re.fullmatch(r"\d+(\.\d+)+", found.kernel), "a version, and nothing of a distributor"
    assert found.runs
    for run in found.runs:
        assert run
        keys = [(row["group"], row["arm"], row["parameter"]) for row in run]
        assert len(keys) == len(set(keys))
        assert all(set(row) - {"series"} == {"group", "arm", "parameter", "figures"} for row in run)
        for series in (row["series"] for row in run if "series" in row):
            assert {"taken", "live_bytes", "resident_bytes", "ns"} <= set(series)
            assert len({len(values) for values in series.values()}) == 1, "one of each at a time"
        assert all(isinstance(row["parameter"], str) for row in run)
        assert all(value >= 0 for row in run for value in row["figures"].values())


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_record_names_no_host_and_no_path(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert socket.gethostname() not in text
    assert not PATHS.search(text)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_the_arms_of_a_group_read_the_same_bytes(path: Path) -> None:
    sums: dict[tuple[str, str], set[int]] = {}
    for run in record.load(path).runs:
        for row in run:
            if "checksum" in row["figures"]:
                key = row["group"], row["parameter"]
                sums.setdefault(key, set()).add(row["figures"]["checksum"])
    assert all(len(found) == 1 for found in sums.values())


def test_a_second_run_goes_behind_the_first(tmp_path: Path) -> None:
    rows = [record.row("drop", "object()", "2048", ns=1.23456789, heap_calls=0)]
    first = record.of("fragment", rows)
    path = first.save(tmp_path)
    assert record.of("fragment", rows).save(tmp_path) == path
    found = record.load(path)
    assert found.runs == [rows, rows]
    assert found.date == first.date
    assert found.cpython == platform.python_version()
    assert rows[0]["figures"] == {"ns": 1.23457, "heap_calls": 0}


def test_another_machine_is_refused_and_a_changed_tree_not_drawn(tmp_path: Path) -> None:
    here = record.of("fragment", [])
    other = record.Record(**{**vars(here), "kernel": "0.0", "changed": True, "runs": [[]]})
    other.save(tmp_path)
    assert record.newest("fragment", tmp_path) is None
    with pytest.raises(ValueError, match="another machine"):
        here.save(tmp_path)


def test_nothing_is_written_unless_a_folder_is_named(tmp_path: Path) -> None:
    code = "import record; print(record.keep('fragment', [record.row('g', 'a', 'p', ns=1)]))"
    words = {key: value for key, value in os.environ.items() if key != record.FOLDER}
    words["PYTHONPATH"] = str(ROOT / "benches" / "python")
    for folder, files in (("", 0), (str(tmp_path), 1)):
        subprocess.run(
            [sys.executable, "-c", code],
            env=words | ({record.FOLDER: folder} if folder else {}),
            check=True,
        )
        assert len(list(tmp_path.glob("*-fragment.json"))) == files


def test_rust_writes_the_same_fields() -> None:
    source = (ROOT / "benches" / "record.rs").read_text(encoding="utf-8")
    struct = re.search(r"pub struct Record \{(.*?)\n\}", source, re.DOTALL)
    assert struct
    assert re.findall(r"pub (\w+):", struct[1]) == [field.name for field in fields(record.Record)]
    assert f"SHAPE: u32 = {record.SHAPE};" in source
