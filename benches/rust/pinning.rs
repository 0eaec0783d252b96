//! How much memory do a few long-lived buffers keep from being used again?
//!
//! R6: held / live while each arm goes through the mixes of `mixes.rs`, what is
//! resident, how many regions are mapped and what an operation costs, over time.
//! A plain program: the answer is a table and a course, not a time.
//!
//! `PCAP=file` adds the packets of a capture.

use std::path::Path;

use pagefrag_benches::arms::{self, Arm, Visit};
use pagefrag_benches::capture::CAPTURE;
use pagefrag_benches::course::{self, Summary};
use pagefrag_benches::machine;
use pagefrag_benches::mixes;
use pagefrag_benches::record::{self, Row};
use pagefrag_benches::script::Script;

fn main() {
    println!("{}", machine::describe());
    arms::tell_who_is_missing();
    machine::pin_to(0);
    let mut table = Table::default();
    for script in mixes::every().chain(captured()) {
        println!("\n{}: {}", script.name, script.told);
        println!(
            "  {:<26} {:>7} {:>7} {:>7} {:>13} {:>6} {:>6}",
            "held / live:", "mean", "most", "peaks", "resident/live", "MiB", "ns"
        );
        table.script = Some(script);
        arms::keepers(&mut table);
    }
    record::keep("pinning", table.rows);
}

/// The capture that was named, if one was and it can be read.
fn captured() -> Option<Script> {
    let Some(path) = std::env::var_os(CAPTURE).filter(|path| !path.is_empty()) else {
        println!("left out: packets of a capture ({CAPTURE} names none)");
        return None;
    };
    // Cargo starts a bench in its package's folder.
    let path = Path::new("..").join(path);
    match mixes::captured(&path) {
        Ok(script) => Some(script),
        Err(error) => {
            println!("left out: packets of {}: {error}", path.display());
            None
        }
    }
}

#[derive(Default)]
struct Table {
    script: Option<Script>,
    rows: Vec<Row>,
}

impl Visit for Table {
    fn arm<A: Arm>(&mut self) {
        let Some(script) = &self.script else { return };
        let Some(course) = course::run::<A>(script) else {
            println!("  {:<26} no buffers of {} B", A::NAME, script.most);
            return;
        };
        let Summary {
            mean,
            most,
            peaks,
            resident,
            nanoseconds,
        } = course.summary();
        let mib = course.0.last().map_or(0, |look| look.resident) >> 20;
        println!(
            "  {:<26} {mean:>7.2} {most:>7.2} {peaks:>7.2} {resident:>13.2} {mib:>6} \
             {nanoseconds:>6.1}",
            A::NAME
        );
        self.rows
            .push(course.row_over_time("pinning", A::NAME, script));
    }
}
