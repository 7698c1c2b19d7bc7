//! The AVX2 kernel for joining values and raw fields, 8 elements at a time.

use std::arch::x86_64::*;

use impasto_core::FloatLayout;

/// The shuffle that moves the raw fields of 8 elements to their lanes; the same for all rows of a tile.
///
/// A group of 8 fields is `q` bytes and begins at a byte, since a field has `q` bits. Field `j` lies within 4 bytes
/// from byte `j q / 8` on (`q` is at most 22). Those of lanes 0 to 3 thus lie within 16 bytes from the first byte of
/// the group, and those of lanes 4 to 7 within 16 bytes from byte `second`. A byte shuffle of both halves moves each
/// field to its lane, and a shift aligns it.
#[derive(Clone)]
pub(super) struct Fields {
    bytes: [u8; 32],
    shifts: [u32; 8],
    second: usize,
}

impl Fields {
    /// Creates the shuffle for a layout.
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

    /// Returns the number of bytes that a group reads from its first byte on, which is more than its own `q`.
    fn reach(&self) -> usize {
        self.second + 16
    }
}

/// Joins whole groups of 8 elements, as `join_from` does. Returns the number of elements joined.
///
/// # Safety
/// The processor supports AVX2; `fields` was created for `layout`; `out` holds `v.len()` floats, and `plane` as many
/// fields.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn join_row(fields: &Fields, layout: FloatLayout, v: &[i32], plane: &[u8], out: &mut [u8]) -> usize {
    let q = layout.raw_bits() as usize;
    let groups = v.len() / 8;
    // The first `within` groups read only bytes inside the plane. The others read a zero-padded copy of its last bytes.
    let within = groups.min((plane.len() + q).saturating_sub(fields.reach()) / q);
    let rest = &plane[q * within..(q * groups).min(plane.len())];
    let mut padded = [0; 64];
    padded[..rest.len()].copy_from_slice(rest);
    let (v, done) = (v[..8 * groups].as_ptr(), 8 * within);
    let out = out.as_mut_ptr();
    // SAFETY: there are at least 8 * groups values and floats. The first `within` groups read inside the plane. The
    // others read fewer than `reach` bytes of fields plus at most `reach` bytes, at most 2 * 27 in total, which
    // `padded` holds.
    unsafe {
        join_groups(fields, layout, within, v, plane.as_ptr(), out);
        join_groups(fields, layout, groups - within, v.add(done), padded.as_ptr(), out.add(done * layout.size()));
    }
    8 * groups
}

/// Joins `groups` groups of 8 elements.
///
/// # Safety
/// As for [`join_row`]. `v` points to `8 * groups` values, `out` to as many floats, and `plane` to their fields, with
/// all bytes that the last group reads.
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
    // SAFETY: group g reads 8 values and `reach` bytes of the plane from its first byte on, and writes 8 floats.
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
