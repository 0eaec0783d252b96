//! How long a call waits, in slices: between two it looks for signals, `close` and closed sockets.

use std::time::{Duration, Instant};

use pyo3::PyResult;

use crate::error::value;

/// How long a wait goes on before it looks around.
const SLICE: Duration = Duration::from_millis(20);

/// When a wait ends.
pub(crate) enum Deadline {
    Never,
    At(Instant),
}

impl Deadline {
    pub(crate) fn of(timeout: Option<f64>) -> PyResult<Self> {
        let Some(seconds) = timeout.filter(|seconds| *seconds != f64::INFINITY) else {
            return Ok(Self::Never);
        };
        let wait = Duration::try_from_secs_f64(seconds);
        match wait {
            // Longer than a clock can tell is for ever.
            Ok(wait) => Ok(Instant::now()
                .checked_add(wait)
                .map_or(Self::Never, Self::At)),
            Err(_) if seconds > 0.0 => Ok(Self::Never),
            Err(_) => Err(value("timeout must be a number of seconds, not negative")),
        }
    }

    /// How long to wait now; `None` when it is over.
    pub(crate) fn slice(&self) -> Option<Duration> {
        match self {
            Self::Never => Some(SLICE),
            Self::At(end) => {
                let left = end.saturating_duration_since(Instant::now());
                (left > Duration::ZERO).then(|| left.min(SLICE))
            }
        }
    }
}
