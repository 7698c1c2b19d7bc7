//! The encoder of mode transform (SPEC 17).
//!
//! | module | contents |
//! |---|---|
//! | `tools` | switches: [`Tools`] |
//! | `search` | the partition of a superblock, and the choices of its blocks, by exact cost |
//! | `candidates` | which choices are worth an exact cost |
//! | `near` | transforms of predictions |
//! | `fit` | predictions with factors |
//! | `references` | which tensors may be predicted from another one |
//! | `quantize`, `runs` | levels by error and cost |
//! | `forward` | forward transforms |
//! | `orders`, `klt` | orders of rows and columns, learned transforms |
//! | `variants` | which of these a tile is coded with |
//! | `planes` | wavelet coefficients in planes |
//! | `tile` | a whole tile |
//! | `job` | which tensors may gain, and their tiles |
//! | `jpeg` | the preset that codes every tensor as JPEG does |

mod candidates;
mod fit;
mod forward;
mod job;
mod jpeg;
mod klt;
mod near;
mod orders;
mod planes;
mod quantize;
mod references;
mod runs;
mod search;
mod tile;
mod tools;
mod variants;

pub(crate) use job::{LEAST_MEASURED, MOST_WEIGHTS, code_layers, code_tile, may_gain, measure};
pub(crate) use jpeg::{measure as measure_jpeg, request as jpeg_request};
pub(crate) use references::{Alike, Forecast};
pub use tile::{Coded, Effort, MOST, Request, code};
pub use tools::{Tools, TransformTool};
pub(crate) use variants::Variant;
