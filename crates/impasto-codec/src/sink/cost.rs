//! The costing sink: computes the size of a unit without coding it.

use impasto_core::varint;

use super::SymbolSink;
use super::slot::in_batches;
use crate::class::Kind;
use crate::rans::{LANES, escape_code};
use crate::tables::{COST_ONE, ESCAPE, Frequencies, symbol_cost};

/// Code lengths of all symbols in all tables of a kind.
pub struct Prices {
    kind: Kind,
    /// By table and symbol, in 2^-16 bit; [`NO_CODE`] for a symbol with frequency 0.
    of: Vec<u32>,
}

const NO_CODE: u32 = u32::MAX;

impl Prices {
    /// Computes the code lengths under `tables`, one for each table number of `kind`.
    pub fn new(kind: Kind, tables: &[Frequencies]) -> Self {
        let price = |f: u16| symbol_cost(f).map_or(NO_CODE, |cost| cost as u32);
        Prices { kind, of: tables.iter().flat_map(|table| table.0.map(price)).collect() }
    }
}

/// The cost of a tile. It sums bits separately for each rANS lane, so that it counts the words of a unit rather than
/// estimating them.
///
/// # Accuracy
///
/// Consider one lane. Its state `x` starts at 2^16 and stays in 2^16..2^32. To code a symbol of frequency `f` with `b`
/// low bits, the coder first emits a word if necessary, which divides `x` by 2^16. It then replaces `x` by a `y` with
/// `2^(11+b) q <= y < 2^(11+b) (q + 1)`, where `q = floor(x / f)`. The state before, divided by `f` (and by 2^16 if a
/// word was emitted), also lies in `q..q + 1`. Hence `log2(x) + 16 words` grows by the price `11 + b - log2(f)`, give
/// or take `log2(1 + 1/q)`, where `q` is at least `2^(5-b)`.
///
/// The lane ends with a state in 2^16..2^32, so it emits `floor((price + error) / 16)` words, where `price` and `error`
/// are sums over its symbols. Positive and negative errors are about equally frequent, and `q` is mostly large. In a
/// tile of a million elements, the error is therefore a few bits per lane.
///
/// [`Cost::bytes`] is the length of the unit for an `error` of 0; [`Cost::tolerance`] bounds the difference from the
/// true length.
///
/// ```
/// use impasto_codec::sink::{Cost, Prices};
/// use impasto_codec::tile::syntax::{Sums, lattice_row};
/// use impasto_codec::{Kind, tables::parametric};
///
/// let tables = parametric(Kind::Lattice, 1).expect("a shape");
/// let prices = Prices::new(Kind::Lattice, &tables);
/// let (mut narrow, mut wide) = (Cost::new(&prices), Cost::new(&prices));
/// let z = [1, 0, -1, 2, 0, 0, 3, -2];
/// lattice_row(&mut narrow, 0, Sums { row: 15, columns: &[0; 8] }, &z);
/// lattice_row(&mut wide, 0, Sums { row: 30, columns: &[0; 8] }, &z);
/// assert!(narrow.fractional_bits() < wide.fractional_bits());
/// ```
#[derive(Clone)]
pub struct Cost<'a> {
    prices: &'a Prices,
    /// Bits of each lane in the current segment, in 2^-16 bit.
    lanes: [u64; LANES],
    /// The lane of the next symbol.
    lane: usize,
    /// Words of the completed segments.
    words: u64,
    segments: u64,
    escape_bytes: u64,
    plane_bytes: u64,
    /// Bits of the plane in the current row.
    plane_bits: u64,
    /// Number of symbols, by their number of low bits.
    symbols: [u64; 8],
    stuck: bool,
}

impl<'a> Cost<'a> {
    /// Creates an empty sum.
    pub fn new(prices: &'a Prices) -> Self {
        Cost {
            prices,
            lanes: [0; LANES],
            lane: 0,
            words: 0,
            segments: 0,
            escape_bytes: 0,
            plane_bytes: 0,
            plane_bits: 0,
            symbols: [0; 8],
            stuck: false,
        }
    }

    /// Completes the current segment.
    pub fn end_segment(&mut self) {
        self.words += self.lanes.iter().map(|bits| bits / (16 * COST_ONE)).sum::<u64>();
        (self.lanes, self.lane) = ([0; LANES], 0);
        self.segments += 1;
    }

    /// Returns the bits of the symbols of the current segment, the words of completed segments, and all escapes and
    /// planes, in 2^-16 bit. Use it for the rate of a part of a tile, without the rounding of a whole unit.
    pub fn fractional_bits(&self) -> u64 {
        let bits = 16 * self.words + 8 * (self.escape_bytes + self.plane_bytes) + self.plane_bits;
        bits * COST_ONE + self.lanes.iter().sum::<u64>()
    }

    /// Returns the bytes of the unit for the completed segments: lengths, lane states, words, escapes and plane (SPEC
    /// 8). `None` if a value needs an escape and its table gives the escape no frequency.
    pub fn bytes(&self) -> Option<u64> {
        let fixed = 1 + self.segments * (8 + 4 * LANES as u64);
        (!self.stuck).then_some(fixed + 2 * self.words + self.escape_bytes + self.plane_bytes)
    }

    /// Returns the largest difference, in bytes, between [`Cost::bytes`] and the length of the coded unit. It is the
    /// bound in the docs of this type, plus 3 units of 2^-16 bit per symbol for the rounding of its price, plus one
    /// word per lane and segment for rounding to whole words.
    pub fn tolerance(&self) -> u64 {
        let error = |(b, &symbols): (usize, &u64)| {
            let of_one = (1.0 + (b as f64 - 5.0).exp2()).log2() + 3.0 / COST_ONE as f64;
            of_one * symbols as f64
        };
        let bits: f64 = self.symbols.iter().enumerate().map(error).sum();
        (bits / 8.0).ceil() as u64 + self.segments * 2 * LANES as u64
    }
}

impl SymbolSink for Cost<'_> {
    fn symbols(&mut self, classes: &[i32], values: &[i32]) {
        let Prices { kind, of } = self.prices;
        in_batches(*kind, classes, values, |slots, values| {
            for (slot, &value) in slots.iter().zip(values) {
                let mut price = of[slot.index()];
                if slot.is_escape() || price == NO_CODE {
                    price = of[slot.index() | ESCAPE];
                    self.stuck |= price == NO_CODE;
                    self.escape_bytes += varint::len(escape_code(*kind, value)) as u64;
                }
                self.lanes[self.lane] += u64::from(price) + u64::from(slot.low_bits()) * COST_ONE;
                self.lane = (self.lane + 1) % LANES;
                self.symbols[slot.low_bits() as usize] += 1;
            }
        });
    }

    fn raw(&mut self, fields: &[i32], bits: u32) {
        self.plane_bits += fields.len() as u64 * u64::from(bits);
    }

    fn end_row(&mut self) {
        self.plane_bytes += self.plane_bits.div_ceil(8);
        (self.plane_bits, self.lane) = (0, 0);
    }
}
