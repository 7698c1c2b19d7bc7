//! Rate control: one number, the global step, is adjusted until the file has the requested size.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::arithmetic::{exp2, log2};

/// Finest and coarsest global step that are tried, as powers of two.
pub const FINEST: f64 = -19.0;
pub const COARSEST: f64 = 8.0;

/// If the bracket is narrower than this, in octaves, the size jumps inside it.
const NARROW: f64 = 1e-6;
/// How many times a file is coded, at most, to meet a size.
pub const TRIES: usize = 16;
/// Least bits per weight and octave that a size changes by.
const LEAST_SLOPE: f64 = 0.05;
/// The differential entropy of a Gaussian of variance 1, in bits.
const GAUSSIAN: f64 = 2.047;
/// A forecast aims below the requested size by one part in this many.
const SLACK: u64 = 1000;

/// Returns the size to aim at, a little below `target`: the coded size differs from the forecast by a few parts in
/// 1000.
pub fn aim(target: u64) -> u64 {
    target - target / SLACK
}

/// Returns whether `length` is at most `target`, and at least 99.5% of it.
pub fn meets(length: u64, target: u64) -> bool {
    length <= target && length >= target - target / 200
}

/// Steps known to be too fine (`low`) and fine enough (`high`), as powers of two.
#[derive(Default)]
struct Bracket {
    low: Option<f64>,
    high: Option<f64>,
}

impl Bracket {
    /// Records a step.
    fn note(&mut self, at: f64, too_fine: bool) {
        if too_fine {
            self.low = Some(at);
        } else {
            self.high = Some(at);
        }
    }

    /// Returns the next step to try: the guess, or the middle of the bracket if the guess is outside.
    fn next(&self, guess: f64) -> f64 {
        match (self.low, self.high) {
            (Some(low), Some(high)) if !(low < guess && guess < high) => (low + high) / 2.0,
            _ => guess,
        }
    }
}

/// A step that is corrected by coded sizes, since a forecast is only accurate to a few parts in 1000.
pub struct Correction {
    step: f64,
    bracket: Bracket,
    /// The step before, as a power of two, and by how many octaves it seemed too fine.
    last: Option<(f64, f64)>,
}

impl Correction {
    /// Starts with a forecast step.
    pub fn new(step: f64) -> Self {
        Correction { step, bracket: Bracket::default(), last: None }
    }

    /// Returns the step to try.
    pub fn step(&self) -> f64 {
        self.step
    }

    /// Makes the step coarser by `octaves`, or moves it to the middle of the bracket. `too_fine` says whether the
    /// current step is. Returns by how many octaves the step became finer.
    pub fn correct(&mut self, octaves: f64, too_fine: bool) -> f64 {
        let at = log2(self.step);
        self.bracket.note(at, too_fine);
        // At low rates a size changes by less than a bit per weight and octave: two steps show by how much.
        let measured = self.last.map(|(before, too_fine)| (too_fine - octaves) / (at - before));
        let slope = measured.filter(|slope| *slope >= 0.0).map_or(1.0, |slope| slope.clamp(LEAST_SLOPE, 1.5));
        self.last = Some((at, octaves));
        let next = self.bracket.next(at + octaves / slope);
        self.step = exp2(next);
        at - next
    }
}

/// Returns the step, as a power of two, at which Gaussian weights take so many bits: where a search starts.
pub fn usual_step(bits: f64) -> f64 {
    GAUSSIAN - bits
}

/// The result of a search.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// A step whose size is at most the target, and close to it.
    Step(f64),
    /// Even the coarsest step gives more than the target: this many bytes.
    LeastIs(u64),
    /// Even the finest step gives less than the target: this many bytes.
    MostIs(u64),
}

/// Searches for the finest relative step whose `size` is at most `target` and at least `target - slack`, or is the
/// nearest one below if sizes jump. It starts at `start`, a power of two.
///
/// `size` falls as the step grows, by about one bit per weight and octave; `weights` is the number of weights that it
/// depends on.
///
/// # Errors
/// Those of `size`.
pub fn search<E>(
    target: u64,
    slack: u64,
    weights: u64,
    start: f64,
    mut size: impl FnMut(f64) -> Result<u64, E>,
) -> Result<Found, E> {
    let mut bracket = Bracket::default();
    let mut at = start.clamp(FINEST, COARSEST);
    for _ in 0..60 {
        let bytes = size(exp2(at))?;
        if bytes <= target && bytes + slack >= target {
            return Ok(Found::Step(exp2(at)));
        }
        if bytes > target && at >= COARSEST {
            return Ok(Found::LeastIs(bytes));
        }
        if bytes <= target && at <= FINEST {
            return Ok(Found::MostIs(bytes));
        }
        bracket.note(at, bytes > target);
        if let (Some(low), Some(high)) = (bracket.low, bracket.high)
            && high - low < NARROW
        {
            return Ok(Found::Step(exp2(high)));
        }
        // One bit per weight for each octave. The aim is the middle of the slack.
        let aim = target.saturating_sub(slack / 2) as f64;
        let guess = at + (bytes as f64 - aim) * 8.0 / weights.max(1) as f64;
        at = bracket.next(guess).clamp(FINEST, COARSEST);
    }
    Ok(match bracket.high {
        Some(high) => Found::Step(exp2(high)),
        None => Found::LeastIs(size(exp2(COARSEST))?),
    })
}

/// The rate of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Bits per weight, without the tensor header.
    pub bits: f64,
    /// Bytes of the tensor header.
    pub header_bytes: f64,
}

impl Rate {
    /// Returns the bits of a tensor of so many weights, with its tensor header.
    pub fn all_bits(self, weights: usize) -> f64 {
        self.bits * weights as f64 + 8.0 * self.header_bytes
    }
}

/// What is measured of a tensor at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Its rate on the lattice.
    pub lattice: Rate,
    /// Its rate with transforms, if they may pay.
    pub transform: Option<Transformed>,
}

/// The rate of a tensor whose tiles may be in mode transform.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transformed {
    /// Its rate.
    pub rate: Rate,
    /// What transforms gain in `D + lambda R`, in bits per weight, above what they must.
    pub gain: f64,
    /// Whether a part of it is predicted from another tensor.
    pub is_predicted: bool,
}

/// Rates of tensors, measured once at steps half an octave apart; between these, a rate is nearly linear.
#[derive(Default)]
pub struct Rates {
    measured: Mutex<HashMap<(usize, i32), Measured>>,
    /// The steps at which those of all tensors are known.
    noted: Mutex<BTreeSet<i32>>,
}

impl Rates {
    /// Returns the numbers of the steps that a global step lies between, and of those half an octave further on both sides, in half
    /// octaves.
    pub fn near(step: f64) -> impl Iterator<Item = i32> {
        let below = (log2(step) * 2.0).floor() as i32;
        below - 1..=below + 2
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, i32), Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the rates of a tensor at the step with number `at`, which are measured if they are not known.
    ///
    /// # Errors
    /// Those of `measure`.
    pub fn one<E>(&self, tensor: usize, at: i32, measure: impl Fn(f64) -> Result<Measured, E>) -> Result<Measured, E> {
        if let Some(&known) = self.lock().get(&(tensor, at)) {
            return Ok(known);
        }
        let rate = measure(exp2(f64::from(at) / 2.0))?;
        self.lock().insert((tensor, at), rate);
        Ok(rate)
    }

    /// Notes the rates of all tensors that have some, at the step with number `at`.
    pub fn note(&self, at: i32, rates: BTreeMap<usize, Measured>) {
        self.lock().extend(rates.into_iter().map(|(tensor, rate)| ((tensor, at), rate)));
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(at);
    }

    /// Returns whether the rates at a step were noted.
    pub fn has_all(&self, at: i32) -> bool {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).contains(&at)
    }

    /// Returns the rates of a tensor at a global step. `measure` measures them at a step. If a first measurement is expensive,
    /// the rates half an octave further on both sides are measured with it, so that a search that comes there has them.
    ///
    /// # Errors
    /// Those of `measure`.
    pub fn at<E>(
        &self,
        tensor: usize,
        step: f64,
        is_expensive: bool,
        measure: impl Fn(f64) -> Result<Measured, E>,
    ) -> Result<Measured, E> {
        let log = log2(step) * 2.0;
        let below = log.floor();
        let known = |at: i32| self.lock().contains_key(&(tensor, at));
        let measured = |at: i32| self.one(tensor, at, &measure);
        let below = below as i32;
        let is_known = known(below) && known(below + 1);
        let (a, b) = (measured(below)?, measured(below + 1)?);
        if is_expensive && !is_known {
            measured(below - 1)?;
            measured(below + 2)?;
        }
        let between = |a: f64, b: f64| a + (b - a) * (log - f64::from(below));
        let rate = |a: Rate, b: Rate| Rate {
            bits: between(a.bits, b.bits),
            header_bytes: between(a.header_bytes, b.header_bytes),
        };
        let transformed = |(a, b): (Transformed, Transformed)| Transformed {
            rate: rate(a.rate, b.rate),
            gain: between(a.gain, b.gain),
            is_predicted: a.is_predicted || b.is_predicted,
        };
        Ok(Measured { lattice: rate(a.lattice, b.lattice), transform: a.transform.zip(b.transform).map(transformed) })
    }
}

/// Returns a finer and a coarser step that are a quarter of an octave apart, between the same measured steps as `step`.
pub fn around(step: f64) -> [f64; 2] {
    let below = (log2(step) * 2.0).floor();
    [0.25, 0.75].map(|part| exp2((below + part) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes of a million weights at a relative step: 2.05 bits minus the logarithm of the step, at least nearly 0,
    /// plus 1000 bytes.
    fn gaussian(step: f64) -> Result<u64, ()> {
        Ok(1000 + (125_000.0 * (2.05 - step.log2()).max(0.001)) as u64)
    }

    proptest! {
        #[test]
        fn hits_from_below(target in 10_000u64..2_000_000) {
            match search(target, target / 1000, 1_000_000, -2.0, gaussian) {
                Ok(Found::Step(step)) => {
                    let size = gaussian(step).expect("a size");
                    prop_assert!(size <= target && size as f64 >= target as f64 * 0.9989, "{} {}", size, target);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    /// A size that changes by a tenth of a bit per weight and octave is met as fast as any other.
    #[test]
    fn corrections_learn_how_fast_a_size_changes() {
        for slope in [0.1, 1.0, 1.3] {
            let mut search = Correction::new(1.0);
            let bits = |step: f64| -slope * (log2(step) - 0.4);
            for _ in 0..4 {
                search.correct(bits(search.step()), bits(search.step()) > 0.0);
            }
            assert!(bits(search.step()).abs() < 0.01 * slope, "{slope}: {}", search.step());
        }
    }

    /// A step up to half an octave away needs no other measurement if the first was expensive.
    #[test]
    fn neighbours_of_expensive_rates_are_measured() {
        for (is_expensive, first, second) in [(false, 2, 1), (true, 4, 0)] {
            let (rates, count) = (Rates::default(), std::cell::Cell::new(0));
            let rate = Rate { bits: 3.0, header_bytes: 0.0 };
            let measure = |_: f64| {
                count.set(count.get() + 1);
                Ok::<_, ()>(Measured { lattice: rate, transform: None })
            };
            rates.at(0, 1.1, is_expensive, measure).expect("a rate");
            assert_eq!(count.take(), first);
            for step in [0.8, 1.6] {
                rates.at(0, step, is_expensive, measure).expect("a rate");
                assert_eq!(count.take(), second, "{step}");
            }
        }
    }

    #[test]
    fn says_when_it_cannot() {
        assert_eq!(search(900, 1, 1_000_000, -2.0, gaussian), Ok(Found::LeastIs(1125)));
        assert!(matches!(search(100_000_000, 100, 1_000_000, -2.0, gaussian), Ok(Found::MostIs(_))));
        assert_eq!(search(900, 1, 1, -2.0, |_| Err("no size")), Err("no size"));
    }
}
