//! Where the symbols of a tile go: they are counted, costed or coded through one interface.
//!
//! The syntax of each mode ([`crate::tile::syntax`]) is one function over a [`SymbolSink`], so what is counted, what is costed and
//! what is coded cannot differ. The model is the `Writer` of the AV1 encoder rav1e.
//!
//! | sink | gives |
//! |---|---|
//! | [`Counts`] | how often each symbol occurs, and so the cheapest tables |
//! | [`Cost`] | bytes of the unit under given tables, without coding it |
//! | [`Recorder`] | the unit: rANS runs backwards, so symbols are recorded and replayed in reverse |
//!
//! [`Cost`] and [`Counts`] are plain sums: clone one to try something, drop the clone to take it back. A [`Recorder`] has
//! [`Recorder::checkpoint`] and [`Recorder::roll_back`].

mod cost;
mod counts;
mod record;

pub use cost::{Cost, Prices};
pub use counts::Counts;
pub use record::{Checkpoint, CodingTables, Recorder};

use crate::class::Class;

/// Takes the symbols of a tile, row by row, in the order in which a decoder meets them.
pub trait SymbolSink {
    /// An entropy-coded value. Where no symbol of its class reaches it, it is an escape.
    fn symbol(&mut self, class: Class, value: i32);

    /// The low `bits` bits of `field` (`bits` at most 32) into the plane.
    fn raw(&mut self, field: u32, bits: u32);

    /// The row ends: the plane is padded to a byte, and the next symbol belongs to lane 0.
    fn end_row(&mut self);
}
