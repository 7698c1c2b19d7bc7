//! Joining values and raw fields, 8 at a time.

use std::arch::x86_64::*;

use impasto_core::FloatLayout;

/// How the fields of 8 elements, `q` bytes, are brought to their lanes; the same for all rows of a tile.
///
/// Every group of 8 begins at a byte. Field `j` lies within the 4 bytes from `j q / 8` on (`q` is at most 22), so those of lanes 0
/// to 3 within the 16 bytes from the group's first on, those of lanes 4 to 7 within the 16 bytes from `second` on: a byte
/// shuffle of both halves brings each to its lane, one shift aligns it.
#[derive(Clone)]
pub(super) struct Fields {
    bytes: [u8; 32],
    shifts: [u32; 8],
    second: usize,
}

impl Fields {
    /// The fields of a layout.
    pub(super) fn new(layout: FloatLayout) -> Fields {
        let q = layout.raw_bits() as usize;
        let second = 4 * q / 8;
        let mut fields = Fields { bytes: [0; 32], shifts: [0; 8], second };
        for j in 0..8 {
            fields.shifts[j] = (j * q % 8) as u32;
            for b in 0..4 {
                fields.bytes[4 * j + b] = (j * q / 8 + b - if j < 4 { 0 } else { second }) as u8;
            }
        }
        fields
    }

    /// Bytes that a group reads from its first byte on: more than its own `q`.
    fn reach(&self) -> usize {
        self.second + 16
    }
}

/// Joins whole groups of 8 elements as `join_from` does; returns how many elements that were.
///
/// # Safety
/// The processor has the features below; `fields` is of `layout`; `out` holds `v.len()` floats, `plane` as many fields.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn join_row(fields: &Fields, layout: FloatLayout, v: &[i32], plane: &[u8], out: &mut [u8]) -> usize {
    let q = layout.raw_bits() as usize;
    let groups = v.len() / 8;
    // The groups whose reach ends within the plane; the rest read a copy of its last bytes, fewer than the reach, with room after.
    let within = groups.min((plane.len() + q).saturating_sub(fields.reach()) / q);
    let rest = &plane[q * within..(q * groups).min(plane.len())];
    let mut padded = [0; 64];
    padded[..rest.len()].copy_from_slice(rest);
    let (v, done) = (v[..8 * groups].as_ptr(), 8 * within);
    let out = out.as_mut_ptr();
    // SAFETY: there are 8 * groups values and floats; the reach of each group is within the plane or, for those of the rest, within the
    // rest's bytes and a reach more, which `padded` holds: less than a reach and a reach more, at most 2 * 27 bytes.
    unsafe {
        join_groups(fields, layout, within, v, plane.as_ptr(), out);
        join_groups(fields, layout, groups - within, v.add(done), padded.as_ptr(), out.add(done * layout.size()));
    }
    8 * groups
}

/// Joins `groups` groups of 8 elements.
///
/// # Safety
/// As [`join_row`]; `v` points to `8 * groups` values, `out` to as many floats, `plane` to the fields' bytes, of which the last
/// group's whole reach exists.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn join_groups(
    fields: &Fields,
    layout: FloatLayout,
    groups: usize,
    v: *const i32,
    plane: *const u8,
    out: *mut u8,
) {
    let q = layout.raw_bits() as usize;
    let low_bits = layout.mantissa - 2;
    let set = |bits: u32| _mm256_set1_epi32(bits as i32);
    let count = |bits: u32| _mm_cvtsi32_si128(bits as i32);
    // SAFETY: group g reads 8 values and its reach of the plane, and writes 8 floats.
    unsafe {
        let bytes = _mm256_loadu_si256(fields.bytes.as_ptr().cast());
        let shifts = _mm256_loadu_si256(fields.shifts.as_ptr().cast());
        for g in 0..groups {
            let at = plane.add(q * g);
            let raw = _mm256_loadu2_m128i(at.add(fields.second).cast(), at.cast());
            let raw = _mm256_srlv_epi32(_mm256_shuffle_epi8(raw, bytes), shifts);
            let raw = _mm256_and_si256(raw, set((1 << q) - 1));
            let value = _mm256_loadu_si256(v.add(8 * g).cast());
            let value = _mm256_and_si256(value, set((1 << layout.value_bits()) - 1));
            let sign =
                _mm256_sll_epi32(_mm256_srl_epi32(raw, count(low_bits)), count(layout.exponent + layout.mantissa));
            let low = _mm256_and_si256(raw, set((1 << low_bits) - 1));
            let float = _mm256_or_si256(_mm256_or_si256(sign, low), _mm256_sll_epi32(value, count(low_bits)));
            let to = out.add(8 * g * layout.size());
            let halves = || _mm_packus_epi32(_mm256_castsi256_si128(float), _mm256_extracti128_si256::<1>(float));
            match layout.size() {
                4 => _mm256_storeu_si256(to.cast(), float),
                2 => _mm_storeu_si128(to.cast(), halves()),
                _ => _mm_storel_epi64(to.cast(), _mm_packus_epi16(halves(), halves())),
            }
        }
    }
}
