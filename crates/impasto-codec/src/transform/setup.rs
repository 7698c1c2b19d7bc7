//! What a unit has before its superblocks (SPEC 17.1): how the rows and columns of the samples are ordered, and transforms of
//! its own.

use super::arithmetic::Coder;
use super::learned::Bases;
use super::order::Order;
use super::samples::Samples;
use crate::error::CodecError;

/// Flags of what is there.
const ORDERS: [u8; 2] = [1 << 2, 1 << 3];
const BASES: [u8; 2] = [1 << 4, 1 << 5];

/// What a unit has before its superblocks; usually nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// The order of its rows and that of its columns.
    pub orders: [Option<Order>; 2],
    /// Its transforms.
    pub bases: Bases,
}

impl Setup {
    /// Returns the flags of what is there.
    pub(super) fn flags(&self) -> u8 {
        let sides = 0..2usize;
        let orders = sides.clone().filter(|&side| self.orders[side].is_some()).map(|side| ORDERS[side]);
        let bases = sides.filter(|&side| self.bases.learned(side).is_some()).map(|side| BASES[side]);
        orders.chain(bases).sum()
    }

    /// Codes what the flags say, for a tile of height and width `sides`.
    ///
    /// # Errors
    /// Those of the coder.
    pub(super) fn code<C: Coder>(
        coder: &mut C,
        flags: u8,
        sides: [usize; 2],
        wanted: &Setup,
    ) -> Result<Setup, CodecError> {
        let mut orders = [None, None];
        for side in 0..2 {
            if flags & ORDERS[side] != 0 {
                orders[side] = Some(Order::code(coder, sides[side], wanted.orders[side].as_ref())?);
            }
        }
        let bases = Bases::code(coder, BASES.map(|flag| flags & flag != 0), &wanted.bases)?;
        Ok(Setup { orders, bases })
    }

    /// Moves the rows and columns of samples to their places in the tile.
    pub fn restore(&self, samples: &mut Samples) {
        let [rows, columns] = &self.orders;
        rows.iter().for_each(|order| order.move_rows(samples));
        columns.iter().for_each(|order| order.move_columns(samples));
    }
}
