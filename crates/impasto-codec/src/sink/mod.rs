//! Destinations for the symbols of a tile, which count, cost or code them through one interface.
//!
//! The syntax of each mode ([`crate::tile::syntax`]) is one function over a [`SymbolSink`], so counting, costing and
//! coding always see the same symbols. The design follows the `Writer` of the AV1 encoder rav1e.
//!
//! | sink | result |
//! |---|---|
//! | [`Counts`] | number of occurrences of each symbol, and tables fitted to them |
//! | [`Cost`] | bytes of the unit under given tables, without coding it |
//! | [`Recorder`] | the unit: rANS runs backwards, so symbols are recorded and replayed in reverse |
//!
//! [`Cost`] and [`Counts`] are plain sums: clone one for a trial, and drop the clone to reject the trial. For a
//! [`Recorder`], use [`Recorder::checkpoint`] and [`Recorder::roll_back`].

mod cost;
mod counts;
mod record;
mod slot;

pub use cost::{Cost, Prices};
pub use counts::Counts;
pub use record::{Checkpoint, CodingTables, Recorder};
pub(crate) use slot::BATCH;

/// Receives the symbols of a tile, row by row, in the order in which a decoder reads them. All symbols of a sink are of
/// one kind.
pub trait SymbolSink {
    /// Receives the entropy-coded values of the next elements of the row, and the sums of row class and column class
    /// under which they are coded (`t` of SPEC 7.1, before it is clamped). A value outside the range of the symbols of
    /// its class is coded as an escape.
    ///
    /// # Panics
    /// If `classes` and `values` differ in length.
    fn symbols(&mut self, classes: &[i32], values: &[i32]);

    /// Receives the low `bits` bits (at most 32) of each of the next fields of the plane.
    fn raw(&mut self, fields: &[i32], bits: u32);

    /// Ends the row: the plane is padded to a byte, and the next symbol belongs to lane 0.
    fn end_row(&mut self);
}
