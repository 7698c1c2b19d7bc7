//! Tiles in mode transform (SPEC 17): blocks that are predicted, transformed, quantized and coded under contexts, as in
//! picture codecs. They suit what is smooth or structured, such as position embeddings.
//!
//! | module | contents |
//! |---|---|
//! | [`arithmetic`] | adaptive binary arithmetic coding: [`Coder`](arithmetic::Coder) is what syntax is written against |
//! | [`tree`] | the partition into blocks, and their choices |
//! | [`samples`] | the samples of a tile, and predictions from them |
//! | [`basis`] | transforms |
//! | [`scan`], [`levels`] | quantized coefficients: their order, their contexts, their points |
//! | [`prices`] | what levels cost, for an encoder |
//! | [`tile`] | a whole unit |
//! | [`wavelet`], [`bands`] | wavelet transforms of a whole tile: filters; bands and trees |
//! | [`planes`], [`progressive`] | wavelet coefficients in planes; units that can be cut after any plane |
//!
//! An encoder finds a [`Node`](tree::Node) for each superblock; `impasto-encode` has one.

pub mod arithmetic;
pub mod bands;
pub mod basis;
pub mod levels;
pub mod planes;
pub mod prices;
pub mod progressive;
pub mod samples;
pub mod scan;
pub mod tile;
pub mod tree;
pub mod wavelet;

#[cfg(test)]
mod tests;

pub use tile::{Parameters, TileWriter, UNIT, decode, decode_layers, memory_bytes};
