//! Rate control while tensors are coded: if these take more or less than forecast, the steps of those that are left become
//! a little coarser or finer, so that the file has the requested size after one pass.
//!
//! Steps change between *waves*: runs of tensors that end at certain shares of the bytes, and the last tensor alone. Nothing that is
//! coded in a wave changes the steps of that wave, so several machines can code it together, to the same bytes (`portion`).
//!
//! Equal slopes need equal steps. If half of the weights have steps that are `x` octaves coarser than those of the others, the
//! error at equal size grows by about `x^2 / 4`: by 0.4% at [`MOST`].

use std::ops::Range;

use crate::rate::{aim, meets};

/// Most octaves by which the step of a tensor differs from the global one.
const MOST: f64 = 0.125;
/// A share of the forecast that counts as if it had been coded and was right, so that the first tensors do not say too much about
/// all others: one part in this many.
const TRUST: f64 = 16.0;
/// How far from the aim the size may seem to end, as a share of it, before steps change.
const TOLERANCE: f64 = 0.0005;
/// Shares of the bytes that depend on a step, after which a wave ends. The first is small, since it shows how far all forecasts are
/// off; the last tensor is a wave of its own.
const WAVES: [f64; 5] = [0.125, 0.5, 0.75, 0.875, 0.9375];
/// A change of less than so many octaves is none.
const LEAST: f64 = 1e-5;

/// What a tensor is forecast to take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Its bytes at the global step.
    pub bytes: f64,
    /// How many bytes less for each octave that its step is coarser; 0 if it does not depend on a step.
    pub slope: f64,
}

impl Forecast {
    /// Returns the bytes at a step that is coarser than the global one.
    fn at(self, octaves: f64) -> f64 {
        (self.bytes - self.slope * octaves).max(0.0)
    }

    fn is_free(&self) -> bool {
        self.slope > 0.0
    }
}

/// The rate control of a file.
#[derive(Debug)]
pub struct Pace {
    /// The largest permitted size of the file.
    target: u64,
    /// The forecast of each tensor, in the order of the file.
    forecasts: Vec<Forecast>,
    /// The last tensor that depends on a step.
    last: Option<usize>,
    /// The first tensor of each wave.
    waves: Vec<usize>,
    /// Bytes of the tensors so far that depend on a step, as coded and as forecast at the step that they got.
    coded: f64,
    expected: f64,
    /// By how many octaves the step of the next tensor is coarser than the global one, and at most finer or coarser.
    octaves: f64,
    most: f64,
    /// The sum over tensors so far of their octaves, times the slope.
    shifted: f64,
}

impl Pace {
    /// Creates the rate control of a file of at most `target` bytes.
    pub fn new(target: u64, forecasts: Vec<Forecast>) -> Pace {
        let last = forecasts.iter().rposition(Forecast::is_free);
        let trusted = forecasts.iter().filter(|f| f.is_free()).map(|f| f.bytes).sum::<f64>() / TRUST;
        let waves = waves(&forecasts, last);
        let (coded, expected) = (trusted, trusted);
        Pace { target, forecasts, last, waves, coded, expected, octaves: 0.0, most: MOST, shifted: 0.0 }
    }

    /// Returns the tensors of each wave.
    pub fn waves(&self) -> Vec<Range<usize>> {
        let ends = self.waves.iter().skip(1).copied().chain([self.forecasts.len()]);
        self.waves.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// Returns the same with another limit to the octaves.
    pub fn within(self, most: f64) -> Pace {
        Pace { most, ..self }
    }

    /// Creates that of a file whose tensors do not depend on a step.
    pub fn none() -> Pace {
        Pace::new(u64::MAX, vec![])
    }

    /// Returns whether a tensor is the last one that depends on a step.
    pub fn is_last(&self, tensor: usize) -> bool {
        self.last == Some(tensor)
    }

    /// Returns by how many octaves the step of a tensor is to be coarser than the global one. The file has `length` bytes before it.
    ///
    /// The tensors that are left are expected to miss their forecasts as those before did. Steps change only with a new wave, if the
    /// file would miss its size, and then by as little as meets it.
    pub fn octaves(&mut self, tensor: usize, length: u64) -> f64 {
        if self.waves.binary_search(&tensor).is_err() {
            return self.octaves;
        }
        let ratio = self.coded / self.expected.max(1.0);
        let left = self.forecasts.get(tensor..).unwrap_or_default();
        let fixed: f64 = left.iter().filter(|f| !f.is_free()).map(|f| f.bytes).sum();
        let sum = |of: fn(&Forecast) -> f64| left.iter().filter(|f| f.is_free()).map(of).sum::<f64>() * ratio;
        let (bytes, slope) = (sum(|f| f.bytes), sum(|f| f.slope));
        if slope > 0.0 {
            let (at_global, aim) = (length as f64 + fixed + bytes, aim(self.target) as f64);
            let for_size = |size: f64| (at_global - size) / slope;
            // The coarser a step, the smaller the file.
            let (finest, coarsest) = (for_size(aim * (1.0 + TOLERANCE)), for_size(aim * (1.0 - TOLERANCE)));
            self.octaves = self.octaves.max(finest).min(coarsest).clamp(-self.most, self.most);
        }
        self.octaves
    }

    /// Notes that a tensor took so many bytes, with padding, at a step that is coarser than the global one by so many octaves.
    pub fn coded(&mut self, tensor: usize, octaves: f64, bytes: u64) {
        if let Some(forecast) = self.forecasts.get(tensor).filter(|f| f.is_free()) {
            self.coded += bytes as f64;
            self.expected += forecast.at(octaves);
            self.shifted += forecast.slope * octaves;
        }
    }

    /// Returns whether a file of `length` bytes up to a tensor, which is the last one that depends on a step, becomes too large.
    pub fn is_exceeded(&self, tensor: usize, length: u64) -> bool {
        self.is_last(tensor) && length as f64 + self.after(tensor) > self.target as f64
    }

    /// Returns the forecast of the tensors after one.
    fn after(&self, tensor: usize) -> f64 {
        self.forecasts.iter().skip(tensor + 1).map(|f| f.bytes).sum()
    }

    /// Returns by how many octaves the step of all tensors should have been coarser than the global one. The file has `length` bytes.
    pub fn missed(&self, length: u64) -> f64 {
        let slope: f64 = self.forecasts.iter().map(|f| f.slope).sum();
        let missed = (self.shifted + length as f64 - aim(self.target) as f64) / slope;
        if slope > 0.0 { missed } else { 0.0 }
    }

    /// Returns by how many octaves the step of a tensor is to be coarser than the global one when it is coded again; `None` if it is
    /// not, since only the last one can be, if the file misses its size otherwise. The file has `length` bytes with it.
    pub fn again(&mut self, tensor: usize, length: u64) -> Option<f64> {
        let forecast = self.forecasts.get(tensor).filter(|_| self.is_last(tensor))?;
        let size = length as f64 + self.after(tensor);
        if meets(size as u64, self.target) {
            return None;
        }
        let octaves = (self.octaves + (size - aim(self.target) as f64) / forecast.slope).clamp(-self.most, self.most);
        let changes = (octaves - self.octaves).abs() > LEAST;
        self.octaves = octaves;
        changes.then_some(octaves)
    }
}

/// Returns the first tensor of each wave; `last` is the last one that depends on a step.
fn waves(forecasts: &[Forecast], last: Option<usize>) -> Vec<usize> {
    let free = || forecasts.iter().enumerate().filter(|(_, f)| f.is_free());
    let all: f64 = free().map(|(_, f)| f.bytes).sum();
    let (mut starts, mut before, mut passed) = (vec![0], 0.0, 0);
    for (i, forecast) in free() {
        let ended = WAVES.iter().filter(|share| before >= **share * all).count();
        if ended > passed || last == Some(i) {
            starts.push(i);
            passed = ended;
        }
        before += forecast.bytes;
    }
    starts.dedup();
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Codes tensors that take `truth` times their forecast; returns the size and the octaves of each.
    fn run(target: u64, forecasts: &[Forecast], truth: impl Fn(usize) -> f64) -> (u64, Vec<f64>) {
        let mut pace = Pace::new(target, forecasts.to_vec());
        let (mut length, mut all) = (0, vec![]);
        for (i, forecast) in forecasts.iter().enumerate() {
            let mut octaves = pace.octaves(i, length);
            let mut tries = 0;
            let bytes = loop {
                let bytes = (forecast.at(octaves) * truth(i)) as u64;
                tries += 1;
                match pace.again(i, length + bytes).filter(|_| tries < 4) {
                    Some(other) => octaves = other,
                    None => break bytes,
                }
            };
            pace.coded(i, octaves, bytes);
            length += bytes;
            all.push(octaves);
        }
        (length, all)
    }

    /// Tensors of `n` weights at 3 bits, between some that do not depend on a step.
    fn forecasts(n: &[f64]) -> Vec<Forecast> {
        let kept = Forecast { bytes: 900.0, slope: 0.0 };
        n.iter().flat_map(|n| [Forecast { bytes: n * 3.0 / 8.0, slope: n / 8.0 }, kept]).collect()
    }

    fn total(forecasts: &[Forecast]) -> u64 {
        forecasts.iter().map(|f| f.bytes).sum::<f64>() as u64
    }

    #[test]
    fn good_forecasts_leave_the_step() {
        let forecasts = forecasts(&[1e6, 3e6, 1e6, 5e5]);
        let (length, octaves) = run(total(&forecasts) * 1001 / 1000, &forecasts, |_| 1.0);
        assert!(octaves.iter().all(|&x| x == 0.0), "{octaves:?}");
        assert_eq!(length, total(&forecasts));
    }

    #[test]
    fn the_others_make_up_for_what_the_first_takes() {
        let mut sizes = vec![2e6; 20];
        sizes.insert(0, 1e7);
        let forecasts = forecasts(&sizes);
        let (length, octaves) = run(total(&forecasts), &forecasts, |i| if i == 0 { 1.03 } else { 1.0 });
        assert!(meets(length, total(&forecasts)), "{length}");
        assert!(octaves[0].abs() < 0.01 && octaves[1..].iter().all(|x| x.abs() < 0.1), "{octaves:?}");
    }

    /// Waves end at their share of the bytes; a tensor that is larger than the rest of its wave ends it.
    #[test]
    fn waves_shrink() {
        let waves = |n: &[f64]| Pace::new(0, forecasts(n)).waves();
        let of_equal = waves(&[1e6; 32]);
        assert_eq!(of_equal, [0..8, 8..32, 32..48, 48..56, 56..60, 60..62, 62..64]);
        assert_eq!(waves(&[1e6, 8e6, 1e6]), [0..4, 4..6]);
        assert_eq!((waves(&[1e6]).len(), Pace::none().waves().len()), (1, 1));
    }

    #[test]
    fn what_cannot_be_made_up_for_stays_within_the_bound() {
        let forecasts = forecasts(&[1e6; 8]);
        let (length, octaves) = run(total(&forecasts), &forecasts, |_| 1.5);
        assert!(length > total(&forecasts) && octaves.iter().all(|x| (0.0..=MOST).contains(x)), "{octaves:?}");
    }

    proptest! {
        /// The bytes of each tensor are up to 2% off, all of them another 2%, and the last one up to a third of all weights. A size is
        /// missed only if the last step may not move further.
        #[test]
        fn sizes_are_met(
            sizes in prop::collection::vec(1e5..1e6f64, 12..80),
            errors in prop::collection::vec(0.98..1.02f64, 80),
            all in 0.98..1.02f64,
            last in 0.0..0.5f64,
        ) {
            let last = sizes.iter().sum::<f64>() * last + 1e5;
            let forecasts = forecasts(&[sizes, vec![last]].concat());
            let target = total(&forecasts);
            let truth = |i: usize| if i.is_multiple_of(2) { errors[i / 2 % 80] * all } else { 1.0 };
            let (length, octaves) = run(target, &forecasts, truth);
            let at_bound = octaves.iter().rev().zip(forecasts.iter().rev()).find(|(_, f)| f.is_free());
            let at_bound = at_bound.is_some_and(|(octaves, _)| octaves.abs() >= MOST);
            prop_assert!(meets(length, target) || at_bound, "{} for {}: {:?}", length, target, octaves);
            prop_assert!(length as f64 <= 1.04 * target as f64, "{} for {}", length, target);
        }
    }
}
