//! A matrix on a lattice: its steps, integers and classes.

mod classes;
mod costs;
mod integers;
mod rounding;

pub use classes::{Classes, fit_classes};
pub use costs::Costs;
pub use integers::{Integers, LAMBDA, Rows, round, round_with};
pub use rounding::{Factors, Grid, Rounder, Thresholds, thresholds};
