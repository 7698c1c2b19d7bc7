//! The `.impasto` file: header, manifest, units, hashes, sources (SPEC 2, 3, 4, 11, 12).
//!
//! This crate knows where units are and whether they are intact, but not what they mean. The coding of units, the
//! dtypes that a mode supports (SPEC 5.3) and the modes that an object may combine (5.4) are left to their decoder.
//!
//! ```
//! use impasto_container::{Limits, Object, ObjectKind, Reader, UnitSlot, Writer};
//! use impasto_core::Mode;
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("a.impasto");
//! let kind = ObjectKind::Asset { length: 5, piece: 4096, base: None };
//! let objects = vec![Object { name: "greeting".into(), kind }];
//! let slots = vec![UnitSlot { object: 0, tile: 0, layer: 0, is_header: false }];
//! let mut writer = Writer::create(&path, objects, slots, vec![])?;
//! writer.push(Mode::STORED, b"hello")?;
//! let summary = writer.finish()?;
//!
//! let reader = Reader::open_file(&path, &Limits::default())?;
//! assert_eq!(reader.root(), &summary.root);
//! let object = reader.find_asset("greeting").ok_or("no greeting")?;
//! let units = reader.units_of(object).ok_or("of unknown class")?;
//! assert_eq!(&reader.read_unit(units.tiles[0])?[..], b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod above;
pub mod base;
mod cursor;
pub mod error;
pub mod expansion;
mod fields;
pub mod geometry;
mod growing;
pub mod header;
pub mod layers;
pub mod layout;
mod levels;
pub mod limits;
pub mod manifest;
pub mod object;
mod prefix;
pub mod reader;
mod set;
pub mod source;
pub mod tensor;
pub mod unit;
pub mod writer;

pub use above::LayerUnits;
pub use base::{Base, BaseLink, BaseUsage};
pub use error::{ContainerError, FormatError};
pub use expansion::Expansion;
pub use geometry::{Matrix, MatrixError, TileRect};
pub use growing::GrowingSource;
pub use header::Header;
pub use layers::LayerMark;
pub use layout::{Layout, ObjectUnits, Places};
pub use limits::Limits;
pub use manifest::{Manifest, manifest_length};
pub use object::{COMPILED_SUFFIX, HEADER_SUFFIX, Object, ObjectKind};
pub use reader::{Fetched, Reader, UnitHealth, UnitState, fuzz_manifest, fuzz_open};
pub use set::UnitSet;
pub use source::{CountingSource, MmapSource, Source};
pub use tensor::{Opaque, TensorMeta};
pub use unit::{UnitEntry, unit_hash};
pub use writer::{Summary, UnitSlot, Writer, file_length, measure};
