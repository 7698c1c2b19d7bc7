//! A row group in several layers.

use impasto_core::Isa;

use super::super::arena::Arena;
use super::super::cell::{GROUP, Line, QUAD};
use super::super::row_group::RowGroup;
use super::super::{ColumnOrder, PackError};
use super::form::Form;
use super::open::{self, Digits};
use super::trits::Trits;

/// Digits beyond -1, 0 and 1 are outliers if the others are packed as trits: at most one in this many.
const RARE: usize = 64;

/// A row group in several layers, packed.
#[derive(Debug)]
pub struct NestedRows {
    /// The codes of the base.
    pub(super) base: RowGroup,
    pub(super) form: Form,
    pub(super) planes: Vec<Plane>,
}

/// What makes the codes of a layer of those of the layer below.
#[derive(Debug)]
pub(super) struct Plane {
    /// The digits minus `shift`, without those in `trits`; with the steps of rows and the offset of this layer.
    pub(super) digits: RowGroup,
    trits: Option<Trits>,
    /// What the codes of the layer below are multiplied by.
    factor: u8,
    shift: u8,
    /// Whether the two zeros of the codes below are the same here.
    joins: bool,
    pub(super) form: Form,
}

/// The integers of a row group at a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerRows<'a> {
    /// Rows x columns, row-major, columns in the order of the file.
    pub integers: &'a [i32],
    /// The step of each row, including the step of the tensor.
    pub row_steps: &'a [f32],
    /// Offset of reconstruction points away from 0, in 256ths of a step.
    pub offset: u8,
}

impl NestedRows {
    /// Packs the layers of a row group, from the coarsest; `columns` and `widths` are as in [`RowGroup::pack`].
    ///
    /// # Errors
    /// Those of [`RowGroup::pack`], for any layer; [`PackError::Count`] if there is no layer, or they differ in size.
    pub fn pack(layers: &[LayerRows], columns: &ColumnOrder, widths: &[i32]) -> Result<NestedRows, PackError> {
        let [first, ..] = layers else { return Err(PackError::Count { what: "layers", found: 0, expected: 1 }) };
        let finest = layers.last().unwrap_or(first);
        for pair in layers.windows(2) {
            PackError::check_count("integers of a layer", pair[0].integers.len(), pair[1].integers.len())?;
        }
        let codes = Codes::of(layers, finest);
        let planes = (1..layers.len()).map(|layer| codes.plane(layer, &layers[layer], columns, widths));
        let planes = planes.collect::<Result<_, PackError>>()?;
        let Code { values, has_two_zeros } = &codes.layers[0];
        let base = RowGroup::pack(values, columns, first.row_steps, widths, first.offset)?;
        let form = Form::new(first.integers, *has_two_zeros, &base, columns)?;
        Ok(NestedRows { base, form, planes })
    }

    /// Moves the codes and digits into an arena.
    pub fn keep_in(self, arena: &Arena) -> NestedRows {
        let keep = |plane: Plane| Plane {
            digits: plane.digits.keep_in(arena),
            trits: plane.trits.map(|trits| trits.keep_in(arena)),
            ..plane
        };
        NestedRows { base: self.base.keep_in(arena), planes: self.planes.into_iter().map(keep).collect(), ..self }
    }
}

/// Returns how many steps of a layer are one of the layer below, about. The result does not depend on it, only the width of
/// the digits does.
fn factor(below: &LayerRows, layer: &LayerRows) -> i32 {
    // Rows may have multipliers, so they differ.
    let steps = below.row_steps.iter().zip(layer.row_steps).filter(|(_, step)| **step != 0.0);
    let mut ratios: Vec<f32> = steps.map(|(a, b)| a / b).collect();
    let middle = ratios.len() / 2;
    let ratio = (!ratios.is_empty()).then(|| *ratios.select_nth_unstable_by(middle, f32::total_cmp).1);
    ratio.filter(|ratio| (1.0..=64.0).contains(ratio)).map_or(1, |ratio| ratio.round() as i32)
}

/// The codes of a layer.
struct Code {
    values: Vec<i32>,
    has_two_zeros: bool,
}

/// The codes of all layers of a row group, and how they are divided.
struct Codes {
    layers: Vec<Code>,
    /// For each layer above the base: the factor, and whether the codes below are floors.
    steps: Vec<(i32, bool)>,
}

impl Codes {
    /// Finds codes from the finest layer down, because which zero a code is depends on the layer above. Layers are divided
    /// in the way that leaves fewer digits outside of the narrowest range for the factor.
    fn of(layers: &[LayerRows], finest: &LayerRows) -> Codes {
        let mut found = Codes { layers: Vec::new(), steps: Vec::new() };
        // The codes that the layer above needs, with two zeros.
        let mut needed: Option<Vec<i32>> = None;
        for pair in layers.windows(2).rev() {
            let (below, layer) = (&pair[0], &pair[1]);
            let factor = factor(below, layer);
            let with_sign = |(&z, is_below): (&i32, bool)| z.saturating_sub(i32::from(z < 0 || z == 0 && is_below));
            let split =
                needed.clone().unwrap_or_else(|| layer.integers.iter().map(|z| with_sign((z, false))).collect());
            let plain = needed.as_deref().unwrap_or(layer.integers);
            let floors: Vec<i32> =
                below.integers.iter().zip(split.iter().map(|&code| code < 0)).map(with_sign).collect();
            let (least, most) = range(factor);
            let outside = |codes: &[i32], below: &[i32], shift: i32| {
                let digit = |(code, below): (&i32, &i32)| code.wrapping_sub(below.wrapping_mul(factor));
                codes.iter().zip(below).filter(|pair| !(least..=most).contains(&(digit(*pair) - shift))).count()
            };
            let is_floor = outside(&split, &floors, -least) < outside(plain, below.integers, 0);
            found.steps.push((factor, is_floor));
            let has_two_zeros = is_floor || needed.is_some();
            found.layers.push(Code { values: if is_floor { split } else { plain.to_vec() }, has_two_zeros });
            needed = is_floor.then_some(floors);
        }
        let has_two_zeros = needed.is_some();
        let base = layers.first().unwrap_or(finest);
        found.layers.push(Code { values: needed.unwrap_or_else(|| base.integers.to_vec()), has_two_zeros });
        found.layers.reverse();
        found.steps.reverse();
        found
    }

    /// Packs the plane of a layer above the base.
    fn plane(&self, layer: usize, rows: &LayerRows, columns: &ColumnOrder, widths: &[i32]) -> Result<Plane, PackError> {
        let (Code { values, has_two_zeros }, below) = (&self.layers[layer], &self.layers[layer - 1]);
        let (factor, is_floor) = self.steps[layer - 1];
        let joins = below.has_two_zeros && !is_floor;
        let shift = if is_floor { -range(factor).0 } else { 0 };
        // What opening computes of the codes below, modulo 256.
        let opened = |&code: &i32| i32::from(code as i8) + i32::from(joins && (code as i8) < 0);
        let digit = |(code, below): (&i32, &i32)| {
            i32::from(code.wrapping_sub(opened(below).wrapping_mul(factor)).wrapping_sub(shift) as i8)
        };
        let all: Vec<i32> = values.iter().zip(&below.values).map(digit).collect();
        let count = |is: fn(i32) -> bool| all.iter().filter(|&&digit| is(digit)).count();
        // Other digits than trits are rare, and so are zeros, which cells of no width would hold.
        let as_trits = factor == 3
            && !is_floor
            && count(|digit| digit.abs() > 1) * RARE <= all.len()
            && count(|digit| digit != 0) * 3 > all.len();
        let &LayerRows { integers, row_steps, offset } = rows;
        let pack = |digits: &[i32]| RowGroup::pack(digits, columns, row_steps, widths, offset);
        let (digits, trits) = if as_trits {
            let rest: Vec<i32> = all.iter().map(|digit| digit - digit.signum()).collect();
            let digits = pack(&rest)?;
            let trits = Trits::pack(&signs(&all, &digits, columns), digits.strips());
            (digits, Some(trits))
        } else {
            (pack(&all)?, None)
        };
        let form = Form::new(integers, *has_two_zeros, &digits, columns)?;
        Ok(Plane { digits, trits, factor: factor as u8, shift: shift as u8, joins, form })
    }
}

/// Returns the least and the largest digit of the fewest bits that `factor` digits take.
fn range(factor: i32) -> (i32, i32) {
    let half = 1 << (i32::BITS - (factor - 1).leading_zeros()) >> 1;
    (-half, (half - 1).max(0))
}

/// Returns the signs of digits, in the order of the vectors of all strips of a row group.
fn signs(digits: &[i32], group: &RowGroup, columns: &ColumnOrder) -> Vec<[i8; 64]> {
    let (order, width) = (columns.order(), columns.inputs());
    let vectors = width.div_ceil(GROUP) * GROUP / QUAD;
    let mut out = vec![[0; 64]; group.strips() * vectors];
    for (strip, out) in out.chunks_mut(vectors.max(1)).enumerate() {
        for (lane, (row, _)) in group.strip(strip).outputs().enumerate() {
            let digits = &digits[row * width..][..width];
            for (place, &column) in order.iter().enumerate() {
                out[place / QUAD][lane * QUAD + place % QUAD] = digits[column as usize].signum() as i8;
            }
        }
    }
    out
}

impl Plane {
    /// Turns the codes of a strip at the layer below, modulo 256, plus 128, into those of this layer.
    pub(super) fn add(&self, isa: Isa, strip: usize, lines: &mut [Line]) {
        if self.joins {
            open::join_zeros(isa, lines);
        }
        open::plane(isa, self.digits(strip), lines);
        if let Some(trits) = &self.trits {
            trits.add(isa, strip, lines);
        }
    }

    /// Whether this plane can be added to the base in one step.
    pub(super) fn is_simple(&self) -> bool {
        !self.joins && self.trits.is_none()
    }

    /// Returns the digits of a strip, but for the trits.
    pub(super) fn digits(&self, strip: usize) -> Digits<'_> {
        Digits { strip: self.digits.strip(strip), factor: self.factor, shift: self.shift }
    }

    /// Turns the codes of a row at the layer below into those of this layer, modulo 256. `order` is that of the columns.
    pub(super) fn add_to_row(&self, row: usize, order: &[u16], codes: &mut [i32]) {
        let (index, lane) = self.digits.lane(row);
        let strip = self.digits.strip(index);
        let mut digits = vec![0; strip.widths.len() * GROUP];
        strip.integers(lane, |place, digit| digits[place] = digit);
        for (place, (&column, digit)) in order.iter().zip(&digits).enumerate() {
            let code = &mut codes[column as usize];
            let byte = *code as i8;
            *code = i32::from(byte) + i32::from(self.joins && byte < 0);
            *code = code.wrapping_mul(self.factor.into()).wrapping_add(*digit + i32::from(self.shift));
            if let Some(trits) = &self.trits {
                *code = code.wrapping_add(trits.at(index, place / QUAD, lane * QUAD + place % QUAD));
            }
        }
    }

    /// Returns the number of bytes that a product reads.
    pub(super) fn bytes(&self) -> usize {
        self.digits.bytes() + self.trits.as_ref().map_or(0, Trits::bytes)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.digits.memory_bytes() + self.trits.as_ref().map_or(0, Trits::bytes) + self.form.memory_bytes()
    }

    /// Returns the number of bits of the cells.
    pub(super) fn cell_bits(&self) -> usize {
        self.digits.cell_bits() + self.trits.as_ref().map_or(0, Trits::bytes) * 8
    }

    /// Returns the number of bytes of the heads of strips, without outliers.
    pub(super) fn head_bytes(&self) -> usize {
        self.digits.head_bytes()
    }

    /// Returns the number of outliers, among the digits and among the integers.
    pub(super) fn outliers(&self) -> usize {
        self.digits.outliers() + self.form.outliers()
    }
}
