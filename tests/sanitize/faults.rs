//! Faults that a sanitizer must find: `faults address|thread` lists them, `faults NAME`
//! commits one, `faults sound-address|sound-thread` does the same things right.
//!
//! A sanitizer that was not built in finds nothing and looks like success, and one that
//! is not told of pages sees a region as one piece of memory. So before `make sanitize`
//! believes a quiet run it has each of these committed, and each must be found
//! (`tests/sanitize/planted.py`). Without a sanitizer they do nothing that is noticed.

use std::process::ExitCode;

mod address;
mod thread;

/// A fault by its name.
type Fault = (&'static str, fn());

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let all = || address::FAULTS.iter().chain(thread::FAULTS);
    match name.as_str() {
        "address" => list(address::FAULTS),
        "thread" => list(thread::FAULTS),
        "sound-address" => address::sound(),
        "sound-thread" => thread::sound(),
        _ => {
            let Some((_, commit)) = all().find(|fault| fault.0 == name) else {
                eprintln!("faults: there is none called {name:?}");
                return ExitCode::from(2);
            };
            commit();
        }
    }
    ExitCode::SUCCESS
}

fn list(faults: &[Fault]) {
    for (name, _) in faults {
        println!("{name}");
    }
}
