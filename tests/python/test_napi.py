"""The napi context: inside a poll, on its thread, failures as values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

import pagefrag
from actors import started
from pagefrag import ContextError, NapiCache, NapiPoll, PagefragError, PagePool

CALLS: dict[str, Callable[[Any], object]] = {
    "alloc_frag": lambda ctx: ctx.alloc_frag(64),
    "alloc_skb": lambda ctx: ctx.alloc_skb(64),
    "consume_skb": lambda ctx: ctx.consume_skb(pagefrag.netdev_alloc_skb(64)),
}


ROUNDS = 300


def in_thread(act: Callable[[], object]) -> Any:
    """Run *act* on another thread; return what it returned or raised."""
    thread, found = started(act)
    thread.join()
    return found[0]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_outside_a_poll_is_a_context_error(call: Callable[[Any], object]) -> None:
    napi = NapiCache(PagePool())
    ahead = napi.poll()
    with pytest.raises(ContextError, match="not begun"):
        call(ahead)
    with napi.poll() as ctx:
        call(ctx)
    with pytest.raises(ContextError, match="over") as refused:
        call(ctx)
    assert isinstance(refused.value, PagefragError)
    assert isinstance(refused.value, RuntimeError)
    assert napi.stats().rx_alloc_fail == 0


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_on_another_thread_is_a_context_error(call: Callable[[Any], object]) -> None:
    with NapiCache(PagePool()).poll() as ctx:
        error = in_thread(lambda: call(ctx))
        assert isinstance(error, ContextError)
        call(ctx)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_cache_itself_takes_the_calls_of_its_running_poll(
    call: Callable[[Any], object],
) -> None:
    napi = NapiCache(PagePool())
    with pytest.raises(ContextError):
        call(napi)
    with napi.poll():
        call(napi)
        assert isinstance(in_thread(lambda: call(napi)), ContextError)
    with pytest.raises(ContextError):
        call(napi)


def test_a_refused_consume_leaves_the_skb() -> None:
    skb = pagefrag.netdev_alloc_skb(64)
    skb.put(b"kept").release()
    with NapiCache().poll() as ctx:
        pass
    with pytest.raises(ContextError):
        ctx.consume_skb(skb)
    assert skb.tobytes() == b"kept"


def test_polls_do_not_nest_on_one_cache() -> None:
    napi = NapiCache()
    with napi.poll() as outer:
        with pytest.raises(ContextError), napi.poll():
            pass
        assert outer.alloc_frag(64) is not None
        with NapiCache().poll() as other:
            assert other.alloc_frag(64) is not None
    with napi.poll() as again:
        assert again.alloc_frag(64) is not None


def test_a_poll_is_entered_once() -> None:
    poll = NapiCache().poll()
    with poll:
        with pytest.raises(ContextError, match="once"):
            poll.__enter__()
        assert poll.alloc_frag(1) is not None
    with pytest.raises(ContextError, match="once"):
        poll.__enter__()
    with pytest.raises(ContextError):
        poll.__exit__(None, None, None)


def test_of_threads_that_enter_one_poll_at_once_one_is_in() -> None:
    """Without a global lock they really meet."""
    napi, ready = NapiCache(PagePool()), threading.Barrier(3)
    polls = [napi.poll() for _ in range(ROUNDS)]

    def enters() -> list[bool]:
        entered = []
        for poll in polls:
            ready.wait()
            try:
                poll.__enter__()
            except ContextError:
                entered.append(False)
            else:
                poll.alloc_frag(64)
                poll.__exit__(None, None, None)
                entered.append(True)
        return entered

    threads = [started(enters) for _ in range(3)]
    for thread, _ in threads:
        thread.join()
    together = zip(*(found[0] for _, found in threads), strict=True)
    assert [sum(entered) for entered in together] == [1] * ROUNDS
    with napi.poll() as ctx:
        assert ctx.alloc_frag(1) is not None


def test_a_poll_that_is_refused_at_the_door_cannot_end_the_one_inside() -> None:
    """One thread polls and tries to leave a second poll, which another thread tries to enter."""
    napi, ready = NapiCache(PagePool()), threading.Barrier(2)
    seconds = [napi.poll() for _ in range(ROUNDS)]

    def enters() -> None:
        for second in seconds:
            ready.wait()
            with pytest.raises(ContextError):
                second.__enter__()

    with napi.poll() as first:
        thread, found = started(enters)
        for second in seconds:
            ready.wait()
            with pytest.raises(ContextError):
                second.__exit__(None, None, None)
            assert first.alloc_frag(64) is not None
        thread.join()
    assert found == [None]


def test_a_poll_ends_with_its_exception() -> None:
    napi = NapiCache()
    with pytest.raises(ZeroDivisionError), napi.poll():
        1 / 0  # noqa: B018
    with napi.poll() as ctx:
        assert ctx.alloc_frag(1) is not None


def test_another_thread_cannot_end_it_and_may_poll_after() -> None:
    napi = NapiCache(PagePool())
    poll = napi.poll()
    with poll:
        assert isinstance(in_thread(lambda: poll.__exit__(None, None, None)), ContextError)
        assert isinstance(in_thread(lambda: napi.poll().__enter__()), ContextError)

    def polled() -> object:
        with napi.poll() as ctx:
            return ctx.alloc_frag(100)

    assert in_thread(polled).nbytes == 100


def test_a_poll_thrown_away_does_not_lock_the_cache() -> None:
    napi = NapiCache()

    def forgotten() -> None:
        napi.poll().__enter__()

    forgotten()
    with napi.poll() as ctx:
        assert ctx.alloc_frag(1) is not None


def test_a_poll_thrown_away_on_another_thread_does_not_lock_the_cache() -> None:
    napi = NapiCache(PagePool())

    def polling() -> Generator[object, None, None]:
        with napi.poll() as ctx:
            yield ctx.alloc_skb(100)

    forgotten = [polling()]
    in_thread(lambda: next(forgotten[0]))
    with pytest.raises(ContextError):
        forgotten.pop().close()
    with napi.poll() as ctx:
        assert ctx.alloc_frag(1) is not None


def test_failures_are_none_and_counted() -> None:
    napi = NapiCache(PagePool(max_bytes=2 << 20))
    kept = []
    with napi.poll() as ctx:
        while (frag := ctx.alloc_frag(32768)) is not None:
            kept.append(frag)
        assert len(kept) == 64
        assert napi.stats().rx_alloc_fail == 1
        assert ctx.alloc_skb(1500) is None
        assert ctx.alloc_frag(1, align=128) is None
        assert napi.stats().rx_alloc_fail == 3
        kept.clear()
        del frag
        assert ctx.alloc_skb(1500) is not None
    assert napi.stats().rx_alloc_fail == 3


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (32769, ValueError),
        (2**32, ValueError),
        (2**63, OverflowError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_mistakes_are_raised_and_not_counted(size: Any, error: type[Exception]) -> None:
    napi = NapiCache(PagePool())
    with napi.poll() as ctx:
        with pytest.raises(error):
            ctx.alloc_frag(size)
        with pytest.raises(error):
            ctx.alloc_skb(size)
        with pytest.raises(error):
            ctx.alloc_frag(64, align=size if size != 32769 else 65536)
    assert napi.stats().rx_alloc_fail == 0


def test_consumed_skbs_are_gone() -> None:
    napi = NapiCache(PagePool())
    with napi.poll() as ctx:
        skb = ctx.alloc_skb(1500)
        assert skb is not None
        view = skb.put(b"data")
        with pytest.raises(BufferError):
            ctx.consume_skb(skb)
        view.release()
        ctx.consume_skb(skb)
        with pytest.raises(ValueError, match="released skb"):
            ctx.consume_skb(skb)
        with pytest.raises(ValueError, match="released skb"):
            skb.put(1)
        with pytest.raises(TypeError):
            ctx.consume_skb(b"not an skb")
        for _ in range(300):
            batch = [ctx.alloc_skb(500) for _ in range(20)]
            for one in batch:
                ctx.consume_skb(one)
    assert napi.pool.audit().live_bytes == 0


def test_budget() -> None:
    napi = NapiCache()
    assert napi.poll().budget == 64
    assert napi.poll(8).budget == napi.poll(budget=8).budget == 8
    for budget, error in ((-1, ValueError), (True, TypeError), (1.5, TypeError)):
        with pytest.raises(error):
            napi.poll(budget)
    with pytest.raises(TypeError):
        NapiPoll()


def test_fragments_outlive_the_poll() -> None:
    napi = NapiCache(PagePool())
    with napi.poll() as ctx:
        frag = ctx.alloc_frag(5)
        frag[:] = b"alive"
    pool = napi.pool
    del napi, ctx
    assert frag == b"alive"
    frag.release()
    assert pool.audit().live_bytes == 0


def test_repr() -> None:
    napi = NapiCache()
    poll = napi.poll(7)
    assert repr(poll) == "<NapiPoll budget=7 not begun>"
    with poll:
        assert repr(poll) == "<NapiPoll budget=7 running>"
        assert repr(napi) == "<NapiCache page_size=32768 polling>"
    assert repr(poll) == "<NapiPoll budget=7 over>"
    assert repr(napi) == "<NapiCache page_size=32768>"
