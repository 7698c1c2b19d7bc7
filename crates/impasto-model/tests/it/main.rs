//! Integration tests, all in one program but for those that watch the memory of theirs.

mod families;
mod gradients;
mod hostile_assets;
mod logits;
mod measure;
mod probe;
mod refusals;
mod support;
mod tasks;
mod text;
mod walk;
