//! Runs a trace: one executor for its log, or two side by side.

use std::fmt::Write as _;

use super::said::Said;
use super::{Config, Step, decode};

/// What is told behind the last step: the threads end, everything goes, the books; and after
/// the faults, if there were any, the pool works again.
const ENDINGS: [&str; 7] = ["end 0", "end 1", "end 2", "end", "end", "after", "after"];

/// What runs a trace.
pub(crate) trait Executor {
    fn new(config: Config) -> Self;
    fn step(&mut self, step: Step) -> Said;
    /// Ends all threads and lets everything go; after faults looks whether the pool still works.
    fn end(&mut self) -> Vec<Said>;
}

/// Runs `trace` and returns its log, and the executor.
pub(crate) fn log<E: Executor>(trace: &[u8]) -> (String, E) {
    let (config, steps) = decode(trace);
    let mut executor = E::new(config);
    let mut log = config.to_string();
    for (number, step) in steps.enumerate() {
        let said = executor.step(step);
        let _ = writeln!(log, "{number} {}{} {said}", step.op.word(), step.thread);
    }
    for (name, said) in ENDINGS.iter().zip(executor.end()) {
        let _ = writeln!(log, "{name} {said}");
    }
    (log, executor)
}

/// What a run in two executors came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Steps of the trace.
    pub steps: u64,
    /// Those that did something: neither refused nor without anything to do it to.
    pub done: u64,
    /// Did the two say the same of each step, and of the end?
    pub same: bool,
}

/// Runs `trace` in two executors side by side and compares what they say, step by step and
/// without a word of text. At the first difference it stops: the logs tell the rest.
pub(crate) fn side_by_side<A: Executor, B: Executor>(trace: &[u8]) -> Tally {
    let (config, steps) = decode(trace);
    let (mut one, mut other) = (A::new(config), B::new(config));
    let mut tally = Tally::default();
    for step in steps {
        let said = one.step(step);
        tally.steps += 1;
        tally.done += u64::from(said.is_done());
        if said != other.step(step) {
            return tally;
        }
    }
    tally.same = one.end() == other.end();
    tally
}
