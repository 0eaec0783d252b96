//! What the benches share: the workloads, the arms of a comparison, and the
//! plain forms of the rivals.
//!
//! Every arm sees the same requests in the same order: they come from one
//! table with a fixed seed.

pub mod apart;
pub mod arms;
pub mod capture;
pub mod course;
pub mod elsewhere;
pub mod heap;
pub mod kernel;
pub mod look;
pub mod machine;
pub mod mixes;
pub mod probes;
pub mod record;
pub mod script;
pub mod spsc;
pub mod stand;
pub mod touch;
pub mod workload;
