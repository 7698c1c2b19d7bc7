//! Tiles in mode transform (SPEC 17): blocks that are predicted, transformed, quantized and coded under contexts, as in
//! picture codecs. They suit what is smooth or structured, such as position embeddings.
//!
//! | module | contents |
//! |---|---|
//! | [`arithmetic`] | adaptive binary arithmetic coding: [`Coder`](arithmetic::Coder) is what syntax is written against |
//! | [`tree`] | the partition into blocks, and their choices |
//! | [`samples`] | the samples of a tile, and predictions from them |
//! | [`co_located`] | samples of the tile at the same place of another tensor |
//! | [`basis`], [`learned`] | transforms: those that every tile has, and those that are sent |
//! | [`scan`], [`levels`] | quantized coefficients: their order, their contexts, their points |
//! | [`runs`] | the same by run lengths, as in JPEG |
//! | [`order`] | permutations of rows and columns |
//! | [`setup`] | what a unit has before its superblocks: permutations, learned transforms |
//! | [`prices`] | what levels cost, for an encoder |
//! | [`tile`] | a whole unit |
//! | [`wavelet`], [`bands`] | wavelet transforms of a whole tile: filters; bands and trees |
//! | [`planes`], [`progressive`] | wavelet coefficients in planes; units that can be cut after any plane |
//!
//! An encoder finds a [`Node`](tree::Node) for each superblock; `impasto-encode` has one.

pub mod arithmetic;
pub mod bands;
pub mod basis;
pub mod co_located;
pub mod learned;
pub mod levels;
pub mod order;
pub mod planes;
pub mod prices;
pub mod progressive;
pub mod runs;
pub mod samples;
pub mod scan;
pub mod setup;
pub mod tile;
pub mod tree;
pub mod wavelet;

#[cfg(test)]
mod tests;

pub use co_located::{Reference, needs_reference};
pub use setup::Setup;
pub use tile::{Parameters, TileWriter, UNIT, decode, decode_layers, memory_bytes};
