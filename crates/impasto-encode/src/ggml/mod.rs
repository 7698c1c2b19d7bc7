//! Blocks of ggml as targets: the types of llama.cpp, rounded with error feedback.
//!
//! | module | contents |
//! |---|---|
//! | `levels` | what the integers of a type stand for |
//! | `search` | scales and minimums of a group, under plain rounding |
//! | `fit` | all parts of a block, given its targets and its metric |
//! | `metric` | a covariance as the metrics of blocks |
//! | `rows` | all blocks of some rows |

mod fit;
mod levels;
mod metric;
mod rows;
mod search;

pub use metric::BlockMetric;
pub use rows::BlockRounder;
