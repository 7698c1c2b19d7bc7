//! Dyadic wavelet transforms of a whole tile, by lifting (SPEC 17.13, 17.16). Both filters are integer-exact.
//!
//! Coefficients lie where the samples were: after a halving of the rows, the low-pass rows come first, then the
//! high-pass rows; columns likewise. The next halving splits the low-pass rows and columns.

/// The largest magnitude of a number between two lifted lines.
const MOST: i64 = 1 << 30;
/// Lines that are lifted together.
const LANES: usize = 8;
/// The most halvings of rows or columns that a unit can name.
pub const MOST_LEVELS: u8 = 15;

/// One element of each line that is lifted.
type Lanes = [i64; LANES];

/// A pair of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// 5/3 (Le Gall): reversible.
    Cdf53,
    /// 9/7 (Cohen, Daubechies, Feauveau): better where there is loss.
    Cdf97,
}

/// The lifting factors of 9/7, in 65536ths, in the order of analysis: odd places first.
const FACTORS: [i64; 4] = [-103_949, -3_472, 57_862, 29_066];
/// The factors that low-pass and high-pass coefficients are divided by after analysis, in 65536ths.
const GAINS: [i64; 2] = [80_621, 106_548];

/// Returns `x * factor`, a factor in 65536ths, rounded.
#[inline(always)]
fn times(factor: i64, x: i64) -> i64 {
    (factor * x + (1 << 15)) >> 16
}

/// Changes every second element, from `first`, given the sum of its two neighbours. The line is mirrored at its ends.
#[inline(always)]
fn lift(line: &mut [Lanes], first: usize, changed: impl Fn(i64, i64) -> i64) {
    let n = line.len();
    for i in (first..n).step_by(2) {
        let before = line[if i == 0 { 1 } else { i - 1 }];
        let after = line[if i + 1 == n { n - 2 } else { i + 1 }];
        for ((x, before), after) in line[i].iter_mut().zip(before).zip(after) {
            *x = changed(*x, before + after);
        }
    }
}

impl Filter {
    /// Both, in the order of their numbers in the file.
    pub const ALL: [Filter; 2] = [Filter::Cdf53, Filter::Cdf97];

    /// Turns interleaved coefficients into samples.
    fn synthesize(self, line: &mut [Lanes]) {
        match self {
            Filter::Cdf53 => {
                lift(line, 0, |x, sum| x - ((sum + 2) >> 2));
                lift(line, 1, |x, sum| x + (sum >> 1));
            }
            Filter::Cdf97 => {
                let gains = GAINS.into_iter().cycle();
                line.iter_mut().zip(gains).for_each(|(x, gain)| *x = x.map(|x| times(gain, x)));
                for (i, factor) in FACTORS.into_iter().enumerate().rev() {
                    lift(line, (i + 1) % 2, |x, sum| x - times(factor, sum));
                }
            }
        }
    }

    /// Turns samples into interleaved coefficients.
    fn analyze(self, line: &mut [Lanes]) {
        match self {
            Filter::Cdf53 => {
                lift(line, 1, |x, sum| x - (sum >> 1));
                lift(line, 0, |x, sum| x + ((sum + 2) >> 2));
            }
            Filter::Cdf97 => {
                for (i, factor) in FACTORS.into_iter().enumerate() {
                    lift(line, (i + 1) % 2, |x, sum| x + times(factor, sum));
                }
                let divided = |x: i64, by: i64| ((x << 16) + by / 2).div_euclid(by);
                let gains = GAINS.into_iter().cycle();
                line.iter_mut().zip(gains).for_each(|(x, gain)| *x = x.map(|x| divided(x, gain)));
            }
        }
    }
}

/// Returns the most halvings of a side: as many as it takes to one element.
pub fn most_levels(side: usize) -> u8 {
    side.saturating_sub(1).checked_ilog2().map_or(0, |log| log as u8 + 1).min(MOST_LEVELS)
}

/// Returns a side after some halvings, of its low-pass part.
pub fn halved(side: usize, times: u8) -> usize {
    side.div_ceil(1 << times)
}

/// What is lifted: `count` lines of `length` numbers; the numbers of a line are `step` apart, lines are `next` apart.
struct Lines {
    count: usize,
    length: usize,
    next: usize,
    step: usize,
}

/// Replaces lines by what `change` makes of them. `order` says where number `i` of a changed line lies in the plane
/// before and after.
fn of_lines(
    plane: &mut [i32],
    lines: &Lines,
    from: impl Fn(usize) -> usize,
    to: impl Fn(usize) -> usize,
    change: impl Fn(&mut [Lanes]),
) {
    let mut buffer = vec![[0; LANES]; lines.length];
    for first in (0..lines.count).step_by(LANES) {
        let lanes = LANES.min(lines.count - first);
        for (i, values) in buffer.iter_mut().enumerate() {
            let at = first * lines.next + from(i) * lines.step;
            values.iter_mut().take(lanes).enumerate().for_each(|(k, x)| *x = plane[at + k * lines.next].into());
        }
        change(&mut buffer);
        for (i, values) in buffer.iter().enumerate() {
            let at = first * lines.next + to(i) * lines.step;
            let values = values.iter().take(lanes).enumerate();
            values.for_each(|(k, &x)| plane[at + k * lines.next] = x.clamp(-MOST, MOST) as i32);
        }
    }
}

/// The halvings of one level: whether rows and columns are halved, and the sides before.
fn steps(sides: [usize; 2], levels: [u8; 2], level: u8) -> ([usize; 2], [bool; 2]) {
    let before = [0, 1].map(|i| halved(sides[i], (level - 1).min(levels[i])));
    (before, [0, 1].map(|i| level <= levels[i] && before[i] > 1))
}

/// Turns the coefficients of a plane of these sides into samples; `levels` are the halvings of its rows and of its
/// columns.
pub fn inverse(filter: Filter, plane: &mut [i32], sides: [usize; 2], levels: [u8; 2]) {
    let width = sides[1];
    for level in (1..=levels[0].max(levels[1])).rev() {
        let ([h, w], halves) = steps(sides, levels, level);
        // Where number `i` of a line lies: low-pass first.
        let place = |n: usize| move |i: usize| if i.is_multiple_of(2) { i / 2 } else { n.div_ceil(2) + i / 2 };
        let change = |line: &mut [Lanes]| filter.synthesize(line);
        if halves[0] {
            let lines = Lines { count: w, length: h, next: 1, step: width };
            of_lines(plane, &lines, place(h), |i| i, change);
        }
        if halves[1] {
            let lines = Lines { count: h, length: w, next: width, step: 1 };
            of_lines(plane, &lines, place(w), |i| i, change);
        }
    }
}

/// Turns samples into coefficients; the reverse of [`inverse`], exactly so with [`Filter::Cdf53`].
pub fn forward(filter: Filter, plane: &mut [i32], sides: [usize; 2], levels: [u8; 2]) {
    let width = sides[1];
    for level in 1..=levels[0].max(levels[1]) {
        let ([h, w], halves) = steps(sides, levels, level);
        let place = |n: usize| move |i: usize| if i.is_multiple_of(2) { i / 2 } else { n.div_ceil(2) + i / 2 };
        let change = |line: &mut [Lanes]| filter.analyze(line);
        if halves[1] {
            let lines = Lines { count: h, length: w, next: width, step: 1 };
            of_lines(plane, &lines, |i| i, place(w), change);
        }
        if halves[0] {
            let lines = Lines { count: w, length: h, next: 1, step: width };
            of_lines(plane, &lines, |i| i, place(h), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(n: usize, seed: u32, most: i32) -> Vec<i32> {
        let mut x = seed | 1;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (((i64::from(x >> 4) * 2 * i64::from(most)) >> 28) - i64::from(most)) as i32
        };
        (0..n).map(|_| next()).collect()
    }

    proptest! {
        /// 5/3 is exact; 9/7 is so but for rounding.
        #[test]
        fn transforms_are_undone(
            sides in prop::array::uniform2(1usize..70),
            levels in prop::array::uniform2(0u8..=7),
            seed: u32,
            most in prop::sample::select(vec![1, 300, 1 << 20]),
        ) {
            let levels = [0, 1].map(|i| levels[i].min(most_levels(sides[i])));
            let samples = noise(sides[0] * sides[1], seed, most);
            for filter in Filter::ALL {
                let mut plane = samples.clone();
                forward(filter, &mut plane, sides, levels);
                inverse(filter, &mut plane, sides, levels);
                let off = plane.iter().zip(&samples).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
                let allowed = if filter == Filter::Cdf53 { 0 } else { 40 };
                prop_assert!(off <= allowed, "{filter:?} {off}");
            }
        }

        /// Any coefficients give numbers within their range.
        #[test]
        fn any_coefficients_are_clamped(sides in prop::array::uniform2(1usize..40), seed: u32) {
            for filter in Filter::ALL {
                let mut plane = noise(sides[0] * sides[1], seed, i32::MAX);
                inverse(filter, &mut plane, sides, sides.map(most_levels));
                prop_assert!(plane.iter().all(|x| i64::from(x.unsigned_abs()) <= MOST));
            }
        }
    }

    /// A constant goes to the low-pass coefficient, at its own size.
    #[test]
    fn constants_have_one_coefficient() {
        for filter in Filter::ALL {
            let mut plane = vec![10_000; 13 * 9];
            forward(filter, &mut plane, [13, 9], [4, 4]);
            assert!(plane[0].abs_diff(10_000) < 5, "{filter:?} {}", plane[0]);
            assert!(plane[1..].iter().all(|x| x.abs() < 5), "{filter:?}");
        }
        assert_eq!([1, 2, 3, 8, 9].map(most_levels), [0, 1, 2, 3, 4]);
        assert_eq!([0, 1, 2, 3, 4].map(|times| halved(9, times)), [9, 5, 3, 2, 1]);
    }
}
