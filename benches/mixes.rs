//! The mixes in which long-lived buffers stand among short-lived ones: one
//! table, with fixed seeds, that every memory bench takes its scripts from.

use std::path::Path;

use crate::capture;
use crate::script::{Script, Writer};
use crate::stand;
use crate::workload::{Dice, Freed, MIXES, Mix, Spread, imix};

/// Buffers taken in a mix, of which the second half is looked at: long-lived
/// ones live for 100,000.
const TAKES: usize = 1_000_000;

/// The same where a first impression is enough.
const TAKES_QUICK: usize = 250_000;

/// Short-lived buffers in flight.
const IN_FLIGHT: usize = 64;

/// The router's hour: so many seconds, so many idle interfaces with so many
/// receive buffers of 2 KiB each.
const HOUR: usize = 3600;
const IDLE: usize = 16;
const RING: usize = 256;

/// Caches that take from one pool.
const CACHES: usize = 8;

/// Every mix of the pinning bench. Each is written when it is asked for: what a
/// process has in memory is looked at while it runs.
pub fn every() -> impl Iterator<Item = Script> {
    let two = MIXES.into_iter().flat_map(|mix| {
        [Spread::Even, Spread::Chance]
            .into_iter()
            .map(move |spread| of_mix(&mix, spread, Freed::Here, takes()))
    });
    let others: [fn() -> Script; 5] = [
        || decades(false),
        || decades(true),
        router,
        kept_elsewhere,
        several_caches,
    ];
    two.chain(others.into_iter().map(|write| write()))
}

/// Buffers to take.
fn takes() -> usize {
    if stand::quick() { TAKES_QUICK } else { TAKES }
}

/// A mix of the workload table, long-lived buffers spread as told.
#[must_use]
pub fn of_mix(mix: &Mix, spread: Spread, freed: Freed, takes: usize) -> Script {
    let told = match spread {
        Spread::Even => "evenly",
        Spread::Chance => "by chance",
    };
    let mut writer =
        Writer::new(format!("{}, {told}", mix.short_name), mix.name).batch(freed.batch());
    let mut dice = Dice::new(0xF4EE);
    for lives_long in mix.long_lived(spread, takes) {
        let away = freed.of_two() != 0 && dice.below(2) < freed.of_two();
        if lives_long {
            writer.take(0, mix.long_size, mix.long_life, away);
        } else {
            writer.take(0, mix.short_size, mix.in_flight, away);
        }
    }
    writer.done()
}

/// Lifetimes drawn at random over six decades: as many live for 1 to 10 more
/// buffers as for 100,000 to a million.
fn decades(away: bool) -> Script {
    let (name, who) = if away {
        ("six decades, elsewhere", "half are given back elsewhere")
    } else {
        ("six decades", "all are given back here")
    };
    let told = format!("sizes of the Internet mix, each lives for 1 to 1,000,000 more; {who}");
    let mut writer = Writer::new(name, told);
    let mut dice = Dice::new(0xDECA);
    for size in imix(2 * takes()) {
        let life = log_uniform(&mut dice, 6);
        let away = away && dice.below(2) == 0;
        writer.take(0, size, life, away);
    }
    writer.done()
}

/// A number from 1 to ten to the power of `decades`, as likely in each decade.
fn log_uniform(dice: &mut Dice, decades: i32) -> usize {
    const STEPS: usize = 1 << 20;
    #[expect(clippy::cast_precision_loss, reason = "below 2^20")]
    let exponent = dice.below(STEPS) as f64 / STEPS as f64 * f64::from(decades);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to a million"
    )]
    let drawn = 10_f64.powf(exponent) as usize;
    drawn
}

/// A router's hour: sixteen interfaces with little traffic have 256 receive
/// buffers of 2 KiB each, in the order they were armed; from one packet in two
/// minutes to sixty in a second come there, and one interface is taken down
/// and up again every five minutes. Between that, the busy interface's packets.
fn router() -> Script {
    let told = "16 rings of 256 buffers of 2 KiB, each refilled 1 to 7,200 times in two minutes, \
                one torn down every five; packets of 1500 B between, 64 in flight; an hour";
    let mut writer = Writer::new("a router's hour", told);
    let mut dice = Dice::new(0x2007);
    let mut rings: Vec<std::collections::VecDeque<u32>> = (0..IDLE)
        .map(|_| (0..RING).map(|_| writer.keep(0, 2048)).collect())
        .collect();
    // Of 7,200 chances in two minutes, 60 a second, so many are taken.
    let rates: Vec<usize> = (0..IDLE)
        .map(|_| log_uniform(&mut dice, 4).min(7200))
        .collect();
    // A quick hour ends when it has taken as much as the other quick mixes.
    let chances = HOUR * 60 * takes() / TAKES;
    for chance in 0..chances {
        for (ring, &rate) in rings.iter_mut().zip(&rates) {
            if dice.below(7200) < rate {
                let oldest = ring.pop_front().expect("a full ring");
                writer.give(oldest, false);
                ring.push_back(writer.keep(0, 2048));
            }
        }
        if chance % (5 * 60 * 60) == 0 {
            let ring = &mut rings[dice.below(IDLE)];
            ring.drain(..).for_each(|slot| writer.give(slot, false));
            ring.extend((0..RING).map(|_| writer.keep(0, 2048)));
        }
        for _ in 0..4 {
            writer.take(0, 1500, IN_FLIGHT, false);
        }
    }
    writer.done()
}

/// One packet in twenty is kept by another thread, which gives it back.
fn kept_elsewhere() -> Script {
    let told = "the Internet mix, 64 in flight; 1 in 20 goes to another thread, lives for 50,000 \
                more and is given back there, 64 at a time";
    let mut writer = Writer::new("kept on another thread", told);
    let mut dice = Dice::new(0x7EAD);
    for size in imix(takes()) {
        if dice.below(20) == 0 {
            writer.take(0, size, 50_000, true);
        } else {
            writer.take(0, size, IN_FLIGHT, false);
        }
    }
    writer.done()
}

/// Eight caches of one pool take turns, each with sizes of its own and with
/// other numbers of survivors.
fn several_caches() -> Script {
    const SIZES: [usize; CACHES] = [64, 128, 256, 576, 1024, 1500, 2048, 4096];
    let told = "8 caches in turn, of 64 to 4096 B, 8 in flight each; 1 in 50 is 64 B and lives for \
                100,000 more";
    let mut writer = Writer::new("eight caches", told);
    let mut dice = Dice::new(0xCA5E);
    for turn in 0..takes() {
        let cache = turn % CACHES;
        if dice.below(50) == 0 {
            writer.take(cache, 64, 100_000, false);
        } else {
            writer.take(cache, SIZES[cache], IN_FLIGHT, false);
        }
    }
    writer.done()
}

/// The packets of a capture file in their order and sizes, again and again;
/// one in twenty is kept for 20,000 more, the others live for 64.
///
/// # Errors
///
/// What is wrong with the file.
pub fn captured(path: &Path) -> Result<Script, String> {
    let sizes = capture::sizes(path)?;
    let told = "a capture's packets, 64 in flight; 1 in 20 lives for 20,000 more";
    let mut writer = Writer::new("a capture", told);
    let mut dice = Dice::new(0xCA97);
    for &size in sizes.iter().cycle().take(takes() / 2) {
        let life = if dice.below(20) == 0 {
            20_000
        } else {
            IN_FLIGHT
        };
        writer.take(0, size, life, false);
    }
    Ok(writer.done())
}

#[cfg(test)]
mod tests {
    use super::{every, log_uniform};
    use crate::script::What;
    use crate::workload::Dice;

    #[test]
    fn every_decade_is_as_likely() {
        let mut dice = Dice::new(1);
        let mut found = [0; 6];
        for _ in 0..6000 {
            found[log_uniform(&mut dice, 6).ilog10().min(5) as usize] += 1;
        }
        assert!(
            found.iter().all(|count| (800..1200).contains(count)),
            "{found:?}"
        );
    }

    #[test]
    fn scripts_take_before_they_give_and_never_more_than_two_million_times() {
        for script in every() {
            let mut live = vec![false; script.slots];
            let mut takes = 0;
            for step in &script.steps {
                let is_take = matches!(step.what(), What::Take(_));
                takes += usize::from(is_take);
                let was = std::mem::replace(&mut live[step.slot as usize], is_take);
                assert_ne!(was, is_take, "{}", script.name);
            }
            assert!(
                (500_000..=2_000_000).contains(&takes),
                "{}: {takes}",
                script.name
            );
        }
    }
}
