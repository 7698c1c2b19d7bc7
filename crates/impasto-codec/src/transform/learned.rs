//! Transforms that are learned from a tile and sent in its unit (SPEC 17.10): the Karhunen-Loève transform, of one size for
//! columns and one for rows.

use super::arithmetic::Coder;
use super::basis::{Basis, Kind, LEAST_LOG, ONE, basis};
use crate::error::CodecError;

/// Binary digits of an entry after the point.
const DIGITS: u32 = 12;

/// The transforms of a tile: those that every tile has, and up to two that are its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    /// That of columns and that of rows.
    sides: [Option<Learned>; 2],
}

/// A learned transform.
#[derive(Clone, Debug)]
pub struct Learned {
    log: u32,
    /// Vector by vector, in units of 2^-12.
    entries: Vec<i16>,
    basis: Basis,
}

impl PartialEq for Learned {
    fn eq(&self, other: &Self) -> bool {
        (self.log, &self.entries) == (other.log, &other.entries)
    }
}

impl Eq for Learned {}

impl Learned {
    /// Creates a transform of `2^log` values, 4 to 32, from its basis vectors, one after the other. Entries are rounded to
    /// 12 binary digits, and clamped to -1 to 1.
    ///
    /// # Errors
    /// [`CodecError::Call`] if there is no such size, or these are not as many entries.
    pub fn new(log: u32, vectors: &[f32]) -> Result<Learned, CodecError> {
        if !(LEAST_LOG..=super::basis::MOST_LOG).contains(&log) || vectors.len() != 1 << (2 * log) {
            return Err(CodecError::Call("a learned transform has 4, 8, 16 or 32 vectors of as many entries"));
        }
        let one = (1 << DIGITS) as f32;
        Ok(Learned::of(log, vectors.iter().map(|entry| (entry * one).round().clamp(-one, one - 1.0) as i16).collect()))
    }

    fn of(log: u32, entries: Vec<i16>) -> Learned {
        let integers = entries.iter().map(|&entry| i64::from(entry) << (ONE - DIGITS)).collect();
        Learned { log, basis: Basis::new(1 << log, integers), entries }
    }

    /// Returns the logarithm of its size.
    pub fn log(&self) -> u32 {
        self.log
    }

    /// Codes a transform.
    fn code<C: Coder>(coder: &mut C, wanted: Option<&Learned>) -> Result<Learned, CodecError> {
        let log = LEAST_LOG + coder.raw(wanted.map_or(0, |wanted| wanted.log - LEAST_LOG), 2)?;
        let entry = |i: usize| {
            let given = wanted.map_or(0, |wanted| wanted.entries[i]);
            // Two's complement of 13 bits.
            let bits = coder.raw(given as u32 & ((2 << DIGITS) - 1), DIGITS + 1)?;
            Ok((bits << (31 - DIGITS)) as i32 >> (31 - DIGITS)).map(|entry| entry as i16)
        };
        Ok(Learned::of(log, (0..1usize << (2 * log)).map(entry).collect::<Result<_, CodecError>>()?))
    }
}

impl Bases {
    /// Creates the transforms of a tile with these learned ones, of columns and of rows.
    pub fn new(sides: [Option<Learned>; 2]) -> Bases {
        Bases { sides }
    }

    /// Returns the learned transform of columns (side 0) or rows (side 1).
    pub fn learned(&self, side: usize) -> Option<&Learned> {
        self.sides[side].as_ref()
    }

    /// Returns whether columns (side 0) or rows (side 1) of `2^log` values may have a learned transform.
    pub fn fits(&self, side: usize, log: u32) -> bool {
        self.sides[side].as_ref().is_some_and(|learned| learned.log == log)
    }

    /// Returns the matrix of a transform of columns (side 0) or rows (side 1) of `2^log` values, 4 to 32. In place of a
    /// learned transform that does not fit, it is the DCT.
    pub fn of(&self, side: usize, kind: Kind, log: u32) -> &Basis {
        match &self.sides[side] {
            Some(learned) if kind == Kind::Learned && learned.log == log => &learned.basis,
            _ => basis(if kind == Kind::Learned { Kind::Dct } else { kind }, log),
        }
    }

    /// Codes the learned transforms of the sides for which `has` holds.
    pub(super) fn code<C: Coder>(coder: &mut C, has: [bool; 2], wanted: &Bases) -> Result<Bases, CodecError> {
        let mut sides = [None, None];
        for side in 0..2 {
            if has[side] {
                sides[side] = Some(Learned::code(coder, wanted.learned(side))?);
            }
        }
        Ok(Bases { sides })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::arithmetic::{Decoder, Encoder};
    use crate::transform::basis::{Workspace, inverse};
    use crate::transform::levels::MOST;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bases_survive(
            logs in prop::array::uniform2(prop::option::of(2u32..=5)),
            entries in prop::collection::vec(-1.2f32..1.2, 1024),
        ) {
            let learned = |log| Learned::new(log, &entries[..1 << (2 * log)]).expect("a size");
            let bases = Bases::new(logs.map(|log| log.map(learned)));
            let has = logs.map(|log| log.is_some());
            let mut encoder = Encoder::new(0);
            Bases::code(&mut encoder, has, &bases)?;
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(0, &bytes)?;
            prop_assert_eq!(Bases::code(&mut decoder, has, &Bases::default())?, bases);
            decoder.finish()?;
        }
    }

    /// Whatever a unit says, sums fit 64 bits.
    #[test]
    fn hostile_bases_stay_in_range() {
        for entry in [-1.0, 1.0] {
            let bases = Bases::new([0; 2].map(|_| Some(Learned::new(5, &[entry; 1024]).expect("a size"))));
            let largest = (i64::from(MOST)) << 8;
            let mut work = Workspace::default();
            let out = inverse(&bases, [Kind::Learned; 2], [5, 5], &[largest; 1024], &mut work);
            assert!(out.iter().all(|&value| value > largest << 9), "{}", out[0]);
        }
    }

    #[test]
    fn what_has_no_size_is_refused() {
        for (log, entries) in [(1, 4), (6, 4096), (3, 63)] {
            assert!(matches!(Learned::new(log, &vec![0.0; entries]), Err(CodecError::Call(_))));
        }
    }
}
