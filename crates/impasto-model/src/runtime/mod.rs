//! Running from the compressed form.

pub mod pool;

pub use pool::Pool;
