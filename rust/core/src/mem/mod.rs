//! The allocator, floor by floor: local, cache, then pool and frag side by
//! side, depot, shelf and region, here, page, header, lineage, lines, os and poison.

mod batch;
#[cfg(feature = "bytes")]
mod buf;
mod cache;
mod depot;
mod frag;
mod header;
mod here;
#[cfg(not(loom))]
mod lineage;
mod lines;
mod local;
pub(crate) mod os;
mod page;
mod poison;
mod pool;
mod raw;
mod region;
mod shelf;

pub use batch::drop_many;
pub use cache::{Granule, PageFragCache, Reservation};
pub use frag::{Frag, FragMut};
#[cfg(not(loom))]
pub use lineage::process_number;
pub use local::{LocalCache, WeakLocalCache, thread_exit};
pub use pool::{HugePages, PagePool, PoolBuilder, os_page_size};
pub use raw::RawFrag;
pub use region::RegionWatch;
