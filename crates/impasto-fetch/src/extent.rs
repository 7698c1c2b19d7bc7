//! How much of a file is fetched: a prefix of its units.

use impasto_container::{Reader, Source};

use crate::error::FetchError;

/// How much of a file is fetched: a plain prefix, which always holds the base (all units of layer 0).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Extent {
    /// All of it.
    #[default]
    Whole,
    /// The longest prefix of at most this many bytes.
    Bytes(u64),
    /// The same in bits per weight.
    BitsPerWeight(f64),
    /// The layer with this number (from 1) in the file's layer table.
    Layer(usize),
    /// All units in the layers of objects up to this one; 0 for the base.
    Level(u8),
}

/// A prefix of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Number of units.
    pub units: u32,
    /// Length of the file that ends after them, in bytes.
    pub bytes: u64,
}

impl Prefix {
    /// Returns the prefix of the first `units` units.
    pub fn of_units<S: Source>(reader: &Reader<S>, units: u32) -> Prefix {
        Prefix { units, bytes: reader.prefix_length(units) }
    }

    /// Returns the prefix that an extent stands for.
    ///
    /// # Errors
    /// If the base is larger than that, or there is no such layer.
    pub fn of<S: Source>(reader: &Reader<S>, extent: Extent) -> Result<Prefix, FetchError> {
        let all = reader.units().len() as u32;
        let base = Prefix::of_units(reader, reader.units_through(0));
        let units = match extent {
            Extent::Whole => all,
            Extent::Bytes(bytes) => Prefix::within(reader, base, bytes)?,
            Extent::BitsPerWeight(bits) => Prefix::within(reader, base, (bits * reader.weights() as f64 / 8.0) as u64)?,
            Extent::Layer(layer) => {
                let missing =
                    || FetchError::NoLayer { url: reader.name().to_owned(), layer, layers: reader.marks().len() };
                reader.units_of_layer(layer).ok_or_else(missing)?
            }
            Extent::Level(level) => reader.units_through(level),
        };
        Ok(Prefix::of_units(reader, units.max(base.units)))
    }

    fn within<S: Source>(reader: &Reader<S>, base: Prefix, bytes: u64) -> Result<u32, FetchError> {
        if base.bytes > bytes {
            let base_bits = base.bytes as f64 * 8.0 / reader.weights().max(1) as f64;
            return Err(FetchError::Budget { url: reader.name().to_owned(), bytes, base: base.bytes, base_bits });
        }
        Ok(reader.units_within(bytes))
    }
}
