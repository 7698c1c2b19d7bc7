//! Successive interference cancellation: rounding a matrix to a lattice with error feedback through the covariance of
//! its inputs (GPTQ, arXiv 2210.17323; LDLQ of QuIP, arXiv 2307.13304), with a step for each column by waterfilling
//! (WaterSIC, arXiv 2603.04956).
//!
//! For weights `W` (rows x n), covariance `H = L L^T` of the inputs, the error is `tr((W - V) H (W - V)^T)`, the sum of
//! squares of `(W - V) L`. Columns are taken from the last to the first; entry `i` of a row of that product is
//! `L_ii (t_i - v_i)`, where the target `t_i = w_i + sum over j > i of e_j L_ji / L_ii` moves the weight against the
//! errors `e = w - v` made so far. With steps `c / L_ii` every entry gets the same error.

mod cholesky;
mod feedback;
mod multiply;

pub use cholesky::cholesky;
pub use feedback::{Feedback, Rounding, round_rows};
pub use multiply::WIDTH;
