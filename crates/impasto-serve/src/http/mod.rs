//! Connections, and who may use the server.

mod accept;
mod admission;

pub use accept::{Listening, listen};
pub use admission::Admission;
