//! The choice of all parts of a block, in 16 rows at once.
//!
//! Within a block, columns are rounded from last to first with error feedback, as everywhere. The scales of a group are chosen when it is
//! its turn, for the targets that it has then: of the best candidates under plain rounding, those whose error with feedback is
//! least.

use std::ops::Range;

use half::f16;
use impasto_core::DType;
use impasto_core::blocks::apart::{Form, Parts, Scales as Kind};
use impasto_core::blocks::pack::largest_scale;

use super::levels::Levels;
use super::search::{Minimum, Scales, inverse, inverses, search};
use crate::feedback::{Row, WIDTH, multiply_add};

/// Candidates for the scales of a group that are tried with feedback.
const TRIED: usize = 4;
/// The same for a group of a larger block; each leads to two scales that can be written.
const TRIED_IN_GROUP: usize = 2;
/// Most columns of a group.
const GROUP: usize = 32;
/// The numbers that the largest scale of a block may get, as shares of the largest that can be written.
const SHARES: [f32; 8] = [1.0, 0.985, 0.97, 0.95, 0.93, 0.9, 0.86, 0.8];

/// The metric of the errors of a block: a factored covariance, given the columns of other blocks.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    /// As many rows and columns as the block: entry (i, j) is `L_ji / L_ii` for j > i, else 0.
    pub coefficients: &'a [f32],
    /// The square of `L_ii`.
    pub weights: &'a [f32],
}

/// A block of 16 rows.
#[derive(Clone)]
pub struct Block {
    /// The parts of each row.
    pub parts: [Parts; WIDTH],
    /// What a decoder makes of them, one row for each column.
    pub values: Vec<Row<f32>>,
    /// The error of each row, under the metric of the block.
    pub errors: Row<f32>,
}

/// What a type is made of.
#[derive(Clone, Copy)]
pub struct Type<L> {
    pub form: Form,
    pub levels: L,
    /// The number of the largest scale of a group, for blocks with several groups.
    pub largest: u8,
}

impl<L: Levels> Type<L> {
    pub fn new(dtype: DType, form: Form, levels: L) -> Type<L> {
        Type { form, levels, largest: largest_scale(dtype).unwrap_or(0) }
    }

    fn minimum(&self) -> Minimum {
        match self.form.scales {
            Kind::BlockMinimum => Minimum::Free,
            Kind::GroupMinimum => Minimum::Below,
            Kind::Block | Kind::Exponent | Kind::Group => Minimum::None,
        }
    }

    /// Chooses a block for these targets. What it was `before`, under the same metric, is among what is tried.
    #[inline(always)]
    pub fn fit(&self, targets: &[Row<f32>], local: Local, before: Option<&Block>) -> Block {
        let mut block =
            Block { parts: [Parts::default(); WIDTH], values: vec![[0.0; WIDTH]; targets.len()], errors: [0.0; WIDTH] };
        match self.form.scales {
            Kind::Group | Kind::GroupMinimum => self.fit_groups(targets, local, before, &mut block),
            _ => self.fit_one(targets, local, before, &mut block),
        }
        block
    }

    /// Chooses a block with one scale.
    #[inline(always)]
    fn fit_one(&self, targets: &[Row<f32>], local: Local, before: Option<&Block>, block: &mut Block) {
        let found = search::<TRIED>(self.levels, self.minimum(), targets, local.weights, to_f16);
        let before = before.map(|block| {
            let of =
                |bits: fn(&Parts) -> u16| std::array::from_fn(|lane| f16::from_bits(bits(&block.parts[lane])).to_f32());
            Scales { scale: of(|parts| parts.scale), minimum: of(|parts| parts.minimum) }
        });
        let mut best = Choice::new();
        for scales in found.found().iter().chain(&before) {
            best.attempt(self.levels, *scales, &Group { targets, above: None, local, from: 0, len: targets.len() });
        }
        best.put(self.levels, 0..targets.len(), block);
        for (lane, parts) in block.parts.iter_mut().enumerate() {
            parts.scale = f16::from_f32(best.scales.scale[lane]).to_bits();
            parts.minimum = f16::from_f32(best.scales.minimum[lane]).to_bits();
        }
        block.errors = best.errors;
    }

    /// Chooses a block whose groups have scales of their own.
    #[inline(always)]
    fn fit_groups(&self, targets: &[Row<f32>], local: Local, before: Option<&Block>, block: &mut Block) {
        let (len, n) = (self.form.group, targets.len());
        let (scale, minimum) = match before {
            Some(before) => {
                let of = |bits: fn(&Parts) -> u16| {
                    std::array::from_fn(|lane| f16::from_bits(bits(&before.parts[lane])).to_f32())
                };
                (of(|parts| parts.scale), of(|parts| parts.minimum))
            }
            None => self.block_scales(targets, local.weights),
        };
        let (per_scale, per_minimum) = (inverses(&scale), inverses(&minimum));
        let mut errors = vec![[0.0; WIDTH]; n];
        for group in (0..n / len).rev() {
            let (from, end) = (group * len, (group + 1) * len);
            // What the groups after this one left.
            let mut above = [[0.0; WIDTH]; GROUP];
            multiply_add(&mut above[..len], &local.coefficients[from * n + end..], n, &errors[end..], 0.0);
            let mut moved = [[0.0; WIDTH]; GROUP];
            for ((moved, target), above) in moved.iter_mut().zip(&targets[from..end]).zip(&above) {
                *moved = std::array::from_fn(|lane| target[lane] + above[lane]);
            }
            let (moved, weights) = (&moved[..len], &local.weights[from..end]);
            let place = Group { targets, above: Some(&above), local, from, len };
            let mut best = Choice::new();
            let mut attempt = |numbers: Numbers| {
                best.attempt_numbers(self.levels, numbers, self.scales_of(&numbers, &scale, &minimum), &place);
            };
            let found = search::<TRIED_IN_GROUP>(self.levels, self.minimum(), moved, weights, |x| x);
            for found in found.found() {
                for up in [0.0, 1.0] {
                    let number = std::array::from_fn(|lane| (found.scale[lane] * per_scale[lane]).floor() + up);
                    attempt(self.numbers(&number, found, &scale, &per_minimum, moved, weights));
                }
            }
            if let Some(before) = before {
                attempt(Numbers {
                    scale: std::array::from_fn(|lane| f32::from(before.parts[lane].scales[group])),
                    minimum: std::array::from_fn(|lane| f32::from(before.parts[lane].minimums[group])),
                });
            }
            best.put(self.levels, from..end, block);
            for (lane, parts) in block.parts.iter_mut().enumerate() {
                parts.scales[group] = best.numbers.scale[lane] as i8;
                parts.minimums[group] = best.numbers.minimum[lane] as u8;
                block.errors[lane] += best.errors[lane];
            }
            for i in from..end {
                errors[i] = std::array::from_fn(|lane| targets[i][lane] - block.values[i][lane]);
            }
        }
        for (lane, parts) in block.parts.iter_mut().enumerate() {
            parts.scale = f16::from_f32(scale[lane]).to_bits();
            parts.minimum = f16::from_f32(minimum[lane]).to_bits();
        }
    }

    /// Returns the scale and the minimum that those of groups are multiples of.
    #[inline(always)]
    fn block_scales(&self, targets: &[Row<f32>], weights: &[f32]) -> (Row<f32>, Row<f32>) {
        let len = self.form.group;
        let mut found = Vec::with_capacity(targets.len() / len);
        for (targets, weights) in targets.chunks_exact(len).zip(weights.chunks_exact(len)) {
            let scales = search::<1>(self.levels, self.minimum(), targets, weights, |x| x).found()[0];
            // How much a change of them costs.
            let (inverse, mut squares, mut all) = (inverses(&scales.scale), [0.0; WIDTH], 0.0);
            for (row, weight) in targets.iter().zip(weights) {
                all += weight;
                for lane in 0..WIDTH {
                    let level = self.levels.nearest((row[lane] - scales.minimum[lane]) * inverse[lane]);
                    squares[lane] += weight * level * level;
                }
            }
            found.push((scales, squares, all));
        }
        let most = f32::from(self.largest);
        let (mut scale, mut minimum) = ([0.0; WIDTH], [0.0; WIDTH]);
        for lane in 0..WIDTH {
            scale[lane] = common(found.iter().map(|(scales, squares, _)| (scales.scale[lane], squares[lane])), most);
            let minimums = found.iter().map(|(scales, _, all)| (-scales.minimum[lane], *all));
            minimum[lane] = if self.form.has_minimums() { common(minimums, most) } else { 0.0 };
        }
        (scale, minimum)
    }

    /// Returns numbers that can be written, of a scale and of the minimum that goes with it.
    #[inline(always)]
    fn numbers(
        &self,
        number: &Row<f32>,
        found: &Scales,
        scale: &Row<f32>,
        per_minimum: &Row<f32>,
        targets: &[Row<f32>],
        weights: &[f32],
    ) -> Numbers {
        let most = f32::from(self.largest);
        let least = if self.form.has_minimums() { 0.0 } else { -most };
        let number = number.map(|number| number.max(least).min(most));
        let mut numbers = Numbers { scale: number, minimum: [0.0; WIDTH] };
        if !self.form.has_minimums() {
            return numbers;
        }
        let scale: Row<f32> = std::array::from_fn(|lane| scale[lane] * number[lane]);
        let (inverse, mut rest, mut all) = (inverses(&scale), [0.0; WIDTH], 0.0);
        for (row, weight) in targets.iter().zip(weights) {
            all += weight;
            for lane in 0..WIDTH {
                let level = self.levels.nearest((row[lane] - found.minimum[lane]) * inverse[lane]);
                rest[lane] += weight * (row[lane] - scale[lane] * level);
            }
        }
        for lane in 0..WIDTH {
            let number = (-rest[lane] / all * per_minimum[lane]).round_ties_even();
            numbers.minimum[lane] = number.max(0.0).min(most);
        }
        numbers
    }

    fn scales_of(&self, numbers: &Numbers, scale: &Row<f32>, minimum: &Row<f32>) -> Scales {
        Scales {
            scale: std::array::from_fn(|lane| scale[lane] * numbers.scale[lane]),
            minimum: std::array::from_fn(|lane| -(minimum[lane] * numbers.minimum[lane])),
        }
    }
}

/// Returns the number whose whole multiples, up to `most` times, come nearest to some scales, each with a weight.
fn common(scales: impl Iterator<Item = (f32, f32)> + Clone, most: f32) -> f32 {
    let largest =
        scales.clone().fold(0.0f32, |largest, (scale, _)| if scale.abs() > largest.abs() { scale } else { largest });
    let mut best = (f32::INFINITY, 0.0);
    for share in SHARES {
        let unit = to_f16(largest / (most * share).round_ties_even());
        let per_unit = inverse(unit);
        let error = |(scale, weight): (f32, f32)| {
            let number = (scale * per_unit).round_ties_even().max(-most).min(most);
            weight * (scale - unit * number) * (scale - unit * number)
        };
        let error: f32 = scales.clone().map(error).sum();
        if error < best.0 {
            best = (error, unit);
        }
    }
    best.1
}

/// Returns the nearest binary16 that is finite.
fn to_f16(x: f32) -> f32 {
    let most = f16::MAX.to_f32();
    f16::from_f32(x.max(-most).min(most)).to_f32()
}

/// The small numbers of a group.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    scale: Row<f32>,
    minimum: Row<f32>,
}

/// The columns of a group in its block.
struct Group<'a> {
    /// Of the whole block.
    targets: &'a [Row<f32>],
    /// What the columns after the group add to its targets.
    above: Option<&'a [Row<f32>; GROUP]>,
    local: Local<'a>,
    from: usize,
    len: usize,
}

/// The best scales of a group that were tried, and what they lead to.
struct Choice {
    scales: Scales,
    numbers: Numbers,
    levels: [Row<f32>; GROUP],
    errors: Row<f32>,
}

impl Choice {
    fn new() -> Choice {
        Choice {
            scales: Scales::default(),
            numbers: Numbers::default(),
            levels: [[0.0; WIDTH]; GROUP],
            errors: [f32::INFINITY; WIDTH],
        }
    }

    #[inline(always)]
    fn attempt(&mut self, levels: impl Levels, scales: Scales, group: &Group) {
        self.attempt_numbers(levels, Numbers::default(), scales, group);
    }

    /// Rounds the group under some scales, with feedback, and keeps the result in the rows where it is the best.
    #[inline(always)]
    fn attempt_numbers(&mut self, levels: impl Levels, numbers: Numbers, scales: Scales, group: &Group) {
        let Group { targets, above, local, from, len } = group;
        let (n, inverse) = (targets.len(), inverses(&scales.scale));
        let (mut made, mut errors) = ([[0.0; WIDTH]; GROUP], [[0.0; WIDTH]; GROUP]);
        let mut sums = [0.0; WIDTH];
        for i in (0..*len).rev() {
            let column = from + i;
            let mut target = targets[column];
            if let Some(above) = above {
                (0..WIDTH).for_each(|lane| target[lane] += above[i][lane]);
            }
            let row = &local.coefficients[column * n + column + 1..column * n + from + len];
            for (c, error) in row.iter().zip(&errors[i + 1..]) {
                (0..WIDTH).for_each(|lane| target[lane] += c * error[lane]);
            }
            let weight = local.weights[column];
            for lane in 0..WIDTH {
                let level = levels.nearest((target[lane] - scales.minimum[lane]) * inverse[lane]);
                let value = scales.scale[lane] * level + scales.minimum[lane];
                made[i][lane] = level;
                errors[i][lane] = targets[column][lane] - value;
                sums[lane] += weight * (target[lane] - value) * (target[lane] - value);
            }
        }
        let better: Row<bool> = std::array::from_fn(|lane| sums[lane] < self.errors[lane]);
        for lane in (0..WIDTH).filter(|&lane| better[lane]) {
            (self.scales.scale[lane], self.scales.minimum[lane]) = (scales.scale[lane], scales.minimum[lane]);
            (self.numbers.scale[lane], self.numbers.minimum[lane]) = (numbers.scale[lane], numbers.minimum[lane]);
            self.errors[lane] = sums[lane];
            (0..*len).for_each(|i| self.levels[i][lane] = made[i][lane]);
        }
    }

    /// Puts the integers and the values of the group into its columns of a block.
    #[inline(always)]
    fn put(&self, levels: impl Levels, columns: Range<usize>, block: &mut Block) {
        for (column, of_column) in columns.zip(&self.levels) {
            for (lane, &level) in of_column.iter().enumerate() {
                block.values[column][lane] = self.scales.scale[lane] * level + self.scales.minimum[lane];
                block.parts[lane].integers[column] = levels.integer(level);
            }
        }
    }
}
