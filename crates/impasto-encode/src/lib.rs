//! The encoding job: scales, rates, mode decision, a checkpoint to one file.
