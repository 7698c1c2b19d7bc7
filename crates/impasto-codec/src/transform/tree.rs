//! The partition of a tile into blocks (SPEC 17.4), and the choices of a block (SPEC 17.5).

use super::arithmetic::Coder;
use super::basis::{Kind, LEAST_LOG};
use super::learned::Bases;
use super::levels;
use super::samples::{Area, Prediction, Samples};
use crate::error::CodecError;

/// Logarithm of the side of a superblock.
pub const SUPERBLOCK_LOG: u32 = 6;

const SPLIT: usize = levels::AFTER;
const QUARTERS: usize = SPLIT + 25;
const ACROSS: usize = QUARTERS + 25;
const PREDICTION: usize = ACROSS + 25;
const FACTORS: usize = PREDICTION + 3 * 8;
const ROW_KIND: usize = FACTORS + 3 * 64;
const COLUMN_KIND: usize = ROW_KIND + Prediction::ALL.len() * 4;
const LEARNED: usize = COLUMN_KIND + 5 * 4;
/// Where the probabilities of this module end.
pub(super) const AFTER: usize = LEARNED + 2;
/// Number of probabilities of a tile.
pub const SLOTS: usize = super::runs::AFTER;

/// What a decoder passes to [`prediction`] and [`kinds`], which then ignore it.
pub const FIRST_PREDICTION: Prediction = Prediction::Zero;
/// See [`FIRST_PREDICTION`].
pub const FIRST_KINDS: [Kind; 2] = [Kind::Dct; 2];

/// What becomes of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// It is one block.
    None,
    /// Upper and lower half.
    Rows,
    /// Left and right half.
    Columns,
    /// Four quarters.
    Quarters,
}

impl Split {
    /// Returns the parts of an area, in the order of coding. Parts may lie outside the tile.
    pub fn parts(self, area: Area) -> impl Iterator<Item = Area> {
        let [split_rows, split_columns] = match self {
            Split::None => [0, 0],
            Split::Rows => [1, 0],
            Split::Columns => [0, 1],
            Split::Quarters => [1, 1],
        };
        let logs = [area.logs[0] - split_rows, area.logs[1] - split_columns];
        let offsets = move |split: u32, log: u32| (0..=split as usize).map(move |n| n << log);
        offsets(split_rows, logs[0]).flat_map(move |r| {
            offsets(split_columns, logs[1]).map(move |c| Area { at: [area.at[0] + r, area.at[1] + c], logs })
        })
    }

    /// Returns the split of an area that reaches past the sides of the samples, or `None` if it does not.
    pub fn forced(area: Area, sides: [usize; 2]) -> Option<Split> {
        let past = [0, 1].map(|side| area.at[side] + area.sides()[side] > sides[side]);
        match past {
            [false, false] => None,
            [true, false] => Some(Split::Rows),
            [false, true] => Some(Split::Columns),
            [true, true] => Some(Split::Quarters),
        }
    }

    /// Returns the splits that an area inside the tile may have.
    pub fn allowed(area: Area) -> &'static [Split] {
        match area.logs.map(|log| log > LEAST_LOG) {
            [false, false] => &[Split::None],
            [true, false] => &[Split::None, Split::Rows],
            [false, true] => &[Split::None, Split::Columns],
            [true, true] => &[Split::None, Split::Rows, Split::Columns, Split::Quarters],
        }
    }
}

/// Returns the superblocks of samples with these sides, in the order of coding.
pub fn superblocks(sides: [usize; 2]) -> impl Iterator<Item = Area> {
    let side = 1 << SUPERBLOCK_LOG;
    let logs = [SUPERBLOCK_LOG; 2];
    (0..sides[0]).step_by(side).flat_map(move |r| (0..sides[1]).step_by(side).map(move |c| Area { at: [r, c], logs }))
}

/// Returns whether an area has no samples.
pub fn is_outside(area: Area, sides: [usize; 2]) -> bool {
    area.at[0] >= sides[0] || area.at[1] >= sides[1]
}

/// Codes the split of an area inside the tile.
///
/// # Errors
/// Those of the coder.
pub fn split<C: Coder>(coder: &mut C, area: Area, split: Split) -> Result<Split, CodecError> {
    let size = ((area.logs[0] - LEAST_LOG) * 5 + area.logs[1] - LEAST_LOG) as usize;
    let allowed = Split::allowed(area);
    if allowed.len() == 1 || !coder.bit(SPLIT + size, split != Split::None)? {
        return Ok(Split::None);
    }
    if let [_, only] = allowed {
        return Ok(*only);
    }
    if coder.bit(QUARTERS + size, split == Split::Quarters)? {
        return Ok(Split::Quarters);
    }
    Ok(if coder.bit(ACROSS + size, split == Split::Rows)? { Split::Rows } else { Split::Columns })
}

/// Codes the prediction of a block.
///
/// # Errors
/// Those of the coder.
pub fn prediction<C: Coder>(coder: &mut C, area: Area, wanted: Prediction) -> Result<Prediction, CodecError> {
    let size = ((area.logs[0] + area.logs[1]) as usize / 2 - 2).min(2);
    let found = number(coder, PREDICTION + size * 8, 3, wanted.number())?;
    let mut factor = |of: usize, factor: i8| -> Result<i8, CodecError> {
        Ok(number(coder, FACTORS + of * 64, 6, (i32::from(factor) + 32) as usize)? as i8 - 32)
    };
    // A decoder wants nothing in particular, and finds a prediction with factors of 0.
    let prediction = Prediction::ALL[found];
    Ok(match if prediction.number() == wanted.number() { wanted } else { prediction } {
        Prediction::Linear([top, left]) => Prediction::Linear([factor(0, top)?, factor(1, left)?]),
        Prediction::CoLocated(of) => Prediction::CoLocated(factor(2, of)?),
        other => other,
    })
}

/// Codes the transforms of the columns and of the rows of a block whose patches have these sides.
///
/// # Errors
/// Those of the coder.
pub fn kinds<C: Coder>(
    coder: &mut C,
    bases: &Bases,
    logs: [u32; 2],
    prediction: Prediction,
    kinds: [Kind; 2],
) -> Result<[Kind; 2], CodecError> {
    let mut kind = |side: usize, first: usize| -> Result<Kind, CodecError> {
        if bases.fits(side, logs[side]) && coder.bit(LEARNED + side, kinds[side] == Kind::Learned)? {
            return Ok(Kind::Learned);
        }
        Ok(Kind::ALL[number(coder, first, 2, kinds[side] as usize)?])
    };
    let of_columns = kind(0, ROW_KIND + prediction.number() * 4)?;
    Ok([of_columns, kind(1, COLUMN_KIND + of_columns as usize * 4)?])
}

/// Codes a number of `bits` bits, each under the probability of those above it.
fn number<C: Coder>(coder: &mut C, first: usize, bits: u32, number: usize) -> Result<usize, CodecError> {
    let mut found = 1;
    for i in (0..bits).rev() {
        found = found << 1 | usize::from(coder.bit(first + found, number >> i & 1 == 1)?);
    }
    Ok(found - (1 << bits))
}

/// A part of a tile, with everything that is coded of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A block.
    Block(Block),
    /// A split, and the parts that have samples.
    Split(Split, Vec<Node>),
}

/// The choices of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// How it is predicted.
    pub prediction: Prediction,
    /// The transforms of its columns and of its rows.
    pub kinds: [Kind; 2],
    /// The levels of each of its patches, row-major; empty if all are 0.
    pub patches: Vec<Vec<i32>>,
}

/// Returns the patches of a block, which are transformed one by one: the block, or parts of 32 if a side is larger.
pub fn patches(area: Area) -> impl Iterator<Item = Area> {
    let logs = area.logs.map(|log| log.min(super::basis::MOST_LOG));
    let [height, width] = area.sides();
    let step = logs.map(|log| 1usize << log);
    (0..height).step_by(step[0]).flat_map(move |r| {
        (0..width).step_by(step[1]).map(move |c| Area { at: [area.at[0] + r, area.at[1] + c], logs })
    })
}

/// Working memory for reconstruction.
#[derive(Default)]
pub struct Workspace {
    prediction: Vec<i64>,
    coefficients: Vec<i64>,
    inverse: super::basis::Workspace,
}

/// Reconstructs a patch from its levels; `None` if all are 0.
pub fn reconstruct(
    samples: &mut Samples,
    bases: &Bases,
    area: Area,
    prediction: Prediction,
    levels_of: Option<([Kind; 2], &[i32])>,
    dependent: bool,
    work: &mut Workspace,
) {
    let Workspace { prediction: predicted, coefficients, inverse } = work;
    samples.predict(prediction, area, predicted);
    let Some((kinds, found)) = levels_of else {
        coefficients.clear();
        coefficients.resize(predicted.len(), 0);
        return samples.set(area, predicted, coefficients);
    };
    levels::coefficients(super::scan::Form::new(area.logs, kinds), dependent, found, coefficients);
    samples.set(area, predicted, super::basis::inverse(bases, kinds, area.logs, coefficients, inverse));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts tile their area, whatever the sides of the tile.
    #[test]
    fn blocks_tile_the_samples() {
        fn cover(area: Area, sides: [usize; 2], covered: &mut [u8], leaf: u32) {
            if is_outside(area, sides) {
                return;
            }
            let forced = Split::forced(area, sides);
            let small = area.logs.iter().all(|&log| log <= leaf);
            let split =
                forced.unwrap_or(if small { Split::None } else { *Split::allowed(area).last().expect("a split") });
            if split == Split::None {
                for patch in patches(area) {
                    for i in 0..patch.sides()[0] * patch.sides()[1] {
                        let [r, c] = [i / patch.sides()[1], i % patch.sides()[1]];
                        covered[(patch.at[0] + r) * sides[1] + patch.at[1] + c] += 1;
                    }
                }
                return;
            }
            split.parts(area).for_each(|part| cover(part, sides, covered, leaf));
        }
        for (sides, leaf) in [([4, 4], 2), ([64, 64], 6), ([100, 36], 3), ([8, 300], 4), ([68, 4], 6)] {
            let mut covered = vec![0; sides[0] * sides[1]];
            superblocks(sides).for_each(|area| cover(area, sides, &mut covered, leaf));
            assert!(covered.iter().all(|&times| times == 1), "{sides:?}");
        }
    }
}
