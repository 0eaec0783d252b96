//! How many messages to ask for, when one may be a packet or sixty-four.
//!
//! A wrong guess costs no packet: asking for too few costs a system call, asking
//! for too many touches more of the landing than the ring keeps, or brings more
//! packets than one call may hand out, so that they wait for the next.

/// What the messages of late were like: the largest at once, smaller ones slowly.
#[derive(Debug)]
pub(super) struct Guess {
    /// OS pages of the landing that a message touches.
    pages: usize,
    /// Packets of a message.
    packets: usize,
    /// Bytes of the largest message of the last call, and of its segments.
    largest: (usize, usize),
}

impl Default for Guess {
    /// Packets that come alone and fit their buffer.
    fn default() -> Self {
        Self {
            pages: 0,
            packets: 1,
            largest: (0, 0),
        }
    }
}

impl Guess {
    /// Messages that touch at most `room` OS pages together and hold at most `max`
    /// packets, if they are as guessed: at least one, at most `slots` or `max`.
    pub(super) fn messages(&self, room: usize, max: usize, slots: usize) -> usize {
        let that_fit = room.checked_div(self.pages).unwrap_or(slots);
        that_fit
            .min(max / self.packets)
            .clamp(1, slots.min(max).max(1))
    }

    /// Bytes of the largest message of the last call that brought some, and of its
    /// segments.
    pub(super) fn largest(&self) -> (usize, usize) {
        self.largest
    }

    /// Learns from the largest message of a call.
    pub(super) fn learn(&mut self, pages: usize, packets: usize, largest: (usize, usize)) {
        self.pages = towards(self.pages, pages);
        self.packets = towards(self.packets, packets.max(1));
        self.largest = largest;
    }
}

/// Grows at once, shrinks by an eighth of the way, and arrives.
fn towards(old: usize, seen: usize) -> usize {
    if seen >= old {
        seen
    } else {
        old - (old - seen).div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of four super-buffers, with OS pages of 4 KiB.
    const ROOM: usize = 64;

    #[test]
    fn lone_packets_come_as_many_as_there_are_slots() {
        let mut guess = Guess::default();
        assert_eq!(guess.messages(ROOM, 64, 64), 64);
        assert_eq!(guess.messages(ROOM, 64, 16), 16);
        assert_eq!(guess.messages(ROOM, 3, 64), 3);
        assert_eq!(guess.messages(ROOM, usize::MAX, 1024), 1024);
        for _ in 0..100 {
            guess.learn(0, 1, (0, 0));
        }
        assert_eq!(guess.messages(ROOM, 64, 64), 64);
    }

    #[test]
    fn a_full_super_buffer_is_asked_for_alone_from_the_next_call_on() {
        let mut guess = Guess::default();
        guess.learn(16, 54, (0, 0));
        assert_eq!(guess.messages(ROOM, 64, 64), 1);
        assert_eq!(guess.messages(ROOM, 1, 1), 1);
        assert_eq!(guess.messages(ROOM, 4096, 1024), 4, "more have no room");
    }

    #[test]
    fn small_super_buffers_come_as_many_as_fit_room_and_max() {
        let mut guess = Guess::default();
        guess.learn(8, 5, (0, 0));
        assert_eq!(guess.messages(ROOM, 64, 64), 8);
        assert_eq!(guess.messages(ROOM, 20, 64), 4);
        assert_eq!(guess.messages(ROOM, 20, 2), 2);
    }

    #[test]
    fn one_lone_packet_changes_little_and_a_stream_of_them_all() {
        let mut guess = Guess::default();
        guess.learn(16, 54, (0, 0));
        guess.learn(0, 1, (0, 0));
        assert_eq!(guess.messages(ROOM, 64, 64), 1);
        let calls = (0..100).find(|_| {
            guess.learn(0, 1, (0, 0));
            guess.messages(ROOM, 64, 64) == 64
        });
        assert!((10..40).contains(&calls.unwrap()), "{calls:?}");
    }

    #[test]
    fn no_numbers_break_it() {
        let mut guess = Guess::default();
        for seen in [0, 1, usize::MAX, 7, 0] {
            guess.learn(seen, seen, (0, 0));
            for (room, max, slots) in [(0, 1, 1), (usize::MAX, usize::MAX, 1024), (1, 7, 3)] {
                let messages = guess.messages(room, max, slots);
                assert!(messages >= 1 && messages <= slots.min(max));
            }
        }
    }
}
