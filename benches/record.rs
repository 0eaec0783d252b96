//! One shape for every figure that is written down, so that the tables and
//! plots of the documentation are drawn from files and not typed.
//!
//! A record is one bench at one commit on one machine, with every time it was
//! run. `benches/python/record.py` writes and reads the same shape. It names
//! the processor and the compilers, and neither a host nor a path.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine};

/// The number of this shape; another one when a field changes its meaning.
pub const SHAPE: u32 = 1;

/// Names the folder that records are written to; without it none is written.
pub const FOLDER: &str = "PAGEFRAG_RECORD";

/// Median nanoseconds of one operation.
pub const NANOSECONDS: &str = "ns";
/// Resident bytes of what the arm holds while its buffers are live.
pub const RESIDENT: &str = "resident_bytes";
/// Bytes that were asked for and are live at that moment.
pub const LIVE: &str = "live_bytes";
/// Bytes of the pages in use, as an arm that has pages tells.
pub const HELD: &str = "held_bytes";
/// Regions that are mapped.
pub const REGIONS: &str = "regions";
/// Calls to a general allocator for each object, taking and giving back.
pub const HEAP_CALLS: &str = "heap_calls";
/// Resident bytes in huge pages (`AnonHugePages`).
pub const HUGE: &str = "anon_huge_bytes";
/// Sum of the bytes that were read back: the same in every arm of a group.
pub const CHECKSUM: &str = "checksum";

/// What is written to a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SHAPE`].
    pub shape: u32,
    /// The bench's name, which is its file's.
    pub bench: String,
    /// The commit, abbreviated.
    pub commit: String,
    /// Whether the tree held changes that are not in the commit.
    pub changed: bool,
    /// When the first run was written down, in UTC.
    pub date: String,
    /// What to type to measure it again.
    pub command: String,
    /// Where it was measured.
    pub machine: Machine,
    /// Release of the kernel.
    pub kernel: String,
    /// The compiler of our Rust.
    pub rustc: String,
    /// The interpreter, where one took part.
    pub cpython: Option<String>,
    /// The rows of each run.
    pub runs: Vec<Vec<Row>>,
}

/// What one arm showed with one parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What is compared: arms of one group did the same work.
    pub group: String,
    /// Who did it.
    pub arm: String,
    /// On what: a size, a window, a mix.
    pub parameter: String,
    /// Name and value; names of this file where they fit.
    pub figures: BTreeMap<String, Figure>,
    /// Name and values, one for each look in the order they were taken; none
    /// where time does not matter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub series: BTreeMap<String, Series>,
}

/// Figures of one kind, on one line of the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Series(pub Vec<Figure>);

impl Serialize for Series {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = serde_json::value::to_raw_value(&self.0).map_err(serde::ser::Error::custom)?;
        line.serialize(serializer)
    }
}

/// A count is written as one, everything else with six digits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Figure {
    /// Exact.
    Count(u64),
    /// Measured.
    Measure(f64),
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Measure(measure) => measure.fmt(f),
        }
    }
}

impl From<u64> for Figure {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Figure {
    fn from(measure: f64) -> Self {
        let short = format!("{measure:.5e}").parse();
        Self::Measure(short.unwrap_or(measure))
    }
}

impl Row {
    /// A row without figures.
    #[must_use]
    pub fn new(group: &str, arm: &str, parameter: &str) -> Self {
        Self {
            group: group.into(),
            arm: arm.into(),
            parameter: parameter.into(),
            figures: BTreeMap::new(),
            series: BTreeMap::new(),
        }
    }

    /// The same with one figure more.
    #[must_use]
    pub fn with(mut self, name: &str, figure: impl Into<Figure>) -> Self {
        self.figures.insert(name.into(), figure.into());
        self
    }

    /// The same with figures over time.
    #[must_use]
    pub fn with_series<F: Into<Figure>>(
        mut self,
        name: &str,
        figures: impl IntoIterator<Item = F>,
    ) -> Self {
        let figures = figures.into_iter().map(Into::into).collect();
        self.series.insert(name.into(), Series(figures));
        self
    }
}

impl Record {
    /// What is true of `bench` here and now, with one run of `rows`.
    #[must_use]
    pub fn of(bench: &str, arguments: &[String], rows: Vec<Row>) -> Self {
        let changes = said(
            "git",
            &["status", "--porcelain", "--", ".", ":!benches/record"],
        );
        let mut command = vec!["cargo bench -p pagefrag-benches --bench", bench];
        if !arguments.is_empty() {
            command.push("--");
            command.extend(arguments.iter().map(String::as_str));
        }
        Self {
            shape: SHAPE,
            bench: bench.into(),
            commit: said("git", &["rev-parse", "--short=7", "HEAD"]),
            changed: !changes.is_empty(),
            date: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            command: command.join(" "),
            machine: machine::machine(),
            kernel: machine::kernel(),
            rustc: said("rustc", &["--version"]),
            cpython: None,
            runs: vec![rows],
        }
    }

    /// The file's name: day, commit, bench.
    #[must_use]
    pub fn file_name(&self) -> String {
        let day = self.date.split('T').next().unwrap_or_default();
        format!("{day}-{}-{}.json", self.commit, self.bench)
    }

    /// Writes it into `folder`, behind the runs of the same bench at the same
    /// commit, and tells where.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written, or holds a record of this name from
    /// another machine.
    pub fn save(mut self, folder: &Path) -> io::Result<PathBuf> {
        let path = folder.join(self.file_name());
        if let Ok(text) = fs::read_to_string(&path) {
            let earlier: Self = serde_json::from_str(&text)?;
            if !earlier.may_go_on_with(&self) {
                return Err(io::Error::other(format!(
                    "{} is from another machine or compiler",
                    self.file_name()
                )));
            }
            self.date = earlier.date;
            self.changed |= earlier.changed;
            self.runs = [earlier.runs, self.runs].concat();
        }
        fs::create_dir_all(folder)?;
        fs::write(&path, serde_json::to_string_pretty(&self)? + "\n")?;
        Ok(path)
    }

    fn may_go_on_with(&self, next: &Self) -> bool {
        let place = |record: &Self| {
            (
                record.shape,
                record.machine.clone(),
                record.kernel.clone(),
                record.rustc.clone(),
                record.cpython.clone(),
            )
        };
        place(self) == place(next)
    }
}

/// Writes a run of `bench` into the folder that [`FOLDER`] names, if it does.
///
/// # Panics
///
/// When that folder cannot be written.
pub fn keep(bench: &str, rows: Vec<Row>) {
    let Some(folder) = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()) else {
        println!("not written down: {FOLDER} names no folder");
        return;
    };
    // Cargo starts a bench in its package's folder and adds `--bench`.
    let folder = Path::new("..").join(folder);
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let path = Record::of(bench, &arguments, rows)
        .save(&folder)
        .expect("the folder takes a record");
    println!("written down as {}", path.display());
}

/// The one line that `program` prints; empty when it cannot be asked.
fn said(program: &str, arguments: &[&str]) -> String {
    let told = Command::new(program)
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output();
    told.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::{HEAP_CALLS, NANOSECONDS, Record, Row};

    fn rows() -> Vec<Row> {
        let row = Row::new("pair", "pagefrag", "64");
        let row = row.with(NANOSECONDS, 1.234_567_89).with(HEAP_CALLS, 0);
        vec![row.with_series("held", [1_u64, 2, 3])]
    }

    #[test]
    fn a_second_run_goes_behind_the_first() {
        let folder = std::env::temp_dir().join(format!("record-{}", std::process::id()));
        let first = Record::of("pair", &[], rows());
        let path = first.clone().save(&folder).expect("written");
        let again = Record::of("pair", &[], rows()).save(&folder);
        assert_eq!(again.expect("written"), path);
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::remove_dir_all(&folder).expect("ours");
        let read: Record = serde_json::from_str(&text).expect("our own shape");
        assert_eq!(read.runs, [rows(), rows()]);
        assert_eq!((read.date, read.machine), (first.date, first.machine));
        assert!(text.contains("\"ns\": 1.23457"), "{text}");
        assert!(text.contains("\"held\": [1,2,3]"), "{text}");
    }

    #[test]
    fn a_record_of_another_machine_is_not_added_to() {
        let folder = std::env::temp_dir().join(format!("other-{}", std::process::id()));
        let mut first = Record::of("pair", &[], rows());
        first.machine.cores += 1;
        first.save(&folder).expect("written");
        let refused = Record::of("pair", &[], rows()).save(&folder);
        std::fs::remove_dir_all(&folder).expect("ours");
        assert!(refused.is_err());
    }
}
