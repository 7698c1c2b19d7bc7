//! A matrix on the lattice: its steps, its integers, their classes.

mod classes;
mod costs;
mod integers;
mod rounding;

pub use classes::{Classes, fit_classes};
pub use costs::Costs;
pub use integers::{Integers, LAMBDA, Rows, round};
pub use rounding::{Factors, Grid, Rounder, Thresholds, thresholds};
