//! A matrix on a lattice: its steps, integers and classes.

mod cells;
mod classes;
mod costs;
mod integers;
mod rounding;
mod trellis;

pub use cells::Cells;
pub use classes::{Classes, fit_classes};
pub use costs::Costs;
pub use integers::{Integers, LAMBDA, Parts, Rows, round, round_on_trellis, round_with, with_room};
pub use rounding::{Factors, Grid, Rounder, Thresholds, thresholds};
pub use trellis::{GAIN as TRELLIS_GAIN, PathCosts, PathRounder};
