//! `trace log FILE...`: runs traces and prints what happened.
//! `trace digests SEED COUNT STEPS`: a line for each of COUNT random traces.

use std::io::{self, Write};
use std::process::ExitCode;

use pagefrag_tests::traces::{digest, log, random};

fn number(word: Option<&String>) -> Option<u64> {
    word?.parse().ok()
}

fn run(words: &[String], out: &mut impl Write) -> io::Result<bool> {
    match words.split_first() {
        Some((command, files)) if command == "log" && !files.is_empty() => {
            for file in files {
                out.write_all(log(&std::fs::read(file)?).as_bytes())?;
            }
        }
        Some((command, rest)) if command == "digests" => {
            let [Some(seed), Some(count), Some(steps)] = [0, 1, 2].map(|at| number(rest.get(at)))
            else {
                return Ok(false);
            };
            for number in 0..count {
                let trace = random(seed + number, usize::try_from(steps).unwrap_or(0));
                writeln!(
                    out,
                    "{} {:016x}",
                    seed + number,
                    digest(log(&trace).as_bytes())
                )?;
            }
        }
        _ => return Ok(false),
    }
    out.flush()?;
    Ok(true)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("trace: log FILE... | digests SEED COUNT STEPS");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("trace: {error}");
            ExitCode::FAILURE
        }
    }
}
