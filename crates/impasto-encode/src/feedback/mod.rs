//! Error feedback: rounding a matrix to a lattice through the covariance of its inputs, as GPTQ (arXiv 2210.17323), LDLQ of QuIP
//! (arXiv 2307.13304) and Babai's nearest plane do; in communications, successive interference cancellation (SIC). Each column has a
//! step by waterfilling (WaterSIC, arXiv 2603.04956).
//!
//! For weights `W` (rows x n), covariance `H = L L^T` of the inputs, the error is `tr((W - V) H (W - V)^T)`, the sum of
//! squares of `(W - V) L`. Columns are taken from the last to the first; entry `i` of a row of that product is
//! `L_ii (t_i - v_i)`, where the target `t_i = w_i + sum over j > i of e_j L_ji / L_ii` moves the weight against the
//! errors `e = w - v` made so far. With steps `c / L_ii` every entry gets the same error.
//!
//! [`Feedback`] holds the factored covariance; [`RoundingRun`] rounds up to 16 rows, and can stop, take a checkpoint and roll back at any
//! column; a [`Rounding`] says how a target becomes an integer.

mod cholesky;
mod covariance;
mod multiply;
mod run;

pub(crate) use cholesky::cholesky;
pub use covariance::Feedback;
pub use multiply::{Row, WIDTH};
pub(crate) use run::round_rows;
pub use run::{Checkpoint, Rounding, RoundingRun};
