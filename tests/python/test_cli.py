"""The command line: words in, an exit status out, one line for each complaint."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

import pagefrag
from pagefrag import demo, info, sender
from pagefrag.loopback import SILENCE, dropped, receiving_socket
from pagefrag.packets import HEADER, SEQUENCE, Expectation, bodies
from pagefrag.recv import parse_address

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "pagefrag"]
PATIENCE = 60.0


def pagefrag_says(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def figure(text: str, label: str) -> list[int]:
    """Return the figures of the row *label*."""
    for line in text.splitlines():
        if line.startswith(f"{label}  "):
            return [
                int(word.replace(",", "")) for word in re.findall(r"[\d,]+", line[len(label) :])
            ]
    raise AssertionError(f"no row {label!r} in\n{text}")


# --- demo -------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(20_000, 1200), (3_000, 9000), (500, 8)])
def test_the_demo_checks_every_packet_and_gives_everything_back(count: int, size: int) -> None:
    done = pagefrag_says("demo", "--count", str(count), "--size", str(size), "--keep", "100")
    assert done.returncode == 0, done.stderr
    ours, plain = figure(done.stdout, "packets received")
    lost = figure(done.stdout, "packets lost (numbers missing)")
    assert [ours + lost[0], plain + lost[1]] == [count, count]
    assert figure(done.stdout, "packets corrupted") == [0, 0]
    assert figure(done.stdout, "rx_alloc_fail") == [0]
    assert figure(done.stdout, "live bytes while 100 packets are kept")[0] >= 100 * size
    assert figure(done.stdout, "regions mapped before") == [0]
    assert figure(done.stdout, "regions mapped at peak")[0] >= 1
    assert figure(done.stdout, "regions mapped after trim()") == [0]


def test_the_demo_checks_packets_that_the_kernel_coalesced() -> None:
    done = pagefrag_says("demo", "--count", "20000", "--page-size", "4096", "--keep", "100")
    assert done.returncode == 0, done.stderr
    ours, plain = figure(done.stdout, "packets received")
    lost = figure(done.stdout, "packets lost (numbers missing)")
    assert [ours + lost[0], plain + lost[1]] == [20_000, 20_000]
    assert figure(done.stdout, "packets corrupted") == [0, 0]
    assert figure(done.stdout, "regions mapped after trim()") == [0]


def test_held_is_live_and_pinned() -> None:
    done = pagefrag_says("demo", "--count", "5000", "--keep", "1000")
    held, live, pinned = (
        figure(done.stdout, f"{word} bytes while 1,000 packets are kept")[0]
        for word in ("held", "live", "pinned")
    )
    assert held == live + pinned


def test_a_packet_keeps_its_bytes_while_it_is_kept() -> None:
    job = demo.Job(count=2_000, size=700, keep=50)
    assert demo.receive_ring(job).good
    assert demo.receive_plain(job).good


FAULTS = {
    "a flipped bit": "data = data[:700] + bytes([data[700] ^ 1]) + data[701:]",
    "a short packet": "data = data[:-1]",
    "a very short packet": "data = data[:5]",
    "another packet's body": "data = number(n) + texts[(n + 1) % BODIES]",
    "the same packet again": "n -= 1; data = number(n) + texts[n % BODIES]",
    "a number beyond the end": "n = 1 << 60; data = number(n) + texts[n % BODIES]",
}


def faulty_sender(folder: Path, fault: str) -> list[str]:
    """Write a sender that is right but for packet 300, and return its command."""
    script = folder / "faulty.py"
    script.write_text(
        "import socket, sys, time\n"
        "from pagefrag.packets import BODIES, SEQUENCE, bodies\n"
        "port, control, count, size, window = map(int, sys.argv[1:])\n"
        "number, texts = SEQUENCE.pack, bodies(size)\n"
        "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "with sock:\n"
        "    for n in range(count):\n"
        "        data = number(n) + texts[n % BODIES]\n"
        "        if n == 300:\n"
        f"            {fault}\n"
        "        sock.sendto(data, ('127.0.0.1', port))\n"
        "        if n % 100 == 0:\n"
        "            time.sleep(0.01)\n"
    )
    return [sys.executable, str(script)]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_corrupted_packet_makes_the_demo_fail(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = demo.Job(count=500, keep=10, sender=faulty_sender(tmp_path, fault))
    assert demo.main(job) == 1
    told = capsys.readouterr()
    assert figure(told.out, "packets corrupted") == [1, 1]
    assert "2 packets were corrupted" in told.err


def test_a_lost_packet_is_counted_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = demo.Job(count=500, keep=10, sender=faulty_sender(tmp_path, "continue"))
    assert demo.main(job) == 0
    assert figure(capsys.readouterr().out, "packets lost (numbers missing)") == [1, 1]


def test_the_silence_after_a_lost_last_packet_is_not_in_the_rate(tmp_path: Path) -> None:
    job = demo.Job(count=301, keep=10, sender=faulty_sender(tmp_path, "continue"))
    for outcome in (demo.receive_ring(job), demo.receive_plain(job)):
        assert outcome.lost == 1
        assert 0 < outcome.seconds < SILENCE
        assert outcome.rate > 0


def test_a_sender_that_fails_makes_the_demo_fail(capsys: pytest.CaptureFixture[str]) -> None:
    silent = [sys.executable, "-c", "raise SystemExit(3)"]
    assert demo.main(demo.Job(count=10, sender=silent)) == 1
    assert "the sender failed" in capsys.readouterr().err


def test_a_demo_in_which_nothing_arrives_fails(capsys: pytest.CaptureFixture[str]) -> None:
    silent = [sys.executable, "-c", "pass"]
    assert demo.main(demo.Job(count=10, sender=silent)) == 1
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "pagefrag: no packet arrived"
    assert figure(told.out, "packets received") == [0, 0]


def test_an_interrupt_from_the_terminal_ends_the_demo_quietly() -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--count", "50000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "sender" not in err


# --- recv -------------------------------------------------------------------


def listening() -> tuple[subprocess.Popen[str], int]:
    """Start ``recv`` on a free port and return the process and the port."""
    process = subprocess.Popen(
        [*COMMAND, "recv", "--udp", "127.0.0.1:0", "--keep", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"port (\d+)", process.stdout.readline())
    assert found is not None
    return process, int(found[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_recv_with_a_summary(number: signal.Signals) -> None:
    process, port = listening()
    with process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for index in range(100):
            sock.sendto(index.to_bytes(4) * 50, ("127.0.0.1", port))
            time.sleep(0.001)
        time.sleep(1.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    live, _, summary = out.partition("\n\n")
    assert "packets/s" in live
    assert "rx_alloc_fail 0" in live
    assert figure(summary, "packets") == [100]
    assert figure(summary, "bytes") == [100 * 200]
    assert figure(summary, "packets kept") == [20]
    assert figure(summary, "regions after trim()") == [0]


def test_recv_tells_what_it_holds() -> None:
    process, port = listening()
    with process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(bytes(1000), ("127.0.0.1", port))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    held, live, pinned = (figure(out, word)[0] for word in ("held", "live", "pinned"))
    assert live >= 1000
    assert held == live + pinned


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


# --- info -------------------------------------------------------------------


def test_info_tells_versions_pages_and_features() -> None:
    done = pagefrag_says("info")
    assert (done.returncode, done.stderr) == (0, "")
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    assert facts["pagefrag"] == pagefrag.__version__
    assert facts["OS page"] == f"{os.sysconf('SC_PAGE_SIZE'):,} bytes"
    assert facts["huge pages"]
    assert facts["build"]


def test_what_the_kernel_does_not_say_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = tmp_path / "enabled"
    odd.write_text("none is chosen\n", encoding="ascii")
    for setting in (odd, tmp_path / "nowhere"):
        monkeypatch.setattr(info, "_HUGE_PAGES", setting)
        assert info.huge_page_state() == "not offered by this kernel"
    monkeypatch.setattr(info, "_PROCESSORS", tmp_path / "nowhere")
    assert info.processor().startswith(os.uname().machine)


def test_an_extra_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(info.metadata, "version", missing)
    assert info.facts()["numpy"] == "not installed"
    assert "dask" not in info.facts(), "a companion is told only if it is there"


# --- bad input --------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--bogus",
        "replay",
        "demo --bogus",
        "demo --count",
        "demo --count 0",
        "demo --count -1",
        "demo --count 1.5",
        "demo --count many",
        "demo --size 7",
        "demo --size 32769",
        "demo --page-size 40000",
        "demo --page-size 4096 --size 5000",
        "demo extra",
        "recv",
        "recv --udp",
        "recv --udp 9000",
        "recv --udp :9000",
        "recv --udp 127.0.0.1:",
        "recv --udp 127.0.0.1:65536",
        "recv --udp 127.0.0.1:-1",
        "recv --udp 127.0.0.1:port",
        "recv --udp ::1:9000",
        "recv --udp no.such.host.invalid:9000",
        "recv --udp 127.0.0.1:0 --keep -1",
        "recv --udp 127.0.0.1:0 --buffer 0",
        "info --bogus",
    ],
)
def test_bad_input_is_status_2_and_one_line(words: str) -> None:
    done = pagefrag_says(*words.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("pagefrag")


@pytest.mark.parametrize(
    "where", ["a\nb:5", "a\nb", "127.0.0.1:" + "1" * 5000, "127.0.0.1:000065536", "x\n:y\n"]
)
def test_odd_addresses_are_status_2_and_one_line(where: str) -> None:
    done = pagefrag_says("recv", "--udp", where)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "int_max_str_digits" not in done.stderr


@pytest.mark.parametrize("words", ["--nope", "demo --nope", "info --nope", "--nope info"])
def test_an_unknown_option_is_named(words: str) -> None:
    done = pagefrag_says(*words.split())
    assert done.returncode == 2
    assert "--nope" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("words", ["info", "demo --count 1000"])
def test_output_that_cannot_be_written_is_status_1_and_one_line(words: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "pagefrag: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_status_2_and_one_line() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        done = pagefrag_says("recv", "--udp", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "in use" in done.stderr


@pytest.mark.parametrize("words", ["--help", "demo --help", "recv --help", "info --help"])
def test_help_is_status_0(words: str) -> None:
    done = pagefrag_says(*words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: pagefrag")


# --- the sender -------------------------------------------------------------


def test_the_window_is_never_passed() -> None:
    """Nobody confirms anything: the sender sends one window, waits, and only then goes on."""
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        receiving.bind(("127.0.0.1", 0))
        sending.connect(receiving.getsockname())
        start = time.monotonic()
        sender.send_all(sending, theirs, count=40, size=100, window=16)
        assert time.monotonic() - start >= 2 * sender.PATIENCE
        numbers = [SEQUENCE.unpack_from(receiving.recv(200))[0] for _ in range(40)]
    assert numbers == list(range(40))


def test_a_sender_ends_when_its_receiver_is_gone() -> None:
    ours, theirs = socket.socketpair()
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs, sending, receiving:
        ours.close()
        with pytest.raises(SystemExit, match="the receiver went away"):
            sender.send_all(sending, theirs, count=40, size=100, window=16)
        assert SEQUENCE.unpack_from(receiving.recv(200))[0] == 0


def test_a_socket_that_cannot_cut_is_given_packets_one_by_one() -> None:
    ours, theirs = socket.socketpair()
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, sending, receiving:
        sender.send_all(sending, theirs, count=5, size=100, window=64)
        packets = [receiving.recv(200) for _ in range(5)]
    assert [len(packet) for packet in packets] == [100] * 5
    assert [SEQUENCE.unpack_from(packet)[0] for packet in packets] == list(range(5))


def test_drops_that_the_kernel_does_not_tell_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving_socket() as sock:
        assert dropped(sock) == 0
        monkeypatch.setattr("pagefrag.loopback._SO_MEMINFO", -1)
        assert dropped(sock) is None
        # What a kernel says that knows fewer numbers: an option of four bytes.
        monkeypatch.setattr("pagefrag.loopback._SO_MEMINFO", socket.SO_TYPE)
        assert dropped(sock) is None


def test_bodies_differ_and_are_fixed() -> None:
    found = bodies(100)
    assert len(set(found)) == len(found)
    assert {len(body) for body in found} == {100 - HEADER}
    assert Expectation(100).packet(300)[HEADER:] == found[300 % len(found)]


def test_only_the_packet_of_its_number_holds() -> None:
    expected = Expectation(100)
    packet = expected.packet(300)
    assert expected.holds(packet)
    assert not expected.holds(packet[:-1])
    assert not expected.holds(packet + b"\0")
    for place in (0, HEADER, 99):
        other = bytearray(packet)
        other[place] ^= 1
        assert not expected.holds(other)
