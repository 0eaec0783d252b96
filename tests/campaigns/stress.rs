//! Stress, with every byte checked: `stress ring|lives|exchange|stale [AMOUNT] [SECONDS]`.
//!
//! Each fragment is filled from end to end with a pattern of its own when it
//! is taken and compared from end to end when it is given back. Two fragments
//! that overlapped would have overwritten one another, so the comparison is
//! the check for overlap too. At the end the books must balance, and no region
//! may be left: a lost page would keep one.
//!
//! | story    | what it is                                              | `AMOUNT` counts |
//! |----------|---------------------------------------------------------|-----------------|
//! | ring     | one thread takes, another gives back, 512 in between    | allocations     |
//! | lives    | threads end and what they took lives on                 | threads         |
//! | stale    | a pool that wipes never shows what was written before    | allocations     |
//! | exchange | 32 threads swap fragments through a table, and end often | allocations     |
//!
//! The last line is what a ledger keeps.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use pagefrag::PagePool;

#[path = "stress/exchange.rs"]
mod exchange;
#[path = "stress/lives.rs"]
mod lives;
#[path = "stress/parcel.rs"]
mod parcel;
#[path = "stress/ring.rs"]
mod ring;
#[path = "stress/stale.rs"]
mod stale;

/// How much is asked for: an amount, or as much of it as fits a time.
#[derive(Clone, Copy, Debug)]
struct Budget {
    amount: u64,
    end: Instant,
}

impl Budget {
    fn is_left(&self, done: u64) -> bool {
        done < self.amount && Instant::now() < self.end
    }
}

/// What a story came to.
#[derive(Debug)]
struct Told {
    amount: u64,
    unit: &'static str,
    damaged: u64,
}

/// Pages of `pool` that are not where they belong, everything being dropped.
fn pages_lost(pool: &PagePool) -> Result<u64, String> {
    pool.trim();
    let stats = pool.audit().map_err(|error| error.to_string())?;
    if stats.live_bytes != 0 {
        return Err(format!("{} bytes are still alive", stats.live_bytes));
    }
    Ok(stats.pages_in_use + stats.regions_mapped)
}

fn tell(story: &str, amount: u64, seconds: u64) -> Result<bool, String> {
    let started = Instant::now();
    let budget = Budget {
        amount,
        end: started + Duration::from_secs(seconds),
    };
    let pool = PagePool::new(32 * 1024).map_err(|error| error.to_string())?;
    let told = match story {
        "ring" => ring::run(&pool, budget),
        "lives" => lives::run(&pool, budget),
        "exchange" => exchange::run(&pool, budget),
        "stale" => stale::run(budget)?,
        other => return Err(format!("there is no story called {other:?}")),
    };
    let lost = pages_lost(&pool)?;
    println!(
        "{} {}, {} damaged, {lost} pages lost, {:.0} s",
        told.amount,
        told.unit,
        told.damaged,
        started.elapsed().as_secs_f64()
    );
    Ok(told.damaged == 0 && lost == 0 && told.amount > 0)
}

fn number(text: Option<String>, otherwise: u64) -> Result<u64, String> {
    let Some(text) = text else {
        return Ok(otherwise);
    };
    let digits = text.replace('_', "");
    digits
        .parse()
        .map_err(|_| format!("{text:?} is not a number"))
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let story = words.next().unwrap_or_default();
    let outcome = number(words.next(), u64::MAX)
        .and_then(|amount| Ok((amount, number(words.next(), 60)?)))
        .and_then(|(amount, seconds)| tell(&story, amount, seconds));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("stress: {why}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use pagefrag::{PageFragCache, PagePool};

    use super::parcel::Parcel;
    use super::{Budget, pages_lost, tell};

    #[test]
    fn every_story_ends_with_nothing_damaged_and_nothing_lost() {
        for story in ["ring", "lives", "exchange", "stale"] {
            assert_eq!(tell(story, 2_000, 60), Ok(true), "{story}");
        }
    }

    #[test]
    fn a_story_without_time_is_not_a_success() {
        assert_eq!(tell("ring", 2_000, 0), Ok(false));
        assert!(tell("poem", 1, 1).is_err());
    }

    #[test]
    fn a_changed_byte_counts_as_damage() {
        let pool = PagePool::new(32 * 1024).unwrap();
        let mut frag = PageFragCache::new(&pool).alloc(100).unwrap();
        let damaged = AtomicU64::new(0);
        let whole = Parcel::pack(frag, 7);
        frag = whole.unpack(&damaged).try_into_mut().unwrap();
        assert_eq!(damaged.load(Ordering::Relaxed), 0);
        frag[99] ^= 1;
        drop(Parcel::found(frag, 7).unpack(&damaged));
        assert_eq!(damaged.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_fragment_that_is_kept_is_seen_in_the_books() {
        let pool = PagePool::new(32 * 1024).unwrap();
        let kept = PageFragCache::new(&pool).alloc(100).unwrap();
        assert!(pages_lost(&pool).is_err());
        drop(kept);
        assert_eq!(pages_lost(&pool), Ok(0));
    }

    #[test]
    fn a_budget_ends_with_the_amount_or_the_time() {
        let now = Instant::now();
        let long = now + Duration::from_secs(1000);
        let budget = |amount, end| Budget { amount, end };
        assert!(budget(2, long).is_left(1));
        assert!(!budget(2, long).is_left(2));
        assert!(!budget(2, now).is_left(1));
    }
}
