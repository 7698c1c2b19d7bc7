//! Integration tests, all in one program.

mod families;
mod gradients;
mod hostile_config;
mod logits;
mod probe;
mod refusals;
mod support;
mod walk;
