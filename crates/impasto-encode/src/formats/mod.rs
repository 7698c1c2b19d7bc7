//! Formats of engines as targets (SPEC 20): which tensor gets which (`choice`), the scales of its groups (`groups`), and
//! its integers (`rounder`).

mod choice;
mod groups;
mod rounder;

pub use choice::{Formats, FormatsError, Selector};
pub use groups::groups;
pub use rounder::FormatRounder;
