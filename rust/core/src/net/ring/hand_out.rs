//! From where messages landed into a batch: looked over, begun one by one, kept as
//! they lie or copied out.

use std::os::fd::AsFd;

use super::message::{Message, gather, packets};
use super::{Footing, RxRing};
use crate::mem::PageFragCache;
use crate::net::batch::RxBatch;
use crate::net::facts::RxOrigin;

impl<S: AsFd> RxRing<S> {
    /// Learns from the messages that came, and returns how many packets they are.
    pub(super) fn look_over(&mut self) -> usize {
        let Some(landing) = &mut self.landing else {
            return self.came;
        };
        let before = match self.footing {
            Footing::Buffers => self.options.buf_size,
            Footing::Berths => self.berths.room(),
            Footing::Nothing => 0,
        };
        let (mut sum, mut most, mut largest) = (0, 0, (0, 0));
        for index in 0..self.came {
            let wire_len = self.messages.wire_len(index);
            landing.touch(index, landing.pages_for(wire_len.saturating_sub(before)));
            let segment = self.messages.notes(index).segment;
            let packets = packets(wire_len, segment);
            most = most.max(packets);
            sum += packets;
            largest = largest.max((wire_len, segment.unwrap_or(0)));
        }
        if self.came > 0 {
            let behind = largest.0.saturating_sub(self.options.buf_size);
            self.guess.learn(landing.pages_for(behind), most, largest);
        }
        sum
    }

    /// Hands out what has come, the oldest first: nothing overtakes what waits.
    pub(super) fn hand_out(&mut self, cache: &mut PageFragCache, max: usize, batch: &mut RxBatch) {
        loop {
            if self.footing == Footing::Buffers && self.begun.is_none() {
                self.hand_out_lone(cache, max, batch);
            }
            if batch.len() == max {
                break;
            }
            let Some(message) = self.begun.take().or_else(|| self.begin_next()) else {
                break;
            };
            self.tell_origin(self.next - 1, message.is_joined(), batch);
            if !self.hand_out_whole(&message, max, batch) {
                self.hand_out_copies(cache, message, max, batch);
            }
        }
        if !self.has_pending() {
            self.settle(cache);
        }
    }

    /// Nothing waits any more: what was lent to messages is the ring's again, and
    /// what is not going to be used soon goes back.
    fn settle(&mut self, cache: &mut PageFragCache) {
        self.buffers.settle();
        let Some(landing) = &mut self.landing else {
            return;
        };
        landing.settle(self.emptied);
        let (largest, step) = self.guess.largest();
        let keeps = self.expects_to_keep(largest, step);
        // Super-buffers need few buffers for many packets, and those that stay none.
        let enough = self.messages_for(self.messages.slots());
        let buffers = if keeps { 0 } else { enough };
        let berths = match (keeps, self.emptied) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => enough,
        };
        let less = self.berths.settle(berths);
        if self.buffers.len() > 2 * buffers {
            self.buffers.give_back(buffers);
            cache.trim();
        } else if less && !keeps {
            cache.trim();
        }
    }

    fn begin_next(&mut self) -> Option<Message> {
        if self.next == self.came {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let notes = self.messages.notes(index);
        self.drops = notes.drops.map_or(self.drops, |now| self.drops.seen(now));
        let message = Message::new(self.messages.wire_len(index), notes.segment);
        if message.is_joined() {
            self.stats
                .count_super_buffer(message.left() as u64, message.wire_len as u64);
        }
        Some(message)
    }

    /// Notes where the packets of a message came from.
    fn tell_origin(&self, index: usize, joined: bool, batch: &mut RxBatch) {
        let notes = self.messages.notes(index);
        batch.facts_mut().begin(RxOrigin {
            name: self.messages.name(index),
            timestamp: notes.timestamp,
            interface: notes.interface,
            segment: joined,
        });
    }

    /// Packets that came alone, each in its buffer, up to the next message that did not.
    fn hand_out_lone(&mut self, cache: &mut PageFragCache, max: usize, batch: &mut RxBatch) {
        let end = self.came.min(self.next.saturating_add(max - batch.len()));
        let mut stays = false;
        loop {
            let long = self.hand_out_long(end, stays, batch);
            let (short, refused) = self.hand_out_short(cache, end, batch);
            if long + short == 0 && !refused {
                return;
            }
            // Without memory for a copy a packet stays in its buffer: that needs none.
            stays = refused;
        }
    }

    /// Packets above copybreak, up to the next that is not one: they stay in their
    /// buffers, which are not cut. Most go back as they are, and their pages with
    /// them. The first one stays in any case if it must.
    fn hand_out_long(&mut self, end: usize, mut must: bool, batch: &mut RxBatch) -> usize {
        let from = self.next;
        let mut slots = self.buffers.slots();
        let mut next = from;
        while next < end
            && let Some((wire_len, len)) = self.lone(next)
            && (len > self.options.copybreak || must)
            && let Some(slot) = slots.next()
        {
            must = false;
            self.tell_lone(next, batch);
            batch.note(slot, len, wire_len, self.page_size);
            next += 1;
        }
        drop(slots);
        self.pass(next);
        let mut left = next - from;
        while left > 0
            && let Some((run, count)) = self.buffers.take(left)
        {
            batch.push_apart(run, self.buffers.step(), count);
            left -= count;
        }
        next - from
    }

    /// Packets up to copybreak, up to the next that is not one, each copied into a
    /// fragment of its size; their buffers are used again. Tells how many they
    /// were, and whether there was no memory for the next.
    fn hand_out_short(
        &mut self,
        cache: &mut PageFragCache,
        end: usize,
        batch: &mut RxBatch,
    ) -> (usize, bool) {
        let from = self.next;
        let mut slots = self.buffers.slots();
        let (mut next, mut refused) = (from, false);
        while next < end
            && let Some((wire_len, len)) = self.lone(next)
            && len <= self.options.copybreak
            && let Some(slot) = slots.next()
        {
            let Ok(mut small) = cache.alloc(len.max(1)) else {
                refused = true;
                break;
            };
            small[..len].copy_from_slice(&slot[..len]);
            self.tell_lone(next, batch);
            batch.push(small, len, wire_len, self.page_size);
            next += 1;
        }
        drop(slots);
        self.pass(next);
        self.buffers.reuse(next - from);
        (next - from, refused)
    }

    /// The bytes of a message as it was sent, and as its buffer has them; `None` if it
    /// was coalesced from several.
    #[inline]
    fn lone(&self, index: usize) -> Option<(usize, usize)> {
        let wire_len = self.messages.wire_len(index);
        let alone = packets(wire_len, self.messages.notes(index).segment) == 1;
        alone.then(|| (wire_len, wire_len.min(self.buffers.size())))
    }

    /// Notes where a packet that came alone came from.
    #[inline]
    fn tell_lone(&self, index: usize, batch: &mut RxBatch) {
        if batch.is_empty() || !self.messages.is_like_the_one_before(index) {
            self.tell_origin(index, false, batch);
        }
    }

    /// Messages up to there have been begun.
    fn pass(&mut self, next: usize) {
        for index in self.next..next {
            if let Some(now) = self.messages.notes(index).drops {
                self.drops = self.drops.seen(now);
            }
        }
        self.next = next;
    }

    /// All packets of a super-buffer that is as expected, where they landed. False if
    /// it is not, or is too many: then nothing has happened.
    fn hand_out_whole(&mut self, message: &Message, max: usize, batch: &mut RxBatch) -> bool {
        let (step, page_size) = (message.step(), self.page_size);
        let fits = message.is_whole() && message.left() <= max - batch.len();
        if self.footing != Footing::Berths || !fits || step > self.options.buf_size {
            return false;
        }
        let Some(parts) = self.berths.keep(message.wire_len, step, page_size) else {
            return false;
        };
        for (part, len) in parts {
            batch.push_landed(part, len, step, page_size);
        }
        true
    }

    /// The packets of a message, each in a fragment of its own; what is more than
    /// `max` waits. Without memory for a copy a packet is lost, unless it came alone
    /// where a super-buffer would have stayed: it needs no copy.
    fn hand_out_copies(
        &mut self,
        cache: &mut PageFragCache,
        mut message: Message,
        max: usize,
        batch: &mut RxBatch,
    ) {
        let landing = self.landing.as_ref();
        // Without one, somebody else has the kernel coalesce: what a buffer has is there.
        let found_room = self.footing != Footing::Nothing || landing.is_some();
        let slot = landing.map_or(&[][..], |landing| landing.slot(self.next - 1));
        let parts = match self.footing {
            Footing::Buffers => [self.buffers.slots().next().unwrap_or(&[]), slot, &[]],
            Footing::Berths => {
                let [first, second] = self.berths.parts();
                [first, second, slot]
            }
            Footing::Nothing => [slot, &[], &[]],
        };
        let stays = self.footing == Footing::Berths && !message.is_joined();
        while batch.len() < max
            && let Some(part) = message.next_part()
        {
            // As far as a buffer would have had room for it.
            let len = part.len.min(self.options.buf_size);
            if found_room && let Ok(mut frag) = cache.alloc(len.max(1)) {
                let found = gather(&mut frag[..len], parts, part.at);
                batch.push(frag, found, part.len, self.page_size);
            } else if stays && self.berths.could_keep_lone(len) {
                if let Some(frag) = self.berths.keep_lone(len) {
                    batch.push(frag, len, part.len, self.page_size);
                }
                return;
            } else {
                self.stats.rx_alloc_fail += 1;
                batch.discard(1);
            }
        }
        if message.left() > 0 {
            self.begun = Some(message);
        } else {
            match self.footing {
                Footing::Buffers => self.buffers.reuse(1),
                Footing::Berths => self.berths.leave(),
                Footing::Nothing => {}
            }
        }
    }

    pub(super) fn count(&mut self, batch: &RxBatch) {
        let (bytes, truncated) = batch.facts().sums();
        self.stats.rx_packets += batch.len() as u64;
        self.stats.rx_bytes += bytes;
        self.stats.truncated += truncated;
        self.stats.count_batch(batch.len() as u64);
    }
}
