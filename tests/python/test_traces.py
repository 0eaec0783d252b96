"""Traces: both languages decode them alike, and a difference is found and shown."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import pytest
from campaigns import guided, swarm
from campaigns import traces as campaign
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import engine
from traces.decode import OPS, PACKET, align_of, decode, digest, pattern, random_trace, size_of
from traces.model import world

import pagefrag

README = Path(__file__).resolve().parents[1] / "traces" / "README.md"
RUST = README.with_name("mod.rs").read_text(encoding="utf-8")


def test_the_operations_have_the_same_numbers_in_both_languages() -> None:
    table = RUST[RUST.index("const OPS") : RUST.index("const PACKET")]
    named = [line.split("::")[1].rstrip(",") for line in table.splitlines() if "Op::" in line]
    table = RUST[RUST.index("const PACKET") : RUST.index("impl Op")]
    row = table[table.index("= [") + 3 : table.index("];")]
    packet = [name.split("::")[1] for name in row.split(", ")]
    words = dict(
        line.strip().removeprefix("Op::").split(" => ")
        for line in RUST[RUST.index("impl Op") :].splitlines()
        if " => " in line and "Op::" in line and '"' in line
    )
    assert tuple(words[name].strip('",') for name in named) == OPS
    assert tuple(words[name].strip('",') for name in packet) == PACKET


def test_what_becomes_of_packets_is_chosen_by_the_argument() -> None:
    steps = b"".join(struct.pack("<BBHI", 1 + 32 * n, 0, 0, 3 * n + n % 3) for n in range(6))
    assert [step.op for step in decode(bytes(4) + steps)[1]] == [*PACKET, *PACKET]


def test_any_bytes_are_a_program() -> None:
    config, steps = decode(b"")
    assert (config.page, config.regions, list(steps)) == (4096, 0, [])
    config, found = decode(bytes([6, 5, 2, 9, 12, 4, 1, 2, 3, 4, 5, 6, 7, 7]))
    (step,) = found
    assert (config.page, config.regions, config.init_on_free) == (32 << 10, 1, True)
    assert (step.op, step.thread, step.handle, step.arg) == ("release", 1, 0x0201, 0x06050403)


def test_sizes_patterns_and_digests_are_as_in_rust() -> None:
    assert size_of(9 << 8 | 6, 4096) == 4097
    assert [align_of(arg) for arg in (0x78, 0x80, 0xF8)] == [1, 1, 1 << 15]
    assert pattern(1, 9) == (0x9E3779B97F4A7C15).to_bytes(8, "little") + pattern(2, 1)
    assert digest(b"123456789") == 0xCBF43926


@pytest.mark.parametrize("seed", range(40))
def test_a_trace_ends_with_nothing_left_and_as_the_model_says(seed: int) -> None:
    trace = random_trace(seed, 120)
    log = engine.log(trace)
    assert log == world.log(trace)
    assert "broken" not in log
    books = log.splitlines()[-1]
    assert books.startswith("end held=0 live=0 ")
    assert " regions=0 " in books


@settings(max_examples=60)
@given(head=st.binary(min_size=3, max_size=3), steps=st.binary(max_size=400))
def test_any_bytes_do_what_the_model_says(head: bytes, steps: bytes) -> None:
    trace = head + b"\0" + steps
    assert engine.log(trace) == world.log(trace)


def test_the_line_of_a_fuzzer_says_what_it_came_to() -> None:
    said = "#12\tNEW    cov: 41 ft: 9\n#90\tDONE   cov: 57 ft: 9\nDone 90 runs in 3 second(s)\n"
    line = "files: 90 runs in 3 s, 57 edges reached, nothing found"
    assert guided.told("files", 0, said) == (line, True)
    blind, _ = guided.told("files", 0, said.replace("57", "0").replace("41", "0"))
    assert blind == "files: 90 runs in 3 s, not led by coverage, nothing found"
    for status, text in ((1, said), (0, "no such file")):
        failure = ("files: a finding, or it did not run", False)
        assert guided.told("files", status, text) == failure


def test_a_fuzzer_that_should_count_native_edges_and_does_not_has_failed() -> None:
    said = "#90\tDONE   cov: 57 ft: 9\nDone 90 runs in 3 second(s)\n"
    counts = "INFO: Loaded 1 modules   (1234 inline 8-bit counters): 1234 [0x1, 0x2), \n"
    failure = ("files: no edges of native code were counted", False)
    assert guided.told("files", 0, said, native=True) == failure
    line, success = guided.told("files", 0, counts + said, native=True)
    assert success
    assert "57 edges reached, 1234 counted in native code" in line


def test_a_fuzzer_leaves_the_corpus_as_it_is(tmp_path: Path) -> None:
    corpus, fuzzer, words = tmp_path / "corpus", tmp_path / "fuzzer", tmp_path / "words"
    corpus.mkdir()
    fuzzer.write_text(f'#!/bin/sh\necho "$@" > {words}\necho "Done 1 runs in 1 second(s)"\n')
    fuzzer.chmod(fuzzer.stat().st_mode | stat.S_IXUSR)
    assert guided.main(["files", "1", "--", str(fuzzer), "-max_len=9", "--", str(corpus)]) == 0
    folders = [word for word in words.read_text().split() if not word.startswith("-")]
    assert folders[1:] == [str(corpus)]
    assert folders[0] != str(corpus), "a fuzzer writes into the first"


def test_what_a_fuzzer_finds_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fuzzer = tmp_path / "fuzzer"
    fuzzer.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case $word in\n'
        '-artifact_prefix=*) printf bad > "${word#*=}crash-0123" ;;\n'
        "-*) ;; *) printf new > $word/seen-before ;; esac; done\nexit 77\n"
    )
    fuzzer.chmod(fuzzer.stat().st_mode | stat.S_IXUSR)
    assert guided.main(["files", "1", "--", str(fuzzer)]) == 1
    assert capsys.readouterr().out.endswith("or it did not run, kept as finds/crash-0123\n")
    assert [file.name for file in (tmp_path / "finds").iterdir()] == ["crash-0123"]
    assert (tmp_path / "finds" / "crash-0123").read_bytes() == b"bad"


def test_the_corpus_is_small() -> None:
    sizes = [file.stat().st_size for file in README.with_name("corpus").glob("*.trace")]
    assert len(sizes) >= 300
    assert sum(sizes) < 200_000
    assert len(sizes) == len(list(README.with_name("corpus").iterdir()))


def test_a_trace_with_faults_is_not_run_where_nothing_can_fail() -> None:
    trace = random_trace(1, 10)
    with pytest.raises(RuntimeError, match="LD_PRELOAD"):
        engine.log(trace[:3] + b"\x09" + trace[4:])


def test_the_model_refuses_what_the_system_refuses_and_goes_on_afterwards() -> None:
    alloc = bytes([0, 0, 0, 0, 0, 0, 0, 0])
    once = world.log(bytes([0, 0, 0, 1]) + alloc * 2).splitlines()
    assert once[1] == "0 alloc0 refused: the operating system gave no memory for a region"
    assert once[2] == "1 alloc0 P0+0 len=1 cap=64 ro=0"
    kept = world.log(bytes([0, 0, 0, 2 | 8]) + alloc).splitlines()
    assert kept[-4] == "end regions=0"
    assert kept[-1] == "after regions=1"


def test_the_same_trace_has_the_same_log_twice() -> None:
    trace = random_trace(7, 300)
    assert engine.log(trace) == engine.log(trace)


def test_a_program_that_says_something_else_is_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    liar = tmp_path / "trace"
    liar.write_text(
        '#!/bin/sh\nif [ "$1" = digests ]; then echo "5 0000000000000000 1"; else echo wrong; fi\n'
    )
    liar.chmod(liar.stat().st_mode | stat.S_IXUSR)
    assert campaign.compare(str(liar), 5, 1, 10) == 1
    said = capsys.readouterr().out
    assert "trace 5: line 0\n  Rust: wrong\n  the model in Rust: wrong\n  Python: page=" in said
    assert said.endswith("1 traces of 10 steps, four executors, 1 traces differ\n")


def test_many_are_refused_only_after_the_other_caches_of_the_thread_gave_up_idle_pages() -> None:
    pool = pagefrag.PagePool(4096, max_bytes=2 << 20)
    idle, busy = pagefrag.PageFragCache(pool), pagefrag.PageFragCache(pool)
    for frag in idle.alloc_many(8, 4096):
        frag.release()
    kept = busy.alloc_many(512, 4096)
    assert len(kept) == pool.stats().pages_in_use == 512
    with pytest.raises(pagefrag.PoolExhausted):
        busy.alloc_many(1, 4096)


def test_errors_have_one_exception_each() -> None:
    cache = pagefrag.PageFragCache(pagefrag.PagePool(4096, max_bytes=2 << 20))
    with pytest.raises(ValueError, match="at least one byte"):
        cache.alloc(0)
    with pytest.raises(ValueError, match="above the page size"):
        cache.alloc(4097)
    with pytest.raises(ValueError, match="power of two"):
        cache.alloc(1, align=3)


def swarm_program(folder: Path, traces: list[bytes], wrong: set[int]) -> str:
    """Return a program that makes *traces*, and tells a wrong checksum of those in *wrong*."""
    frames = b"".join(
        struct.pack("<I", len(trace))
        + trace
        + struct.pack("<I", digest(world.log(trace).encode()) ^ (number in wrong))
        for number, trace in enumerate(traces)
    )
    (folder / "frames").write_bytes(frames)
    program = folder / "swarm"
    program.write_text(f"#!/bin/sh\ncat {folder}/frames\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_a_swarm_runs_in_the_package_as_the_model_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = swarm.MODEL + 6
    traces = [random_trace(seed, 20) for seed in range(count)]
    program = swarm_program(tmp_path, traces, set())
    assert swarm.main([program, "5", str(count), "60", str(tmp_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"{count} executions from seed 5 on, {20 * count} steps (20.0 in each, " in last
    assert "2 of them also in the model in Python" in last
    assert last.endswith(" 0 differ")


def test_a_swarm_keeps_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = swarm_program(tmp_path, [random_trace(seed, 20) for seed in range(3)], {1})
    assert swarm.main([program, "5", "3", "60", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "seed 6: 20 steps" in said
    assert "the models in Rust and in Python differ" in said
    assert (tmp_path / "swarm-6").read_bytes() == random_trace(1, 20)


def test_what_is_wrong_is_cut_down_to_the_steps_that_it_takes() -> None:
    trace = random_trace(1, 40)
    step = trace[4 + 8 * 17 : 4 + 8 * 18]
    assert swarm.shortened(trace, lambda shorter: step in shorter) == trace[:4] + step
