//! The exact layer: the bits of a float, given the weight of the layer below (SPEC 14).
//!
//! The bits of a float are passed in the low bits of a u32. `r` is the sum of the classes of the row and the column of
//! an element, `z` its integer in the layer below, and `p` the bits of its weight there.

use impasto_core::{FloatLayout, at_each_isa};

/// The class of elements whose integer is 0.
const ZERO: i32 = 31;

/// Returns the low `bits` bits of `n` (1 to 32) as a signed integer.
#[inline(always)]
fn signed(n: u32, bits: u32) -> i32 {
    ((n << (32 - bits)) as i32) >> (32 - bits)
}

/// Returns the base of the magnitude of an element whose integer is 0: a float of about the scale that the classes give
/// (SPEC 14.5).
#[inline(always)]
fn floor(layout: FloatLayout, r: i32) -> u32 {
    // Modulo 2^32; the caller keeps only the bits of the magnitude.
    (r.saturating_sub(42).max(0) as u32) << (layout.mantissa - 2)
}

/// Returns the class of an element (SPEC 14.3). The smaller its weight, the denser the floats around it, and the more
/// the bits of the element differ from those of the weight.
#[inline(always)]
pub fn class(layout: FloatLayout, r: i32, z: i32, p: u32) -> i32 {
    if z == 0 {
        return ZERO;
    }
    let exponent = (layout.magnitude(p) >> layout.mantissa).max(1) as i32;
    r.saturating_sub(4 * exponent).clamp(0, ZERO - 1)
}

/// Returns the bits of the element (SPEC 14.4, 14.5).
#[inline(always)]
pub fn element(layout: FloatLayout, r: i32, z: i32, p: u32, u: i32) -> u32 {
    let n = layout.magnitude_bits() + 1;
    let (magnitude, sign) = if z == 0 {
        (floor(layout, r).wrapping_add((u >> 1) as u32), u as u32 & 1)
    } else {
        let o = signed(layout.magnitude(p).wrapping_add(u as u32), n);
        // A negative `o` is on the other side of 0: -1 is magnitude 0 there.
        let crossed = u32::from(o < 0);
        ((o ^ (o >> 31)) as u32, u32::from(z < 0) ^ crossed)
    };
    layout.magnitude(magnitude) | sign << layout.magnitude_bits()
}

/// Returns the `u` nearest to 0 that gives `element`: the inverse of [`element()`].
#[inline(always)]
pub fn residual(layout: FloatLayout, r: i32, z: i32, p: u32, element: u32) -> i32 {
    let (magnitude, sign) = (layout.magnitude(element), layout.sign(element));
    if z == 0 {
        return signed(magnitude.wrapping_sub(floor(layout, r)), layout.magnitude_bits()) << 1 | sign as i32;
    }
    let o = if sign == u32::from(z < 0) { magnitude } else { !magnitude };
    signed(o.wrapping_sub(layout.magnitude(p)), layout.magnitude_bits() + 1)
}

at_each_isa! {
    /// Replaces the content of `bits` by the bits of each float of a row of little-endian floats.
    pub(crate) fn bits_of_row(layout: FloatLayout, row: &[u8], bits: &mut Vec<u32>) {
        bits.clear();
        match layout.size() {
            2 => bits.extend(row.as_chunks().0.iter().map(|&b| u32::from(u16::from_le_bytes(b)))),
            _ => bits.extend(row.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b))),
        }
    }
}

at_each_isa! {
    /// Replaces the content of `signs` by -1 for each negative float of a row of little-endian floats, and 1 for each other.
    pub fn signs_of_row(layout: FloatLayout, row: &[u8], signs: &mut Vec<i32>) {
        signs.clear();
        let sign = |negative: bool| if negative { -1 } else { 1 };
        match layout.size() {
            2 => signs.extend(row.as_chunks().0.iter().map(|&b| sign(i16::from_le_bytes(b) < 0))),
            _ => signs.extend(row.as_chunks().0.iter().map(|&b| sign(i32::from_le_bytes(b) < 0))),
        }
    }
}

at_each_isa! {
    /// Computes the classes of a row from the sums `r`.
    pub(crate) fn classes_of_row(layout: FloatLayout, r: &[i32], z: &[i32], p: &[u32], classes: &mut [i32]) {
        let found = r.iter().zip(z).zip(p).map(|((&r, &z), &p)| class(layout, r, z, p));
        classes.iter_mut().zip(found).for_each(|(class, found)| *class = found);
    }
}

at_each_isa! {
    /// Writes the elements of a row as little-endian bytes. `r`, `z`, `p` and `u` have one entry per element.
    pub(crate) fn write_row(layout: FloatLayout, r: &[i32], z: &[i32], p: &[u32], u: &[i32], out: &mut [u8]) {
        let elements = r.iter().zip(z).zip(p).zip(u).map(|(((&r, &z), &p), &u)| element(layout, r, z, p, u));
        match layout.size() {
            2 => out.as_chunks_mut().0.iter_mut().zip(elements).for_each(|(o, e)| *o = (e as u16).to_le_bytes()),
            _ => out.as_chunks_mut().0.iter_mut().zip(elements).for_each(|(o, e)| *o = e.to_le_bytes()),
        }
    }
}

at_each_isa! {
    /// Computes the classes of a row of elements of a base, from the class of the row and those of the columns.
    pub(crate) fn classes_over(layout: FloatLayout, of_row: i32, columns: &[i32], row: &[u8], classes: &mut [i32]) {
        let class = |column: i32, p: u32| class(layout, of_row.wrapping_add(column), 1, p);
        let columns = columns.iter().zip(classes);
        match layout.size() {
            2 => row.as_chunks().0.iter().zip(columns).for_each(|(&b, (&c, out))| *out = class(c, u16::from_le_bytes(b).into())),
            _ => row.as_chunks().0.iter().zip(columns).for_each(|(&b, (&c, out))| *out = class(c, u32::from_le_bytes(b))),
        }
    }
}

at_each_isa! {
    /// Replaces the elements of a base in a row by those that are `u` away. The sign of an element is all that counts, of 0 too
    /// (SPEC 21.6).
    pub(crate) fn move_row(layout: FloatLayout, u: &[i32], row: &mut [u8]) {
        match layout.size() {
            2 => row.as_chunks_mut().0.iter_mut().zip(u).for_each(|(b, &u)| {
                let p = u16::from_le_bytes(*b);
                *b = (element(layout, 0, 1 | (p as i16 >> 15) as i32, p.into(), u) as u16).to_le_bytes();
            }),
            _ => row.as_chunks_mut().0.iter_mut().zip(u).for_each(|(b, &u)| {
                let p = u32::from_le_bytes(*b);
                *b = element(layout, 0, 1 | p as i32 >> 31, p, u).to_le_bytes();
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::Isa;
    use impasto_core::dtype::DType;
    use proptest::prelude::*;

    const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

    fn layout(dtype: DType) -> FloatLayout {
        dtype.float_layout().expect("a float")
    }

    #[test]
    fn every_bit_pattern_of_the_short_floats_survives() {
        for dtype in [DType::F16, DType::Bf16] {
            let layout = layout(dtype);
            // Weights around zero, a subnormal, ordinary weights and infinity; sums with and without clamping.
            for (r, z) in [(0, 0), (400, 0), (65_534, 0), (400, 1), (9, -1), (-65_536, i32::MIN), (65_534, i32::MAX)] {
                for p in [0, 1, 0x3A51, 0x7F7F, 0x7C00, 0x8000, 0xBC07, 0xFF80] {
                    for bits in 0..=0xFFFF {
                        let u = residual(layout, r, z, p, bits);
                        assert_eq!(element(layout, r, z, p, u), bits, "{dtype:?} {r} {z} {p}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_bit_pattern_of_f32_survives(bits: u32, p: u32, near in -5000i32..5000, z: i32, r in -65_536i32..=65_534) {
            let layout = layout(DType::F32);
            for (p, z) in [(p, z), (p, 0), (bits.wrapping_add_signed(near), z), (bits ^ 1 << 31, z.signum()), (0, z)] {
                prop_assert_eq!(element(layout, r, z, p, residual(layout, r, z, p, bits)), bits);
            }
        }

        /// Rows over a base are what their elements are, with every instruction set.
        #[test]
        fn rows_over_a_base_agree(
            dtype in prop::sample::select(DTYPES.to_vec()),
            noise in prop::collection::vec((any::<u32>(), -300i32..900, any::<i32>()), 0..80),
            of_row in -300i32..900,
        ) {
            let layout = layout(dtype);
            let row: Vec<u8> = noise.iter().flat_map(|(p, ..)| p.to_le_bytes()[..dtype.size()].to_vec()).collect();
            let columns: Vec<i32> = noise.iter().map(|&(_, column, _)| column).collect();
            let u: Vec<i32> = noise.iter().map(|&(.., u)| u).collect();
            let bits = |bytes: &[u8]| bytes.iter().rev().fold(0, |bits, &b| bits << 8 | u32::from(b));
            for isa in Isa::available() {
                let mut classes = vec![0; u.len()];
                classes_over(isa, layout, of_row, &columns, &row, &mut classes);
                let mut moved = row.clone();
                move_row(isa, layout, &u, &mut moved);
                for (i, (p, element_there)) in row.chunks(dtype.size()).zip(moved.chunks(dtype.size())).enumerate() {
                    let p = bits(p);
                    let z = if layout.sign(p) == 1 { -1 } else { 1 };
                    prop_assert_eq!(classes[i], class(layout, of_row + columns[i], z, p));
                    prop_assert_eq!(bits(element_there), element(layout, 0, z, p, u[i]));
                }
            }
        }

        /// Bits above those of a residual are ignored, and a residual has no more bits than it needs.
        #[test]
        fn residuals_are_modular(
            dtype in prop::sample::select(DTYPES.to_vec()), bits: u32, p: u32, z in -2i32..=2, r in -65_536i32..=65_534, more: u32,
        ) {
            let layout = layout(dtype);
            let n = 8 * dtype.size() as u32;
            let mask = u32::MAX >> (32 - n);
            let (bits, p) = (bits & mask, p & mask);
            let u = residual(layout, r, z, p, bits);
            prop_assert!((-(1i64 << (n - 1))..1 << (n - 1)).contains(&i64::from(u)));
            let other = u.wrapping_add(more.wrapping_shl(n - 1).wrapping_shl(1) as i32);
            prop_assert_eq!(element(layout, r, z, p, other), bits);
            let class = class(layout, r, z, p);
            let in_range = if z == 0 { class == 31 } else { (0..31).contains(&class) };
            prop_assert!(in_range);
        }
    }

    #[test]
    fn follows_the_spec() {
        let bf16 = layout(DType::Bf16);
        let (one, below_one) = (0x3F80, 0x3F7F);
        assert_eq!(residual(bf16, 500, 3, one, below_one), -1);
        assert_eq!(residual(bf16, 500, -3, one | 0x8000, 0x8000 | (one + 2)), 2);
        // Across 0: the magnitude of `p`, plus 1.
        assert_eq!(residual(bf16, 500, 1, 0x0003, 0x8000), -4);
        assert_eq!(residual(bf16, 500, -1, 0x8003, 0x0002), -6);
        // A nonzero integer can have a weight of 0, which has the sign of the integer.
        assert_eq!(element(bf16, 500, -1, 0x8000, 0), 0x8000);
        assert_eq!(element(bf16, 500, -1, 0x0000, 5), 0x8005);
        // Integer 0: the sign is the lowest bit of `u`.
        assert_eq!(element(bf16, 42 + 508, 0, 0, 0), 508 << 5);
        assert_eq!(element(bf16, 0, 0, 0, -1), 0xFFFF);
        assert_eq!([0, 3, -1, -2].map(|u| element(bf16, 42 + 508, 0, 0, u)), [0x3F80, 0xBF81, 0xBF7F, 0x3F7F]);
        // Four classes per octave, higher for smaller floats; subnormals count as the smallest normal floats.
        assert_eq!([0x3F80, 0xBF80, 0x4000, 0x0000, 0x007F].map(|p| class(bf16, 4 * 127 + 9, 1, p)), [9, 9, 5, 30, 30]);
        assert_eq!([class(bf16, 7, 1, 0x0001), class(bf16, 7, 1, 0x0080), class(bf16, 7, 0, 0x0001)], [3, 3, 31]);
    }
}
