//! What a queue counts, with the kernel's names and definitions.
//!
//! The first group are `qstats` of `Documentation/netlink/specs/netdev.yaml`, so
//! that a number here means what it means in `ethtool` and `netdev` dumps. The
//! second group the kernel has no name for. A failure is one of these numbers,
//! never a line in a log.

/// Counters of one receive queue. A snapshot: plain numbers.
///
/// A packet that the kernel gave to a ring is, once the ring is closed, in exactly
/// one of `rx_packets` (handed out, perhaps truncated), `rx_alloc_fail` (no memory
/// to store it) and `rx_hw_drops` (not handed out before the close); one that the
/// kernel could not queue is in `rx_hw_drop_overruns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Wire packets received and passed on; segments of a super-buffer count
    /// one each.
    pub rx_packets: u64,
    /// Payload bytes of `rx_packets` as stored.
    pub rx_bytes: u64,
    /// Times an skb or buffer allocation failed on the receive path. On a ring:
    /// packets that were read and thrown away because the pool was at its limit.
    pub rx_alloc_fail: u64,
    /// Packets that reached the queue and never left it, for whatever reason;
    /// `rx_hw_drop_overruns` is part of it.
    pub rx_hw_drops: u64,
    /// Packets dropped for a transient lack of room: on a ring, what the kernel
    /// dropped because the socket's receive buffer was full (`SO_RXQ_OVFL`). The
    /// kernel counts a super-buffer once, however many packets went into it.
    pub rx_hw_drop_overruns: u64,
    /// Super-buffers that the kernel coalesced from several packets (`UDP_GRO`).
    pub rx_hw_gro_packets: u64,
    /// Bytes of `rx_hw_gro_packets`.
    pub rx_hw_gro_bytes: u64,
    /// Wire packets that went into `rx_hw_gro_packets`.
    pub rx_hw_gro_wire_packets: u64,
    /// Bytes of `rx_hw_gro_wire_packets`, payload only: the same bytes.
    pub rx_hw_gro_wire_bytes: u64,

    /// Packets of `rx_packets` that were longer than their buffer.
    pub truncated: u64,
    /// Receive calls that handed out at least one packet.
    pub batches: u64,
    /// The most packets one receive call handed out.
    pub largest_batch: u64,
    /// Times the ring was waited for.
    pub waits: u64,
}

impl QueueStats {
    /// Counts a super-buffer of so many packets.
    pub(super) fn count_super_buffer(&mut self, packets: u64, bytes: u64) {
        self.rx_hw_gro_packets += 1;
        self.rx_hw_gro_bytes += bytes;
        self.rx_hw_gro_wire_packets += packets;
        self.rx_hw_gro_wire_bytes += bytes;
    }

    /// Counts a receive call that handed out `packets`.
    pub(super) fn count_batch(&mut self, packets: u64) {
        self.batches += u64::from(packets > 0);
        self.largest_batch = self.largest_batch.max(packets);
    }
}

/// Counters of one transmit queue. A snapshot: plain numbers.
///
/// A datagram that was pushed is queued, or it is in exactly one of `tx_packets`
/// (the kernel has taken it) and `tx_hw_drops` (it was not sent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TxStats {
    /// Wire packets that the kernel has taken; datagrams that were sent as one
    /// message count one each.
    pub tx_packets: u64,
    /// Payload bytes of `tx_packets`.
    pub tx_bytes: u64,
    /// Datagrams that left the queue unsent, for whatever reason: given up when
    /// the ring was closed, and those of `tx_hw_drop_errors`.
    pub tx_hw_drops: u64,
    /// Datagrams that the kernel refuses, such as too long ones.
    pub tx_hw_drop_errors: u64,
    /// Messages that the kernel was given to cut into datagrams (`UDP_SEGMENT`).
    pub tx_hw_gso_packets: u64,
    /// Bytes of `tx_hw_gso_packets`.
    pub tx_hw_gso_bytes: u64,
    /// Wire packets that `tx_hw_gso_packets` were cut into.
    pub tx_hw_gso_wire_packets: u64,
    /// Bytes of `tx_hw_gso_wire_packets`, payload only: the same bytes.
    pub tx_hw_gso_wire_bytes: u64,
    /// Times the queue stopped because the socket had no room.
    pub tx_stop: u64,
    /// Times it went on after that.
    pub tx_wake: u64,

    /// Messages to be cut that the kernel refused; their datagrams were tried
    /// one by one.
    pub gso_refused: u64,
    /// System calls that took at least one packet.
    pub batches: u64,
    /// The most packets one system call took.
    pub largest_batch: u64,
    /// Times the ring was waited for.
    pub waits: u64,
}

impl TxStats {
    /// Counts `datagrams` that went as one message.
    pub(super) fn count_run(&mut self, datagrams: u64, bytes: u64) {
        self.tx_packets += datagrams;
        self.tx_bytes += bytes;
        if datagrams > 1 {
            self.tx_hw_gso_packets += 1;
            self.tx_hw_gso_bytes += bytes;
            self.tx_hw_gso_wire_packets += datagrams;
            self.tx_hw_gso_wire_bytes += bytes;
        }
    }

    /// Counts a system call that took `packets`.
    pub(super) fn count_batch(&mut self, packets: u64) {
        self.batches += u64::from(packets > 0);
        self.largest_batch = self.largest_batch.max(packets);
    }
}

/// A cumulative 32-bit drop count of the kernel (`sk_drops`), widened.
///
/// The same count arrives by two roads: with packets, where it says how many
/// were dropped before this one was queued, and by asking the socket. So a
/// value may be older than the last one seen, and is then ignored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DropCount {
    last: u32,
    total: u64,
}

impl DropCount {
    /// Counts from `baseline` on: what was dropped before is not ours.
    pub(super) fn from_baseline(baseline: u32) -> Self {
        Self {
            last: baseline,
            total: 0,
        }
    }

    /// The count with `now` taken into account.
    pub(super) fn seen(self, now: u32) -> Self {
        let ahead = now.wrapping_sub(self.last);
        // More than half the circle ahead is behind.
        if ahead > u32::MAX / 2 {
            return self;
        }
        Self {
            last: now,
            total: self.total + u64::from(ahead),
        }
    }

    /// Drops since the baseline.
    pub(super) fn total(self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::DropCount;

    #[test]
    fn drops_are_counted_from_the_baseline_once() {
        let count = DropCount::from_baseline(5).seen(5).seen(9).seen(9);
        assert_eq!(count.total(), 4);
    }

    #[test]
    fn a_count_that_is_older_than_the_last_one_changes_nothing() {
        let count = DropCount::from_baseline(0).seen(10).seen(7).seen(11);
        assert_eq!(count.total(), 11);
    }

    #[test]
    fn a_count_that_wraps_goes_on() {
        let count = DropCount::from_baseline(u32::MAX - 1).seen(3);
        assert_eq!(count.total(), 5);
    }
}
