//! Error feedback: rounds a matrix to a lattice through the covariance of its inputs, as do GPTQ (arXiv 2210.17323),
//! LDLQ in QuIP (arXiv 2307.13304) and Babai's nearest plane algorithm; in communications, this is successive
//! interference cancellation (SIC). Each column has its own step, by waterfilling (WaterSIC, arXiv 2603.04956).
//!
//! For weights `W` (rows x n) and a covariance `H = L L^T` of the inputs, the error is `tr((W - V) H (W - V)^T)`, the
//! sum of squares of `(W - V) L`. Columns are rounded from last to first. Entry `i` of a row of that product is
//! `L_ii (t_i - v_i)`, where the target `t_i = w_i + sum over j > i of e_j L_ji / L_ii` corrects the weight for the
//! errors `e = w - v` of the later columns. With steps `c / L_ii` all entries have the same error.
//!
//! [`Feedback`] holds the factored covariance. [`RoundingRun`] rounds up to 16 rows; it can stop, save a checkpoint and
//! roll back at any column. A [`Rounding`] turns targets into integers; a [`Pruner`] chooses those that are 0. A `ColumnRounding`
//! rounds whole columns of any number of rows, where the integers of a column depend on each other.

mod cholesky;
mod columns;
mod covariance;
mod multiply;
mod prune;
mod run;

pub(crate) use cholesky::cholesky;
pub(crate) use columns::{ColumnRounding, round_columns};
pub use covariance::Feedback;
pub(crate) use multiply::multiply_add;
pub use multiply::{Row, WIDTH};
pub use prune::Pruner;
pub(crate) use run::{BLOCK, round_rows};
pub use run::{Checkpoint, Rounding, RoundingRun};
