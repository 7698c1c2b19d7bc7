//! The models that are served: the files, the layers of each, and which of them are in memory.

mod catalog;
mod loaded;
mod name;
mod open;

pub use catalog::{Catalog, CatalogError, CatalogOptions, DraftLayers, Drafts, LayerState, ModelState, Summary};
pub use loaded::{Incoming, Loaded, Quality};
pub use open::{Opener, Opening};
