"""A capture file, packet by packet: when each came, and how long it was.

The formats are read with libraries: file and record headers of classic captures are those of
``dpkt``, sections, blocks and options of pcapng are read by ``python-pcapng``. The loops are ours.
``dpkt``'s tells no length on the wire and makes a float of the time; ``python-pcapng``'s decodes
every option of every block, and stops at a comment that is not UTF-8. A record that claims more
than the file has is never believed, and where a file ends too early or makes no sense the number
of the packet is told.
"""

from __future__ import annotations

import importlib
import io
import stat
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

__all__ = ["Capture", "CaptureError", "Damaged", "MissingReader", "Record", "open_capture"]

_SECOND = 1_000_000_000
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_LONGEST_RECORD = 64 << 20
_LONGEST_PACKET = 262_144
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}


class CaptureError(Exception):
    """The file cannot be read as a capture at all."""


class MissingReader(CaptureError):  # noqa: N818 - a state of the installation, not of the file
    """The libraries that read captures are not installed."""


class Damaged(Exception):  # noqa: N818 - a state of the file; what came before it counts
    """The file ends too early or makes no sense from one packet on."""


@dataclass(frozen=True, slots=True)
class Record:
    """One packet: nanoseconds since 1970 (None: the file does not tell), and its lengths."""

    time: int | None
    captured: int
    wire: int


class _Bounded:
    """A file that is never asked for more than it has, and knows how much is left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size
        self.size: int = size

    def tell(self) -> int:
        return self.size - self._left

    def read(self, count: int) -> bytes:
        if count > _LONGEST_RECORD:
            raise Damaged(f"claims {count:,} bytes")
        found = self._file.read(max(0, min(count, self._left)))
        self._left -= len(found)
        return found

    def skip(self, count: int) -> bool:
        """Pass over *count* bytes; tell whether there were as many."""
        passed = min(count, self._left)
        self._file.seek(passed, 1)
        self._left -= passed
        return passed == count

    def is_at_end(self) -> bool:
        return not self._left


class Capture:
    """The packets of one file, once, in its order.

    Iterating ends with `Damaged` where the file does; ``packets`` is how many came.
    """

    def __init__(self, source: _Bounded, records: Iterator[Record], form: str) -> None:
        """Read *records* from *source*; *form* is the name of the file's format."""
        self._source, self._records = source, records
        self.form = form
        self.size: int = source.size
        self.packets: int = 0

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return self._source.tell()

    def __iter__(self) -> Iterator[Record]:
        """Yield every packet; raise `Damaged` with the number of the one that cannot be read."""
        while True:
            try:
                record = next(self._records, None)
            except Damaged as why:
                raise Damaged(f"packet {self.packets + 1:,} {why}") from None
            except OSError as error:
                told = error.strerror or str(error)
                raise Damaged(f"packet {self.packets + 1:,} cannot be read: {told}") from None
            if record is None:
                return
            self.packets += 1
            yield record


@contextmanager
def open_capture(path: Path) -> Generator[Capture, None, None]:
    """Open *path* for reading its packets; `CaptureError` when it is no capture."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # before it is opened: a pipe would make us wait
            raise CaptureError("not a regular file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise CaptureError(getattr(error, "strerror", None) or str(error)) from None
    with file:
        yield _capture(file, status.st_size)


def _capture(file: BinaryIO, size: int) -> Capture:
    try:
        magic = file.read(6)
        file.seek(0)
    except OSError as error:
        raise CaptureError(error.strerror or str(error)) from None
    if not magic:
        raise CaptureError("the file is empty")
    for start, name in _PACKED.items():
        if magic.startswith(start):
            raise CaptureError(f"compressed with {name}: unpack it first")
    source = _Bounded(file, size)
    if magic[:4] == _PCAPNG_MAGIC:
        return Capture(source, _pcapng(source), "pcapng")
    return _classic(source, magic[:4])


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingReader(
            "reading captures needs an extra: pip install 'pagefrag[replay]'"
        ) from None


# --- classic captures -------------------------------------------------------


def _classic(source: _Bounded, magic: bytes) -> Capture:
    formats = _library("dpkt.pcap")
    number = int.from_bytes(magic)
    header = formats.MAGIC_TO_PKT_HDR.get(number)
    if header is None:
        raise CaptureError("not a capture: it begins like neither pcap nor pcapng")
    swapped = getattr(header, "__byte_order__", ">") == "<"
    file_header = formats.LEFileHdr if swapped else formats.FileHdr
    start = source.read(file_header.__hdr_len__)
    if len(start) < file_header.__hdr_len__:
        raise CaptureError("the file ends within its header")
    major = file_header(start).v_major
    if major != formats.PCAP_VERSION_MAJOR:
        raise CaptureError(f"a pcap of version {major}, which nobody has described")
    nano = number in (formats.TCPDUMP_MAGIC_NANO, formats.PMUDPCT_MAGIC_NANO)
    form = f"pcap, {'little' if swapped else 'big'}-endian, {'ns' if nano else 'us'}"
    return Capture(source, _classic_records(source, header, 1 if nano else 1_000), form)


def _classic_records(source: _Bounded, header: type[Any], unit: int) -> Iterator[Record]:
    length = header.__hdr_len__
    while start := source.read(length):
        if len(start) < length:
            raise Damaged("is cut off: the file ends within its header")
        found = header(start)
        if found.caplen > _LONGEST_PACKET:
            raise Damaged(f"makes no sense: it claims {found.caplen:,} captured bytes")
        if not source.skip(found.caplen):
            raise Damaged("is cut off: the file ends within it")
        yield Record(found.tv_sec * _SECOND + found.tv_usec * unit, found.caplen, found.len)


# --- pcapng -----------------------------------------------------------------

_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 1, 2, 3, 6
_RESOLUTION, _OFFSET = 9, 14


@dataclass(frozen=True, slots=True)
class _Interface:
    """How an interface tells the time: nanoseconds of a tick as a fraction, and of tick 0."""

    numerator: int
    denominator: int
    offset: int
    snap_length: int

    def time(self, high: int, low: int) -> int:
        return ((high << 32) + low) * self.numerator // self.denominator + self.offset


def _pcapng(source: _Bounded) -> Iterator[Record]:
    structs = _library("pcapng.structs")
    order = ">"  # until a section tells
    interfaces: list[_Interface] = []
    while not source.is_at_end():
        kind, data, order = _next_block(structs, source, order)
        try:
            if kind == structs.SECTION_HEADER_MAGIC:
                interfaces = []
            elif kind == _INTERFACE:
                interfaces.append(_interface(structs, data, order))
            elif kind in (_PACKET, _OLD_PACKET, _SIMPLE_PACKET):
                yield _packet(kind, data, order, interfaces)
        except (struct.error, structs.PcapngLoadError) as error:
            raise Damaged(f"or a block before it makes no sense: {_said(error)}") from None


def _next_block(structs: ModuleType, source: _Bounded, order: str) -> tuple[int, bytes, str]:
    """Return the kind of the next block, what is in it, and the byte order of its section."""
    try:
        kind = structs.read_int(source, 32, False, order)
        if kind == structs.SECTION_HEADER_MAGIC:
            section = structs.read_section_header(source)
            return kind, section["data"], section["endianness"]
        return kind, structs.read_block_data(source, order), order
    except Damaged as why:
        raise Damaged(f"or a block before it makes no sense: it {why}") from None
    except OSError:
        raise
    except Exception as error:
        if source.is_at_end():
            raise Damaged("is cut off: the file ends within its block") from None
        raise Damaged(f"or a block before it makes no sense: {_said(error)}") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _interface(structs: ModuleType, data: bytes, order: str) -> _Interface:
    _, snap_length = struct.unpack_from(f"{order}HxxI", data)
    options = dict(structs.read_options(io.BytesIO(data[8:]), order))
    numerator, denominator = 1_000, 1
    if resolution := options.get(_RESOLUTION):
        base = 2 if resolution[0] & 0x80 else 10
        numerator, denominator = _SECOND, base ** (resolution[0] & 0x7F)
    ends: Literal["little", "big"] = "little" if order == "<" else "big"
    offset = int.from_bytes(options.get(_OFFSET, b""), ends, signed=True)
    return _Interface(numerator, denominator, offset * _SECOND, snap_length)


def _packet(kind: int, data: bytes, order: str, interfaces: list[_Interface]) -> Record:
    if kind == _SIMPLE_PACKET:
        (wire,) = struct.unpack_from(f"{order}I", data)
        snap_length = _known(interfaces, 0).snap_length
        captured = min(wire, snap_length or wire)
        time, room = None, len(data) - 4
    else:
        form = "IIIII" if kind == _PACKET else "HxxIIII"
        number, high, low, captured, wire = struct.unpack_from(order + form, data)
        time, room = _known(interfaces, number).time(high, low), len(data) - 20
    if captured > room:
        raise Damaged(f"makes no sense: it claims {captured:,} captured bytes and has {room:,}")
    return Record(time, captured, wire)


def _known(interfaces: list[_Interface], number: int) -> _Interface:
    if number >= len(interfaces):
        raise Damaged(f"makes no sense: there is no interface {number:,}")
    return interfaces[number]
