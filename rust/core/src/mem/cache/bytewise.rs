//! Granule 1: the kernel's `page_frag_alloc_align`, upward, offset by offset.
//!
//! The state machine of kernels from 6.13 on: round the offset up, carve if it
//! fits, else start the page anew if nothing in it is alive, else leave it and
//! take another. Where the kernel goes wrong we do not follow: a size of 0 and
//! sizes near 2^32 are refused (`PageFragCache::check`), and a size above one
//! OS page does not fail for ever once the page's tail is too small.

use std::ptr::NonNull;

use super::PageFragCache;
use crate::error::Error;
use crate::geometry::align_up;
use crate::mem::frag::FragMut;
use crate::mem::page::Page;
use crate::mem::poison;
use crate::mem::raw::RawFrag;
use crate::mem::shelf::bump;

/// Steps of the round that a refill takes.
const PACE: u64 = 4;

/// Finds room for `size` bytes at a multiple of `align`: the page, which is
/// then the current one, and the offset in it.
pub(crate) fn make_room(
    cache: &PageFragCache,
    size: usize,
    align: usize,
) -> Result<(Page, usize), Error> {
    let shelf = cache.shelf();
    if let Some(page) = cache.place.page() {
        let offset = align_up(usize::try_from(shelf.offset.get()).unwrap_or(0), align);
        if offset + size <= page.size() {
            return Ok((page, offset));
        }
        bump(&shelf.counters.refills);
        if page.is_dead_bytes() {
            bump(&shelf.counters.reuses);
            return Ok(begin(cache, page));
        }
        cache.put_current_away();
    } else {
        bump(&shelf.counters.refills);
    }
    cache.go_round(PACE);
    if let Some(page) = cache.shelf().take_spare() {
        bump(&shelf.counters.reuses);
        return Ok(begin(cache, page));
    }
    match cache
        .take_page()
        .or_else(|refusal| last_resort(cache).ok_or(refusal))
    {
        Ok(page) => Ok(begin(cache, page)),
        Err(refusal) => {
            cache.refuse(refusal);
            Err(refusal)
        }
    }
}

/// Any page of the shelf without live fragments.
fn last_resort(cache: &PageFragCache) -> Option<Page> {
    cache.go_all_round();
    cache.shelf().take_spare()
}

/// Starts a dead page at offset 0.
fn begin(cache: &PageFragCache, page: Page) -> (Page, usize) {
    page.restart_bytes();
    cache.start(page);
    cache.shelf().offset.set(0);
    // Where a fragment was cannot be told once it has been shared or narrowed.
    poison::hide(page.base(), page.size());
    let init = cache.pool().init();
    if init.on_alloc || init.on_free {
        // The bytes a fragment held are not told apart here, so the page is
        // wiped as a whole before any of it is seen again.
        // SAFETY: nothing in the page is alive.
        unsafe { poison::wipe(page.base(), page.size()) };
    }
    (page, 0)
}

/// Takes `size` bytes at `offset`, which is where `make_room` said.
pub(crate) fn carve(cache: &PageFragCache, page: Page, offset: usize, size: usize) -> FragMut {
    page.carve_bytes(size);
    cache.shelf().offset.set((offset + size) as u64);
    // SAFETY: `make_room` has seen that the bytes lie in the page.
    let start: NonNull<u8> = unsafe { page.base().add(offset) };
    // SAFETY: beyond all that was carved since the page was started, so these
    // bytes are handed out once, here.
    let raw = unsafe { RawFrag::carve_bytes(start, size) };
    // SAFETY: nobody else has a handle of them.
    unsafe { FragMut::from_raw(raw) }
}

/// Takes the first `used` bytes of what `make_room` found.
#[inline(never)]
pub(crate) fn commit(cache: &PageFragCache, used: usize) -> FragMut {
    let offset = usize::try_from(cache.shelf().offset.get()).unwrap_or(0);
    let page = cache.place.page().expect("`prepare` has seen to it");
    carve(cache, page, offset, used)
}

/// Gives back what `room` has behind the first `used` bytes, or all of it. The
/// offset follows if `room` was carved last.
pub(crate) fn settle(cache: &PageFragCache, mut room: FragMut, used: usize) -> Option<FragMut> {
    let last = last_carved(cache, &room);
    let given = room.capacity() - used;
    let kept = if used == 0 {
        drop(room);
        None
    } else {
        room.shrink_to(used);
        Some(room)
    };
    if let Some(page) = last {
        untake(cache, page, given);
    }
    kept
}

/// The current page, if `room` was the last thing carved there.
fn last_carved(cache: &PageFragCache, room: &FragMut) -> Option<Page> {
    // A handle that was narrowed does not show where its bytes end, and one
    // that is shared frees nothing when it goes.
    if room.len() != room.capacity() || !room.is_unique() {
        return None;
    }
    let page = cache.place.page()?;
    let end = room.offset() + room.capacity();
    let last = usize::try_from(cache.shelf().offset.get()) == Ok(end);
    (last && room.page() == page.base().addr().get()).then_some(page)
}

/// Moves the offset back over `bytes` that were carved last and freed since.
fn untake(cache: &PageFragCache, page: Page, bytes: usize) {
    if bytes == 0 {
        return;
    }
    let offset = usize::try_from(cache.shelf().offset.get()).unwrap_or(0) - bytes;
    cache.shelf().offset.set(offset as u64);
    // SAFETY: an offset in the page.
    let start = unsafe { page.base().add(offset) };
    let init = cache.pool().init();
    if init.on_alloc || init.on_free {
        // As in `begin`: what was freed is wiped before it is seen again.
        // SAFETY: the bytes were carved last and are nobody's now.
        unsafe { poison::wipe(start, bytes) };
    }
    poison::hide(start, bytes);
}
