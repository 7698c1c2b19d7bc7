//! The costing sink: bytes of a unit without coding it.

use impasto_core::varint;

use super::SymbolSink;
use crate::class::{Class, Kind};
use crate::rans::{LANES, escape_code, symbol};
use crate::tables::{COST_ONE, ESCAPE, Frequencies, SYMBOLS, symbol_cost};

/// Code lengths of all symbols of all tables of a kind.
pub struct Prices {
    kind: Kind,
    /// By table and symbol, in 2^-16 bit; [`NO_CODE`] for a symbol that the table lacks.
    of: Vec<u32>,
}

const NO_CODE: u32 = u32::MAX;

impl Prices {
    /// Under `tables`, one for each table number of `kind`.
    pub fn new(kind: Kind, tables: &[Frequencies]) -> Self {
        let price = |f: u16| symbol_cost(f).map_or(NO_CODE, |cost| cost as u32);
        Prices { kind, of: tables.iter().flat_map(|table| table.0.map(price)).collect() }
    }
}

/// What a tile costs: a sum for each rANS lane, so that the words of a unit are counted and not only estimated.
///
/// # How exact
///
/// Take one lane. Its state `x` starts at 2^16 and stays in 2^16..2^32. Coding a symbol of frequency `f` with `b` low bits first moves
/// a word out if need be, then makes `y` of `x`, with `q = floor(x / f)` and `2^(11+b) q <= y < 2^(11+b) (q + 1)`. The state
/// before, divided by 2^16 for a word moved out and by `f`, lies in `q..q + 1`, too. So `log2(x) + 16 words` grows by the price
/// `11 + b - log2(f)`, give or take `log2(1 + 1/q)`, and `q` is at least `2^(5-b)`. The lane ends with a state in 2^16..2^32, hence with
/// `floor((price + error) / 16)` words, where `error` is the sum of what the symbols gave or took. Both signs are about as frequent, and
/// `q` is mostly large: the error is some bits a lane in a tile of a million elements.
///
/// [`Cost::bytes`] is the length of the unit with `error` taken as 0; [`Cost::tolerance`] bounds what the true length can differ by.
///
/// ```
/// use impasto_codec::sink::{Cost, Counts, Prices};
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
    /// Bits of each lane in this segment, in 2^-16 bit.
    lanes: [u64; LANES],
    /// The lane of the next symbol.
    lane: usize,
    /// Words of the segments that have ended.
    words: u64,
    segments: u64,
    escape_bytes: u64,
    plane_bytes: u64,
    /// Bits of the plane in this row.
    plane_bits: u64,
    /// Symbols by their number of low bits.
    symbols: [u64; 8],
    stuck: bool,
}

impl<'a> Cost<'a> {
    /// Nothing yet.
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

    /// The segment ends.
    pub fn end_segment(&mut self) {
        self.words += self.lanes.iter().map(|bits| bits / (16 * COST_ONE)).sum::<u64>();
        (self.lanes, self.lane) = ([0; LANES], 0);
        self.segments += 1;
    }

    /// Bits of the symbols of this segment and of all escapes and planes, in 2^-16 bit: the rate of a part of a tile, without what a whole
    /// unit rounds up.
    pub fn fractional_bits(&self) -> u64 {
        let bits = 16 * self.words + 8 * (self.escape_bytes + self.plane_bytes) + self.plane_bits;
        bits * COST_ONE + self.lanes.iter().sum::<u64>()
    }

    /// Bytes of the unit of the segments that have ended: lengths, lane states, words, escapes and plane (SPEC 8). `None` if a value needs
    /// an escape and its table gives the escape no frequency.
    pub fn bytes(&self) -> Option<u64> {
        let fixed = 1 + self.segments * (8 + 4 * LANES as u64);
        (!self.stuck).then_some(fixed + 2 * self.words + self.escape_bytes + self.plane_bytes)
    }

    /// Most bytes that the coded unit is longer or shorter than [`Cost::bytes`]: the bound that the docs of this type prove, with 3 units
    /// of 2^-16 bit for the rounding of each price, and a word a lane for where the sums fall between two words.
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
    #[inline(always)]
    fn symbol(&mut self, class: Class, value: i32) {
        let (s, _) = symbol(class, value);
        let prices = &self.prices.of[class.table * SYMBOLS..][..SYMBOLS];
        let mut price = prices[s];
        if s == ESCAPE || price == NO_CODE {
            price = prices[ESCAPE];
            self.stuck |= price == NO_CODE;
            self.escape_bytes += varint::len(escape_code(self.prices.kind, value)) as u64;
        }
        self.lanes[self.lane] += u64::from(price) + u64::from(class.low_bits) * COST_ONE;
        self.lane = (self.lane + 1) % LANES;
        self.symbols[class.low_bits as usize & 7] += 1;
    }

    #[inline(always)]
    fn raw(&mut self, _: u32, bits: u32) {
        self.plane_bits += u64::from(bits);
    }

    #[inline(always)]
    fn end_row(&mut self) {
        self.plane_bytes += self.plane_bits.div_ceil(8);
        (self.plane_bits, self.lane) = (0, 0);
    }
}
