//! The run itself: every row in every round for every variant.
//!
//! Within a round a row runs for all variants in turn before the next row starts, so that native and the
//! others see the same machine; which variant goes first rotates. Before each timed part the filesystem is
//! synced: the dirty pages of one variant are never written at the expense of the next.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    machine::OneCpu,
    measure::{Measurement, Unit},
    results::{Failure, Results, RowResults},
    row::{Placement, Repeats, Row, SLOW_MILLIS},
    variant::{NATIVE, Variant, WSGUARD},
    watchdog::Watchdog,
};

/// One run in progress.
pub(crate) struct Run<'a> {
    rows: &'a [Row],
    variants: &'a [Variant],
    watchdog: &'a Watchdog,
    base: File,
    /// Variants whose daemon is gone; nothing more is asked of them.
    dead: BTreeSet<&'a str>,
    /// Peers that repeat long rows less often.
    slow: BTreeSet<&'a str>,
}

impl<'a> Run<'a> {
    /// Prepares a run with everything below `base`.
    pub(crate) fn new(
        rows: &'a [Row],
        variants: &'a [Variant],
        watchdog: &'a Watchdog,
        base: &Path,
    ) -> Result<Self> {
        let base = File::open(base).context("cannot open the base directory")?;
        Ok(Self { rows, variants, watchdog, base, dead: BTreeSet::new(), slow: BTreeSet::new() })
    }

    /// Runs all rounds, adding to `results` and telling stderr how it goes.
    pub(crate) fn run(mut self, results: &mut Results) -> Result<()> {
        results.rows = self.rows.iter().map(RowResults::new).collect();
        let start = Instant::now();
        for round in 0..results.rounds {
            for (index, row) in self.rows.iter().enumerate() {
                let mut line = format!(
                    "{:4} s  {}/{}  {}:",
                    start.elapsed().as_secs(),
                    round + 1,
                    results.rounds,
                    row.name
                );
                for variant in self.order(round as usize + index) {
                    if !self.takes_part(row, variant, round) {
                        continue;
                    }
                    match self.measure(row, variant) {
                        Ok(measurement) => {
                            line.push_str(&format!("  {} {:.4}", variant.name, measurement.value));
                            self.note_slow(row, variant, measurement);
                            let runs = results.rows.get_mut(index).map(|row| &mut row.runs);
                            let runs = runs.context("results has one entry for each row")?;
                            runs.entry(variant.name.clone()).or_default().insert(round, measurement);
                        }
                        Err(error) => {
                            let message = format!("{error:#}");
                            line.push_str(&format!("  {} FAILED ({message})", variant.name));
                            let (variant, row) = (variant.name.clone(), row.name.clone());
                            results.failures.push(Failure { variant, row, round, message });
                        }
                    }
                }
                writeln!(std::io::stderr(), "{line}")?;
            }
        }
        Ok(())
    }

    fn order(&self, turn: usize) -> Vec<&'a Variant> {
        let (before, after) = self.variants.split_at(turn % self.variants.len());
        after.iter().chain(before).collect()
    }

    fn takes_part(&self, row: &Row, variant: &Variant, round: u32) -> bool {
        let is_repeated = match row.repeats {
            Repeats::WhenSlow(rounds) if self.slow.contains(variant.name.as_str()) => {
                (round as usize) < rounds
            }
            Repeats::WhenSlow(_) | Repeats::Always => true,
        };
        is_repeated && !self.dead.contains(variant.name.as_str())
    }

    fn note_slow(&mut self, row: &Row, variant: &'a Variant, measurement: Measurement) {
        let is_long = row.repeats != Repeats::Always
            && row.unit == Unit::Milliseconds
            && measurement.value > SLOW_MILLIS;
        if is_long && ![NATIVE, WSGUARD].contains(&variant.name.as_str()) {
            self.slow.insert(&variant.name);
        }
    }

    fn measure(&mut self, row: &Row, variant: &'a Variant) -> Result<Measurement> {
        self.watchdog.arm(&variant.name);
        let outcome = self.steps(row, variant);
        if self.watchdog.disarm() {
            self.dead.insert(&variant.name);
            return outcome
                .and(Err(anyhow::anyhow!("it took too long and was killed; its other rows are left out")));
        }
        outcome
    }

    fn steps(&self, row: &Row, variant: &Variant) -> Result<Measurement> {
        (row.prepare)(&variant.site).context("cannot prepare")?;
        rustix::fs::syncfs(&self.base)?;
        row.caches.apply()?;
        let pinned = match row.placement {
            Placement::AnyCpu => None,
            Placement::OneCpu => Some(OneCpu::pin(&variant.daemons)?),
        };
        // What the preparation set off in a daemon, releases above all, is over before the clock starts.
        std::thread::sleep(Duration::from_millis(5));
        let measurement = (row.timed)(&variant.site);
        drop(pinned);
        (row.finish)(&variant.site).context("cannot clean up")?;
        measurement
    }
}
