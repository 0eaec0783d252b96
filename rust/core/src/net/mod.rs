//! What the kernel's network front ends give a driver, over page fragments.
//!
//! From the ground up: `headroom` holds the sizing rules of an skb head, `shell`
//! the struct behind an skb and the array in which a thread keeps idle ones,
//! `skb` and `coalesce` the packet buffer itself, `netdev` and `napi` the two
//! contexts that allocate; `queue` counts, `addr` says who sent, `facts` what is
//! known of packets, `socket` is the door to the operating system, `ring` fills a
//! `batch` through it, and `tx` sends a `payload`.

mod addr;
mod batch;
mod coalesce;
mod facts;
mod headroom;
mod napi;
mod netdev;
mod payload;
mod queue;
mod ring;
mod shell;
mod skb;
mod socket;
mod tx;

pub use addr::Source;
pub use batch::{RxBatch, RxFrags, RxPacket, RxPackets};
pub use facts::{RxFact, RxFactIter, RxFacts, RxOrigin};
pub use headroom::{
    MAX_SKB_FRAGS, NET_IP_ALIGN, NET_SKB_PAD, SK_BUFF, SKB_SHARED_INFO, skb_data_align,
    skb_head_align, skb_truesize, skb_with_overhead,
};
pub use napi::{ContextError, NapiCache, NapiContext};
pub use netdev::{NetdevCache, netdev_alloc_frag, netdev_alloc_skb};
pub use payload::Payload;
pub use queue::{QueueStats, TxStats};
pub use ring::{RxOptions, RxRing};
pub use skb::SkBuff;
pub use socket::{Readiness, wait_readable, wait_writable};
pub use tx::{Completion, Flushed, TxOptions, TxRing};
