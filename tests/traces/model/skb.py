"""Socket buffers: a head with room at both ends, and fragments behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .cache import ZERO_SIZE
from .pages import Frag, align_up
from .pool import Pool, Refusal

HEADROOM = 64  # NET_SKB_PAD; NET_IP_ALIGN is 0 on the machines we know
SHARED_INFO = 320  # what the kernel keeps behind the data; asked for and not written
SK_BUFF = 256  # what the struct is charged with
MAX_FRAGS = 17

NO_HEADROOM = "the headroom is too small"
NO_TAILROOM = "the tailroom is too small"
ABOVE_LENGTH = "the buffer holds fewer bytes than that"
TOO_MANY_FRAGS = "the buffer has no free fragment slot"
CLONED = "the data is shared with a clone and may not change"
NOT_LINEAR = "the buffer has data in fragments"
NOT_EMPTY = "the buffer already has data"
HEAD_TOO_SMALL = "the fragment has no room for data beside the shared info"
READ_ONLY = "the fragment is read-only"
SHARED = "the fragment shares its memory with another one"
ITSELF = "an skb cannot be coalesced with itself"
APART = "they stay apart"
VIEWED = "viewed"


def head_bytes(length: int) -> int:
    """Return the size of the head fragment for *length* bytes of data."""
    if length == 0:
        raise Refusal(ZERO_SIZE)
    return align_up(HEADROOM + length, 64) + SHARED_INFO


@dataclass(eq=False)
class Skb:
    """A packet. Its data begins at byte *data* of the head and goes on in the fragments."""

    head: Frag
    data: int = HEADROOM
    linear: int = 0
    nonlinear: int = 0
    frags: list[Frag] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.linear + self.nonlinear

    def _room_behind(self) -> int:
        return self.head.length - SHARED_INFO - self.data - self.linear

    @property
    def tailroom(self) -> int:
        return 0 if self.nonlinear else self._room_behind()

    @property
    def truesize(self) -> int:
        return SK_BUFF + sum(frag.piece.size for frag in (self.head, *self.frags))

    @property
    def bytes(self) -> bytes:
        linear = self.head.bytes[self.data : self.data + self.linear]
        return linear + b"".join(frag.bytes for frag in self.frags)

    def _is_own(self) -> bool:
        return self.head.piece.is_unique()

    def _own_head(self) -> None:
        if not self._is_own():
            raise Refusal(CLONED)

    def reserve(self, count: int) -> None:
        """Make room in front of data that is yet to come."""
        if self.length:
            raise Refusal(NOT_EMPTY)
        if count > self._room_behind():
            raise Refusal(NO_TAILROOM)
        self.data += count

    def put(self, text: bytes) -> None:
        """Append *text*."""
        if self.nonlinear:
            raise Refusal(NOT_LINEAR)
        if len(text) > self._room_behind():
            raise Refusal(NO_TAILROOM)
        self._own_head()
        self.head.write(text, self.data + self.linear)
        self.linear += len(text)

    def push(self, text: bytes) -> None:
        """Put *text* in front."""
        if len(text) > self.data:
            raise Refusal(NO_HEADROOM)
        self._own_head()
        self.data -= len(text)
        self.linear += len(text)
        self.head.write(text, self.data)

    def pull(self, count: int) -> None:
        """Take bytes off the front."""
        if count > self.linear:
            raise Refusal(ABOVE_LENGTH)
        self.data += count
        self.linear -= count

    def trim(self, length: int, pool: Pool, thread: int) -> None:
        """Keep the first *length* bytes; fragments behind them go."""
        if length > self.length:
            raise Refusal(ABOVE_LENGTH)
        left = max(length - self.linear, 0)
        self.linear, self.nonlinear = min(self.linear, length), left
        kept = 0
        while left:
            frag = self.frags[kept]
            frag.narrow(0, min(frag.length, left))
            left -= frag.length
            kept += 1
        for frag in self.frags[kept:]:
            pool.free(frag, thread)
        del self.frags[kept:]

    def add_frag(self, frag: Frag) -> None:
        """Hang another handle of *frag* behind the data."""
        if len(self.frags) == MAX_FRAGS:
            raise Refusal(TOO_MANY_FRAGS)
        self.frags.append(frag.share())
        self.nonlinear += frag.length

    def clone(self) -> Skb:
        """Return another skb of the same data."""
        frags = [frag.share() for frag in self.frags]
        return Skb(self.head.share(), self.data, self.linear, self.nonlinear, frags)

    def head_for_all(self) -> int:
        """Return the size of the new head that all of the data takes in one piece, 0 for none.

        The head stays when it has the room and may be written; the headroom always does.
        """
        if not self.nonlinear or (self._is_own() and self.nonlinear <= self._room_behind()):
            return 0
        return align_up(self.data + self.length, 64) + SHARED_INFO

    def linearize(self, head: Frag | None, pool: Pool, thread: int) -> None:
        """Copy what is in fragments behind the linear data, all of it into *head* if there is one.

        The old head goes first, then the fragments.
        """
        text, old = self.bytes, self.head
        if head is not None:
            self.head = head
            pool.free(old, thread)
        self.head.write(text, self.data)
        self.linear, self.nonlinear = len(text), 0
        self._drop_frags(pool, thread)

    def coalesce(self, other: Skb, pool: Pool, thread: int) -> None:
        """Append the data of *other*, of which nothing is left then.

        What fits behind the data is copied. Otherwise the fragments move; the head too, as one
        more, if there is data in it.
        """
        steals = other.linear > 0
        if not self._is_own():
            raise Refusal(APART)
        if other.length <= self.tailroom:
            text = other.bytes
            self.head.write(text, self.data + self.linear)
            self.linear += len(text)
            other.free(pool, thread)
            return
        if len(self.frags) + len(other.frags) + steals > MAX_FRAGS:
            raise Refusal(APART)
        if steals:
            if not other._is_own():
                raise Refusal(APART)
            # It keeps its room at both ends.
            other.head.narrow(other.data, other.linear)
            self.frags.append(other.head)
        else:
            pool.free(other.head, thread)
        self.frags += other.frags
        self.nonlinear += other.length

    def _drop_frags(self, pool: Pool, thread: int) -> None:
        for frag in self.frags:
            pool.free(frag, thread)
        self.frags.clear()

    def free(self, pool: Pool, thread: int) -> None:
        """Give head and fragments back."""
        pool.free(self.head, thread)
        self._drop_frags(pool, thread)


def build(frag: Frag, *, viewed: bool) -> Skb:
    """Make a packet of a whole fragment, if nobody else has it."""
    if frag.length <= SHARED_INFO:
        raise Refusal(HEAD_TOO_SMALL)
    if frag.readonly:
        raise Refusal(READ_ONLY)
    if viewed:
        raise Refusal(VIEWED)
    if not frag.piece.is_unique():
        raise Refusal(SHARED)
    return Skb(frag, data=0)
