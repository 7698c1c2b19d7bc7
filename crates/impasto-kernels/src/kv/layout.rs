//! Storage formats of keys and values.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::KvError;

/// The storage format of the numbers in keys or values.
///
/// Displayed and parsed as `f32`, `f16`, `int8`, `int4`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// binary32, the reference.
    F32,
    /// binary16; finite numbers beyond its range are stored as its largest number.
    #[default]
    F16,
    /// Integers from -127 to 127, with a scale per head and token.
    Int8,
    /// Integers from -8 to 7, with a scale per head and token. Heads are rotated before quantization to spread
    /// outliers.
    Int4,
}

impl KvFormat {
    /// All formats, from the widest to the narrowest.
    pub const ALL: [KvFormat; 4] = [KvFormat::F32, KvFormat::F16, KvFormat::Int8, KvFormat::Int4];

    /// Returns the bits per number, without scales.
    pub fn bits(self) -> usize {
        match self {
            KvFormat::F32 => 32,
            KvFormat::F16 => 16,
            KvFormat::Int8 => 8,
            KvFormat::Int4 => 4,
        }
    }

    /// Returns whether the numbers of a head share a scale.
    pub fn has_scale(self) -> bool {
        matches!(self, KvFormat::Int8 | KvFormat::Int4)
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Int8 => "int8",
            KvFormat::Int4 => "int4",
        })
    }
}

impl FromStr for KvFormat {
    type Err = KvError;

    fn from_str(text: &str) -> Result<Self, KvError> {
        let found = Self::ALL.into_iter().find(|format| format.to_string() == text);
        found.ok_or_else(|| wrong(text, "not a format: choose f32, f16, int8 or int4"))
    }
}

/// Formats for some transformer blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvOverride {
    /// The range of blocks, counted from 0.
    pub blocks: RangeInclusive<usize>,
    /// Format of their keys; `None` for the default.
    pub keys: Option<KvFormat>,
    /// Format of their values; `None` for the default.
    pub values: Option<KvFormat>,
}

/// Formats of keys and values, by transformer block.
///
/// The text form is a comma-separated list of `[WHERE=]FORMAT`, such as `k=int8,v=int4,0-1=f16`. WHERE is `k` (keys of
/// all blocks), `v` (values of all blocks), a block (`3`), a range of blocks (`0-1`), or one of the latter two with
/// `.k` or `.v` (`0-1.k`). Without WHERE, the format applies to everything. Entries for blocks override general ones,
/// and later entries override earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvLayout {
    /// Default format of keys.
    pub keys: KvFormat,
    /// Default format of values.
    pub values: KvFormat,
    /// Formats of some blocks; later entries override earlier ones.
    pub overrides: Vec<KvOverride>,
}

impl KvLayout {
    /// Creates a layout with one format for everything.
    pub fn uniform(format: KvFormat) -> Self {
        Self { keys: format, values: format, overrides: Vec::new() }
    }

    /// Returns the formats of the keys and of the values of a block.
    pub fn of(&self, block: usize) -> (KvFormat, KvFormat) {
        let here = self.overrides.iter().filter(|o| o.blocks.contains(&block));
        here.fold((self.keys, self.values), |(k, v), o| (o.keys.unwrap_or(k), o.values.unwrap_or(v)))
    }

    /// Checks that all overrides are for blocks of a model with `blocks` blocks.
    ///
    /// # Errors
    /// [`KvError::Block`] for the first override that is not.
    pub fn check(&self, blocks: usize) -> Result<(), KvError> {
        match self.overrides.iter().map(|o| *o.blocks.end()).find(|&last| last >= blocks) {
            Some(block) => Err(KvError::Block { block, blocks }),
            None => Ok(()),
        }
    }
}

impl From<KvFormat> for KvLayout {
    fn from(format: KvFormat) -> Self {
        Self::uniform(format)
    }
}

fn wrong(part: &str, rule: &'static str) -> KvError {
    KvError::Layout { part: part.to_owned(), rule }
}

/// Parses blocks such as `3` or `0-1`.
fn blocks(text: &str) -> Result<RangeInclusive<usize>, KvError> {
    const RULE: &str = "not k, v, a block such as 3, blocks such as 0-1, or 0-1.k";
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain).ok_or_else(|| wrong(text, RULE))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first)?..=number(last)?;
    if range.is_empty() { Err(wrong(text, "the first block comes after the last")) } else { Ok(range) }
}

impl FromStr for KvLayout {
    type Err = KvError;

    fn from_str(text: &str) -> Result<Self, KvError> {
        let mut layout = Self::default();
        for part in text.split(',').map(str::trim) {
            let (place, format) = match part.split_once('=') {
                Some((place, format)) => (Some(place), format.parse()?),
                None => (None, part.parse()?),
            };
            match place {
                None => (layout.keys, layout.values) = (format, format),
                Some("k") => layout.keys = format,
                Some("v") => layout.values = format,
                Some(place) => {
                    let (range, side) = place.split_once('.').map_or((place, None), |(r, s)| (r, Some(s)));
                    let (keys, values) = match side {
                        None => (Some(format), Some(format)),
                        Some("k") => (Some(format), None),
                        Some("v") => (None, Some(format)),
                        Some(_) => return Err(wrong(place, "after the dot there must be k or v")),
                    };
                    layout.overrides.push(KvOverride { blocks: blocks(range)?, keys, values });
                }
            }
        }
        Ok(layout)
    }
}

impl fmt::Display for KvLayout {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.keys == self.values {
            write!(f, "{}", self.keys)?;
        } else {
            write!(f, "k={},v={}", self.keys, self.values)?;
        }
        for KvOverride { blocks, keys, values } in &self.overrides {
            let sides = if keys == values { [("", *keys), ("", None)] } else { [(".k", *keys), (".v", *values)] };
            for (side, format) in sides {
                if let Some(format) = format {
                    write!(f, ",{}-{}{side}={format}", blocks.start(), blocks.end())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::KvFormat::*;
    use super::*;

    #[test]
    fn reads_and_shows() {
        let of = |text: &str, block| text.parse::<KvLayout>().unwrap().of(block);
        assert_eq!(KvLayout::default().of(0), (F16, F16));
        assert_eq!(of("int8", 5), (Int8, Int8));
        assert_eq!(of("k=int8, v=int4, 0-1=f16", 1), (F16, F16));
        assert_eq!(of("k=int8,v=int4,0-1=f16", 2), (Int8, Int4));
        assert_eq!(of("0-3=f32,2.k=int4,int8", 2), (Int4, F32));
        assert_eq!(of("v=int4", 0), (F16, Int4));
        for text in ["f16", "k=int8,v=int4,0-1=f16,7-7.k=f32,7-7.v=int4"] {
            assert_eq!(text.parse::<KvLayout>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |text: &str| text.parse::<KvLayout>().unwrap_err().to_string();
        assert!(error("q8").contains("\"q8\": not a format: choose f32"));
        assert!(error("k=int8,").contains("\"\": not a format"));
        assert!(error("x=f16").contains("\"x\": not k, v, a block"));
        assert!(error("1-=f16").contains("\"1-\""));
        assert!(error("+1=f16").contains("\"+1\""));
        assert!(error("99999999999999999999=f16").contains("\"99999999999999999999\""));
        assert!(error("3-1=f16").contains("\"3-1\": the first block comes after the last"));
        assert!(error("3.q=f16").contains("\"3.q\": after the dot"));
        assert!(error("k=v=f16").contains("\"v=f16\""));
        let layout: KvLayout = "0-3=f32".parse().unwrap();
        assert_eq!(layout.check(4), Ok(()));
        assert_eq!(layout.check(3), Err(KvError::Block { block: 3, blocks: 3 }));
    }
}
