//! Parses the JSON of headers and indexes and keeps duplicate keys.
//!
//! A map of serde_json keeps the last of two equal keys without an error. A file with two entries for one tensor must
//! be refused, so objects are parsed to lists of pairs.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// The pairs of a JSON object in file order, including duplicates.
pub(crate) struct Pairs<V>(pub Vec<(String, V)>);

impl<V> Pairs<V> {
    /// Returns a key that occurs twice, if there is one.
    pub fn duplicate(&self) -> Option<&str> {
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

/// A tensor's entry in the header, not checked.
pub(crate) struct RawEntry {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data_offsets: [u64; 2],
}

/// Implemented by hand, because a derived implementation would also accept an array of the fields. Unknown fields are
/// ignored, as in the reference implementation.
impl<'de> Deserialize<'de> for RawEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = RawEntry;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawEntry, A::Error> {
                let (mut dtype, mut shape, mut data_offsets) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "dtype" => set(&mut dtype, "dtype", &mut map)?,
                        "shape" => set(&mut shape, "shape", &mut map)?,
                        "data_offsets" => set(&mut data_offsets, "data_offsets", &mut map)?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(RawEntry {
                    dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
                    shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
                    data_offsets: data_offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
                })
            }
        }
        deserializer.deserialize_map(EntryVisitor)
    }
}

/// Reads the next value into an empty slot.
fn set<'de, T, A>(slot: &mut Option<T>, field: &'static str, map: &mut A) -> Result<(), A::Error>
where
    T: Deserialize<'de>,
    A: MapAccess<'de>,
{
    if slot.is_some() {
        return Err(A::Error::duplicate_field(field));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

/// A header that is not checked; tensors are in file order and may occur twice.
#[derive(Default)]
pub(crate) struct RawHeader {
    pub metadata: Option<Pairs<String>>,
    pub tensors: Vec<(String, RawEntry)>,
}

/// The part of a header in which parsing failed.
pub(crate) enum Place {
    Header,
    Metadata,
    Tensor(String),
}

/// The only key of a header that is not a tensor.
pub(crate) const METADATA: &str = "__metadata__";

/// Parses a header. An error comes with its place.
pub(crate) fn parse_raw_header(text: &str) -> Result<RawHeader, (Place, serde_json::Error)> {
    let mut place = Place::Header;
    let mut json = serde_json::Deserializer::from_str(text);
    let result = HeaderSeed(&mut place).deserialize(&mut json);
    match result {
        Err(error) => Err((place, error)),
        Ok(header) => json.end().map(|()| header).map_err(|error| (Place::Header, error)),
    }
}

struct HeaderSeed<'a>(&'a mut Place);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawHeader, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut metadata = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == METADATA {
                *self.0 = Place::Metadata;
                set(&mut metadata, METADATA, &mut map)?;
            } else {
                *self.0 = Place::Tensor(key.clone());
                header.tensors.push((key, map.next_value()?));
            }
            *self.0 = Place::Header;
        }
        // `null` means no metadata.
        header.metadata = metadata.flatten();
        Ok(header)
    }
}
