//! What portions tell each other of their tensors.

use impasto_container::Matrix;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::planner::Kept;
use crate::rate::{Measured, Rate, Transformed};

/// A finite number, kept exactly: its bits, since decimal digits may be rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Number(pub f64);

impl From<Number> for u64 {
    fn from(number: Number) -> u64 {
        number.0.to_bits()
    }
}

impl TryFrom<u64> for Number {
    type Error = &'static str;

    fn try_from(bits: u64) -> Result<Number, &'static str> {
        let number = f64::from_bits(bits);
        if number.is_finite() { Ok(Number(number)) } else { Err("a number is not finite") }
    }
}

/// What a portion publishes of a tensor. The files of other portions are input, so it may say anything.
pub trait Fact: DeserializeOwned {
    /// Returns whether sums over tensors of such numbers stay within their types.
    fn is_sane(&self) -> bool;
}

/// The largest number of bytes of a tensor, bits of a weight, and bytes of a tensor header.
const MOST_BYTES: u64 = 1 << 40;
const MOST_BITS: f64 = 256.0;
const MOST_HEADER: f64 = (1u64 << 32) as f64;

/// The weights of a tensor, as far as metrics of others depend on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surveyed {
    /// BLAKE3 of its bytes in the checkpoint, hexadecimal.
    pub hash: String,
    /// Mean square of its weights and number of those that are not finite; `None` if it has no scales.
    pub scales: Option<(Number, u64)>,
    /// Whether it may be coded with loss.
    pub usual: bool,
}

impl Fact for Surveyed {
    fn is_sane(&self) -> bool {
        self.scales.is_none_or(|(mean_square, _)| (0.0..=1e80).contains(&mean_square.0))
    }
}

/// A tensor that does not depend on a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// Bytes, rows and columns of a tile, and whether it has a tensor header, if it is kept exactly.
    kept: Option<(u64, u64, u64, bool)>,
    /// Its rate in its format, if it has one.
    format: Option<(Number, Number)>,
}

impl Fixed {
    pub fn new(kept: Option<Kept>, format: Option<Rate>) -> Fixed {
        let kept = kept.map(|kept| (kept.bytes, kept.tiles.tile_rows(), kept.tiles.tile_cols(), kept.has_header));
        Fixed { kept, format: format.map(numbers) }
    }

    /// Returns what it says of a tensor of so many rows and columns; `None` if these have no such tiles.
    pub fn of(self, (rows, columns): (u64, u64)) -> Option<(Option<Kept>, Option<Rate>)> {
        let kept = self.kept.map(|(bytes, tile_rows, tile_cols, has_header)| {
            let tiles = Matrix::new(rows, columns, tile_rows, tile_cols).ok()?;
            Some(Kept { bytes, tiles, has_header })
        });
        let kept = match kept {
            Some(None) => return None,
            kept => kept.flatten(),
        };
        Some((kept, self.format.map(rate)))
    }
}

impl Fact for Fixed {
    fn is_sane(&self) -> bool {
        self.kept.is_none_or(|(bytes, ..)| bytes <= MOST_BYTES) && self.format.is_none_or(is_sane)
    }
}

/// The rates of a tensor at a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rated {
    lattice: (Number, Number),
    /// With transforms: the rate, the gain, and whether a part is predicted from another tensor.
    transform: Option<((Number, Number), Number, bool)>,
}

impl Fact for Rated {
    fn is_sane(&self) -> bool {
        is_sane(self.lattice) && self.transform.is_none_or(|(rate, ..)| is_sane(rate))
    }
}

fn is_sane((bits, header_bytes): (Number, Number)) -> bool {
    (0.0..=MOST_BITS).contains(&bits.0) && (0.0..=MOST_HEADER).contains(&header_bytes.0)
}

fn numbers(rate: Rate) -> (Number, Number) {
    (Number(rate.bits), Number(rate.header_bytes))
}

fn rate((bits, header_bytes): (Number, Number)) -> Rate {
    Rate { bits: bits.0, header_bytes: header_bytes.0 }
}

impl From<Measured> for Rated {
    fn from(Measured { lattice, transform }: Measured) -> Rated {
        let transform = transform.map(|of| (numbers(of.rate), Number(of.gain), of.is_predicted));
        Rated { lattice: numbers(lattice), transform }
    }
}

impl From<Rated> for Measured {
    fn from(Rated { lattice, transform }: Rated) -> Measured {
        let transform =
            transform.map(|(of, gain, is_predicted)| Transformed { rate: rate(of), gain: gain.0, is_predicted });
        Measured { lattice: rate(lattice), transform }
    }
}

/// Units of tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coded {
    /// Number of parts of the file that are coded one after the other.
    pub parts: usize,
    /// Number of tensors of the file.
    pub count: usize,
    /// The largest permitted size of the file, if it has one.
    pub target: Option<u64>,
    /// By how many octaves the step of the last tensor is coarser than the global one: 16 hexadecimal digits, so that the length is
    /// known before the tensor is coded.
    pub octaves: String,
    /// Bytes of the tensors before coding, and as planned.
    pub raw: u64,
    pub planned: u64,
}

impl Coded {
    pub fn with_octaves(self, octaves: f64) -> Coded {
        Coded { octaves: format!("{:016x}", octaves.to_bits()), ..self }
    }

    /// Returns the octaves; `None` if they are not a finite number.
    pub fn octaves(&self) -> Option<f64> {
        u64::from_str_radix(&self.octaves, 16).ok().map(f64::from_bits).filter(|octaves| octaves.is_finite())
    }
}
