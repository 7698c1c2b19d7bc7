//! The encoder of mode transform (SPEC 17).
//!
//! | module | contents |
//! |---|---|
//! | `tools` | switches: [`Tools`] |
//! | `search` | the partition of a superblock, and the choices of its blocks, by exact cost |
//! | `candidates` | which choices are worth an exact cost |
//! | `near` | transforms of predictions |
//! | `quantize` | levels by error and cost |
//! | `forward` | forward transforms |
//! | `planes` | wavelet coefficients in planes |
//! | `tile` | a whole tile |
//! | `job` | which tensors may gain, and their tiles |

mod candidates;
mod forward;
mod job;
mod near;
mod planes;
mod quantize;
mod search;
mod tile;
mod tools;

pub(crate) use job::{code_layers, code_tile, may_gain, measure};
pub use tile::{Coded, Effort, Request, code};
pub use tools::{Tools, TransformTool};
