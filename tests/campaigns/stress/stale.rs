//! Pools that wipe: nobody reads what somebody else has written.

use pagefrag::{Granule, PageFragCache, PagePool};

use super::parcel::Noise;
use super::{Budget, Told, pages_lost};

/// What must never be seen again.
const SECRET: u8 = 0xA5;
/// Living fragments at a time, so that holes are carved too.
const KEPT: usize = 64;

/// Takes, looks, writes the secret, and gives back, some of it in pieces.
fn spend(pool: &PagePool, budget: Budget, seed: u64) -> Told {
    let mut caches = [Granule::Line, Granule::Byte].map(|g| PageFragCache::with_granule(pool, g));
    let mut noise = Noise::new(seed);
    let mut kept = Vec::with_capacity(KEPT);
    let (mut amount, mut damaged) = (0, 0);
    while budget.is_left(amount) {
        let Ok(mut frag) = caches[noise.below(2)].alloc(noise.size(32 * 1024)) else {
            continue;
        };
        amount += 1;
        damaged += u64::from(frag.iter().any(|&byte| byte != 0));
        frag.fill(SECRET);
        if noise.below(4) == 0 {
            frag.shrink_to(noise.below(frag.len()));
        }
        if kept.len() == KEPT {
            drop(kept.swap_remove(noise.below(KEPT)));
        }
        kept.push(frag);
    }
    Told {
        amount,
        unit: "allocations",
        damaged,
    }
}

pub(crate) fn run(budget: Budget) -> Result<Told, String> {
    let mut told = Told {
        amount: 0,
        unit: "allocations from pools that wipe",
        damaged: 0,
    };
    for (on_alloc, seed) in [(true, 1), (false, 2)] {
        let pool = PagePool::builder()
            .init_on_alloc(on_alloc)
            .init_on_free(!on_alloc)
            .build()
            .map_err(|error| error.to_string())?;
        let half = Budget {
            amount: budget.amount.div_ceil(2),
            ..budget
        };
        let one = spend(&pool, half, seed);
        told.amount += one.amount;
        told.damaged += one.damaged;
        if pages_lost(&pool)? != 0 {
            return Err("a page was lost".to_owned());
        }
    }
    Ok(told)
}
