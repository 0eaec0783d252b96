//! Traces: programs that every executor reads alike (README.md has the format).

mod engine;
mod faults;
mod model;
mod programs;
mod run;
mod said;
mod threads;

use std::fmt;

use crate::fill;
pub use programs::{random, swarm};
pub use run::Tally;

/// The page sizes that a trace may ask for.
const PAGES: [usize; 4] = [4 << 10, 8 << 10, 32 << 10, 128 << 10];
/// Bytes of a step.
const STEP: usize = 8;
/// Steps that most traces have not more of: room for what each makes.
pub(crate) const STEPS: usize = 40;
/// Threads of a program.
pub(crate) const THREADS: usize = 3;

/// What the head of a trace says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) page: usize,
    pub(crate) regions: usize,
    pub(crate) init_on_alloc: bool,
    pub(crate) init_on_free: bool,
    pub(crate) faults: Faults,
}

/// Which of the pool's calls to the system fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Faults(u8);

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Mapping a region.
    Map,
    /// Unmapping one.
    Unmap,
    /// Asking for huge pages.
    Advise,
    /// Unmapping what was mapped beside a region to align it.
    Ends,
}

impl Faults {
    pub(crate) fn what(self) -> Fault {
        match self.0 & 7 {
            1 => Fault::Map,
            2 => Fault::Unmap,
            3 => Fault::Advise,
            4 => Fault::Ends,
            _ => Fault::None,
        }
    }

    /// Does call `number` fail?
    pub(crate) fn hits(self, number: usize) -> bool {
        let first = usize::from(self.0 >> 4);
        number == first || (number > first && self.0 & 8 != 0)
    }

    /// As the preloaded library has it.
    pub(crate) fn plan(self) -> u32 {
        if self.what() == Fault::None {
            0
        } else {
            self.0.into()
        }
    }
}

/// The first line of each log.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "page={} regions={} alloc={} free={} faults={}",
            self.page,
            self.regions,
            u8::from(self.init_on_alloc),
            u8::from(self.init_on_free),
            self.faults.plan()
        )
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) thread: usize,
    pub(crate) handle: usize,
    pub(crate) arg: usize,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Alloc,
    BuildSkb,
    Linearize,
    Coalesce,
    AllocBytes,
    AllocMany,
    NetdevFrag,
    NetdevSkb,
    Poll,
    NapiFrag,
    NapiSkb,
    Consume,
    Prepare,
    Commit,
    Release,
    Write,
    Read,
    Slice,
    Readonly,
    Trim,
    Put,
    Push,
    Pull,
    Reserve,
    AddFrag,
    Clone,
    View,
    Unview,
    Exit,
    Drain,
    TrimPool,
    Audit,
    Cycle,
}

/// The operations by number.
const OPS: [Op; 32] = [
    Op::Alloc,
    Op::BuildSkb,
    Op::AllocBytes,
    Op::AllocMany,
    Op::NetdevFrag,
    Op::NetdevSkb,
    Op::Poll,
    Op::NapiFrag,
    Op::NapiSkb,
    Op::Consume,
    Op::Prepare,
    Op::Commit,
    Op::Release,
    Op::Release,
    Op::Write,
    Op::Read,
    Op::Slice,
    Op::Readonly,
    Op::Trim,
    Op::Put,
    Op::Push,
    Op::Pull,
    Op::Reserve,
    Op::AddFrag,
    Op::Clone,
    Op::View,
    Op::Unview,
    Op::Exit,
    Op::Drain,
    Op::TrimPool,
    Op::Audit,
    Op::Cycle,
];

/// What becomes of whole packets has one number: the argument chooses.
const PACKET: [Op; 3] = [Op::BuildSkb, Op::Linearize, Op::Coalesce];

impl Op {
    /// The operation of a number and an argument.
    fn of(number: u8, arg: usize) -> Self {
        match OPS[usize::from(number % 32)] {
            Op::BuildSkb => PACKET[arg % PACKET.len()],
            op => op,
        }
    }

    /// Its word in the log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Op::Alloc => "alloc",
            Op::BuildSkb => "build_skb",
            Op::Linearize => "linearize",
            Op::Coalesce => "coalesce",
            Op::AllocBytes => "alloc_bytes",
            Op::AllocMany => "alloc_many",
            Op::NetdevFrag => "netdev_frag",
            Op::NetdevSkb => "netdev_skb",
            Op::Poll => "poll",
            Op::NapiFrag => "napi_frag",
            Op::NapiSkb => "napi_skb",
            Op::Consume => "consume",
            Op::Prepare => "prepare",
            Op::Commit => "commit",
            Op::Release => "release",
            Op::Write => "write",
            Op::Read => "read",
            Op::Slice => "slice",
            Op::Readonly => "readonly",
            Op::Trim => "trim",
            Op::Put => "put",
            Op::Push => "push",
            Op::Pull => "pull",
            Op::Reserve => "reserve",
            Op::AddFrag => "add_frag",
            Op::Clone => "clone",
            Op::View => "view",
            Op::Unview => "unview",
            Op::Exit => "exit",
            Op::Drain => "drain",
            Op::TrimPool => "trim_pool",
            Op::Audit => "audit",
            Op::Cycle => "cycle",
        }
    }
}

/// What a trace says: its head, and its steps.
pub(crate) fn decode(trace: &[u8]) -> (Config, impl ExactSizeIterator<Item = Step>) {
    let head = |at: usize| trace.get(at).copied().unwrap_or(0);
    let config = Config {
        page: PAGES[usize::from(head(0) % 4)],
        regions: usize::from(head(1) % 4),
        init_on_alloc: head(2) & 1 != 0,
        init_on_free: head(2) & 2 != 0,
        faults: Faults(head(3)),
    };
    let steps = trace.get(4..).unwrap_or_default().as_chunks::<STEP>().0;
    (config, steps.iter().copied().map(step))
}

fn step(bytes: [u8; STEP]) -> Step {
    let [op, thread, handle @ .., a, b, c, d] = bytes;
    let arg = u32::from_le_bytes([a, b, c, d]) as usize;
    Step {
        op: Op::of(op, arg),
        thread: usize::from(thread) % THREADS,
        handle: usize::from(u16::from_le_bytes(handle)),
        arg,
    }
}

/// The size that an argument asks for.
pub(crate) fn size(arg: usize, page: usize) -> usize {
    let n = arg >> 8;
    let edges = [
        0,
        1,
        63,
        64,
        65,
        1500,
        2048,
        page - 1,
        page,
        page + 1,
        (1 << 31) - 1,
    ];
    match arg % 8 {
        0..=3 => 1 + n % 2048,
        4 => 64 * (1 + n % 32),
        5 => 1 + n % (page + 8),
        6 => edges[n % edges.len()],
        _ => 1 + n % 64,
    }
}

/// The alignment that an argument asks for.
pub(crate) fn align(arg: usize) -> usize {
    if arg & 0x80 != 0 {
        1 << ((arg >> 3) % 16)
    } else {
        1
    }
}

/// Fills `bytes` with the pattern of a step's argument, of which there are few enough for a
/// table of all.
pub(crate) fn write(bytes: &mut [u8], arg: usize) {
    fill(bytes, (arg % (1 << 16)) as u64);
}

/// CRC-32, as zlib has it and with it Python.
#[must_use]
pub fn digest(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// What the core does with `trace`, and how many of its calls to the system failed.
#[must_use]
pub fn log_and_faults(trace: &[u8]) -> (String, u32) {
    let (log, world) = run::log::<engine::World>(trace);
    (log, world.failed)
}

/// What the core does with `trace`.
#[must_use]
pub fn log(trace: &[u8]) -> String {
    log_and_faults(trace).0
}

/// What the model says that it should do.
#[must_use]
pub fn model_log(trace: &[u8]) -> String {
    run::log::<model::World>(trace).0
}

/// Both side by side.
#[must_use]
pub fn compare(trace: &[u8]) -> Tally {
    run::side_by_side::<engine::World, model::World>(trace)
}

#[cfg(test)]
mod tests {
    use super::{Op, align, compare, decode, digest, random, size, swarm};

    #[test]
    fn any_bytes_are_a_program() {
        let (config, steps) = decode(&[]);
        assert_eq!((config.page, config.regions, steps.len()), (4096, 0, 0));
        let (config, mut steps) = decode(&[6, 5, 2, 9, 12, 4, 1, 2, 3, 4, 5, 6, 7, 7]);
        assert_eq!((config.page, config.regions), (32 << 10, 1));
        assert!(config.init_on_free && !config.init_on_alloc);
        assert_eq!(steps.len(), 1);
        let step = steps.next().expect("there is one");
        assert_eq!((step.op, step.thread), (Op::Release, 1));
        assert_eq!((step.handle, step.arg), (0x0201, 0x0605_0403));
    }

    #[test]
    fn sizes_and_alignments_are_as_the_table_says() {
        assert_eq!(size(0, 4096), 1);
        assert_eq!(size(0xFF << 8 | 4, 4096), 64 * 32);
        assert_eq!(size(9 << 8 | 6, 4096), 4097);
        assert_eq!((align(0x78), align(0x80), align(0xF8)), (1, 1, 1 << 15));
    }

    #[test]
    fn the_digest_is_zlib_s() {
        assert_eq!(digest(b""), 0);
        assert_eq!(digest(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn core_and_model_say_the_same_step_by_step() {
        let whole = (0..20).map(|seed| random(seed, 100));
        // The fourth byte would have calls fail, for which a library is preloaded.
        let short = (0..500).map(|seed| {
            let mut trace = swarm(seed);
            trace[3] = 0;
            trace
        });
        for (number, trace) in whole.chain(short).enumerate() {
            let tally = compare(&trace);
            assert!(tally.same, "trace {number}");
            assert!(tally.done <= tally.steps);
        }
    }
}
