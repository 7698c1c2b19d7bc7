//! Wavelet coefficients, plane by plane (SPEC 17.15): whether a tree of them is significant, whether one is, its sign,
//! and further bits of those that are.

use super::arithmetic::Coder;
use super::bands::{Band, bands};
use crate::error::CodecError;

/// Contexts of significance: 12 sizes of the neighbours, 4 kinds of parents.
const SIZES: usize = 12;
const PARENTS: usize = 4;
const SIGNIFICANT: usize = 0;
/// Of a tree: 3 sizes of its root, 4 numbers of neighbours with significant trees, 3 sizes of the neighbours.
const TREE: usize = SIGNIFICANT + SIZES * PARENTS;
/// Of a sign: 5 sums of the neighbours' signs, in 4 kinds of bands.
const SIGN: usize = TREE + 3 * 4 * 3;
/// Of a further bit: 6 sizes of the neighbours, the first of the coefficient or another.
const FURTHER: usize = SIGN + 5 * 4;
/// The number of probabilities.
pub const SLOTS: usize = FURTHER + 2 * 6;

/// The sign of a significant coefficient.
const NEGATIVE: u8 = 1;
/// A descendant is significant; and it became so in the plane of the last visit.
const HAS_TREE: u8 = 2;
const NEW_TREE: u8 = 4;
/// A bit after the first one is known.
const REFINED: u8 = 8;

/// The coefficients of a band, as far as their planes are known. Rows and columns have a margin of one element.
struct Known {
    band: Band,
    stride: usize,
    /// The known bits, then a one in place of the next bit, if any is one.
    magnitudes: Vec<u32>,
    states: Vec<u8>,
}

/// What an encoder wants the coefficients of a band to be, like [`Known`] with its margin; a decoder has none.
struct Wanted {
    magnitudes: Vec<u32>,
    negative: Vec<bool>,
    /// The bits of all descendants of each coefficient together.
    trees: Vec<u32>,
}

/// The coefficients of a tile, as far as their planes are known.
pub struct Planes {
    bands: Vec<Known>,
    sides: [usize; 2],
}

/// Returns a number that grows with the logarithm of `sum`, below [`SIZES`].
#[inline(always)]
fn size(sum: u32) -> usize {
    match sum {
        0..4 => sum as usize,
        _ => {
            let log = sum.ilog2();
            (2 * log as usize + (sum >> (log - 1) & 1) as usize).min(SIZES - 1)
        }
    }
}

impl Known {
    fn new(band: Band) -> Known {
        let [height, width] = band.sides();
        let stride = width + 2;
        let count = (height + 2) * stride;
        Known { band, stride, magnitudes: vec![0; count], states: vec![0; count] }
    }

    /// Returns where an element lies.
    #[inline(always)]
    fn at(&self, row: usize, column: usize) -> usize {
        (row + 1) * self.stride + column + 1
    }

    /// Returns where the parent of an element lies in its band.
    #[inline(always)]
    fn parent_in(&self, parent: &Known, row: usize, column: usize) -> usize {
        let [height, width] = parent.band.sides();
        let [down, across] = self.band.shift;
        parent.at((row >> down).min(height - 1), (column >> across).min(width - 1))
    }

    /// Returns the weighted sum of the eight neighbours, in units of a plane. Where only one direction has high
    /// frequencies, edges run along the other one, and its neighbours weigh more.
    #[inline(always)]
    fn near(&self, at: usize, plane: u32) -> u32 {
        let (m, s) = (&self.magnitudes, self.stride);
        let sum = |a: usize, b: usize| u64::from(m[a]) + u64::from(m[b]);
        let (across, down) = (sum(at - 1, at + 1), sum(at - s, at + s));
        let straight = match self.band.high {
            [false, true] => across + 3 * down,
            [true, false] => 3 * across + down,
            _ => 2 * (across + down),
        };
        let diagonal = sum(at - s - 1, at - s + 1) + sum(at + s - 1, at + s + 1);
        ((straight + diagonal) >> plane).min(u64::from(u32::MAX)) as u32
    }

    /// Returns the context of a sign, and whether the sign is expected to be negative.
    #[inline(always)]
    fn sign(&self, at: usize) -> (usize, bool) {
        let of = |at: usize| match self.magnitudes[at] {
            0 => 0,
            _ if self.states[at] & NEGATIVE != 0 => -1,
            _ => 1,
        };
        let across = (of(at - 1) + of(at + 1)).clamp(-1, 1);
        let down = (of(at - self.stride) + of(at + self.stride)).clamp(-1, 1);
        let kind = usize::from(self.band.high[0]) * 2 + usize::from(self.band.high[1]);
        let code: i32 = 3 * across + down;
        (kind * 5 + code.unsigned_abs() as usize, code < 0)
    }
}

impl Planes {
    /// Creates coefficients of which nothing is known.
    pub fn new(sides: [usize; 2], levels: [u8; 2]) -> Planes {
        Planes { bands: bands(sides, levels).into_iter().map(Known::new).collect(), sides }
    }

    /// Codes a plane of all coefficients: bit number `plane` of their magnitudes.
    ///
    /// # Errors
    /// Those of the coder.
    pub fn code<C: Coder>(&mut self, coder: &mut C, plane: u32, target: Option<&Target>) -> Result<(), CodecError> {
        for i in 0..self.bands.len() {
            let (above, from) = self.bands.split_at_mut(i);
            let Some(band) = from.first_mut() else { break };
            let parent = band.band.parent.and_then(|parent| above.get(parent));
            band.code(coder, parent, plane, target.and_then(|target| target.bands.get(i)))?;
        }
        Ok(())
    }

    /// Calls `take` with each coefficient of which a bit is one: its band, its place in the plane, the known bits of its
    /// magnitude down to `plane`, and whether it is negative.
    pub fn each(&self, plane: u32, mut take: impl FnMut(usize, usize, u32, bool)) {
        for (i, known) in self.bands.iter().enumerate() {
            for (r, row) in known.band.rows.clone().enumerate() {
                for (c, column) in known.band.columns.clone().enumerate() {
                    let at = known.at(r, c);
                    let magnitude = known.magnitudes[at] >> plane;
                    if magnitude != 0 {
                        take(i, row * self.sides[1] + column, magnitude, known.states[at] & NEGATIVE != 0);
                    }
                }
            }
        }
    }
}

impl Known {
    fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        parent: Option<&Known>,
        plane: u32,
        wanted: Option<&Wanted>,
    ) -> Result<(), CodecError> {
        let [height, width] = self.band.sides();
        for r in 0..height {
            for c in 0..width {
                let over = parent.map(|parent| (parent, self.parent_in(parent, r, c)));
                let parents = over.map_or(Some(0), |(parent, over)| parent.kind_of_parent(over, plane));
                // Without a parent's tree there are only zeros.
                let Some(parents) = parents else { continue };
                let at = self.at(r, c);
                let wanted = wanted.map_or((0, false, 0), |w| (w.magnitudes[at], w.negative[at], w.trees[at]));
                let near = size(self.near(at, plane));
                self.magnitude(coder, at, plane, parents * SIZES + near, (wanted.0, wanted.1))?;
                if self.band.is_parent {
                    self.tree(coder, at, plane, near, wanted.2)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the kind of a parent; `None` if no descendant of it is significant.
    #[inline(always)]
    fn kind_of_parent(&self, at: usize, plane: u32) -> Option<usize> {
        match self.states[at] {
            state if state & HAS_TREE == 0 => None,
            state if state & NEW_TREE != 0 => Some(1),
            _ => Some(2 + usize::from(self.magnitudes[at] >> plane >= 4)),
        }
    }

    /// Codes a bit of a magnitude, and the sign after the first one. `context` is that of significance.
    #[inline(always)]
    fn magnitude<C: Coder>(
        &mut self,
        coder: &mut C,
        at: usize,
        plane: u32,
        context: usize,
        (wanted, negative): (u32, bool),
    ) -> Result<(), CodecError> {
        let (bit, magnitude) = (1u32 << plane, self.magnitudes[at]);
        if magnitude != 0 {
            let is_first = self.states[at] & REFINED == 0;
            let context = context % SIZES / 2 + if is_first { 0 } else { SIZES / 2 };
            let one = coder.bit(FURTHER + context, wanted & bit != 0)?;
            self.magnitudes[at] = magnitude & !bit | if one { bit } else { 0 } | bit >> 1;
            self.states[at] |= REFINED;
        } else if coder.bit(SIGNIFICANT + context, wanted >> plane != 0)? {
            let (context, expected) = self.sign(at);
            if coder.bit(SIGN + context, negative != expected)? != expected {
                self.states[at] |= NEGATIVE;
            }
            self.magnitudes[at] = bit | bit >> 1;
        }
        Ok(())
    }

    /// Codes whether a descendant is significant, unless one is already. `near` is the size of the neighbours.
    #[inline(always)]
    fn tree<C: Coder>(
        &mut self,
        coder: &mut C,
        at: usize,
        plane: u32,
        near: usize,
        wanted: u32,
    ) -> Result<(), CodecError> {
        if self.states[at] & HAS_TREE != 0 {
            self.states[at] &= !NEW_TREE;
            return Ok(());
        }
        let has = |at: usize| usize::from(self.states[at] & HAS_TREE != 0);
        let trees = has(at - 1) + has(at + 1) + has(at - self.stride) + has(at + self.stride);
        let root = match self.magnitudes[at] >> plane {
            0 => 0,
            1..4 => 1,
            _ => 2,
        };
        let around = match near {
            0..2 => 0,
            2..7 => 1,
            _ => 2,
        };
        if coder.bit(TREE + (root * 4 + trees.min(3)) * 3 + around, wanted >> plane != 0)? {
            self.states[at] |= HAS_TREE | NEW_TREE;
        }
        Ok(())
    }
}

/// What an encoder wants the coefficients of a tile to be.
pub struct Target {
    bands: Vec<Wanted>,
}

impl Target {
    /// Creates the coefficients of a plane of these sides, row-major, with their signs.
    pub fn new(sides: [usize; 2], levels: [u8; 2], coefficients: &[i32]) -> Target {
        let known = Planes::new(sides, levels).bands;
        let wanted = |known: &Known| {
            let count = known.magnitudes.len();
            let mut wanted = Wanted { magnitudes: vec![0; count], negative: vec![false; count], trees: vec![0; count] };
            for (r, row) in known.band.rows.clone().enumerate() {
                for (c, column) in known.band.columns.clone().enumerate() {
                    let (at, value) = (known.at(r, c), coefficients[row * sides[1] + column]);
                    (wanted.magnitudes[at], wanted.negative[at]) = (value.unsigned_abs(), value < 0);
                }
            }
            wanted
        };
        let mut bands: Vec<Wanted> = known.iter().map(wanted).collect();
        for (i, own) in known.iter().enumerate().rev() {
            let Some(parent) = own.band.parent else { continue };
            let [height, width] = own.band.sides();
            for (r, c) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
                let at = own.at(r, c);
                let bits = bands[i].magnitudes[at] | bands[i].trees[at];
                bands[parent].trees[own.parent_in(&known[parent], r, c)] |= bits;
            }
        }
        Target { bands }
    }

    /// Returns the number of planes that hold all magnitudes.
    pub fn planes(&self) -> u32 {
        let bits = self.bands.iter().flat_map(|band| &band.magnitudes).fold(0, |bits, magnitude| bits | magnitude);
        u32::BITS - bits.leading_zeros()
    }
}
