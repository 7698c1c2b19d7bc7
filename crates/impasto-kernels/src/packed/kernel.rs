//! Selection of the kernels for packed products.

use std::fmt;
use std::ops::Range;

use impasto_core::Isa;

use super::ColumnOrder;
use super::activations::{self, FloatPanel, PANEL, Panel, PanelMut};
use super::cell::{Line, STRIP};
use super::fixes::Fixes;
use super::row_group::{RowGroup, Strip};
use super::scalar;

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, unpacked};

/// The instructions that packed products use. All kernels give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(pub(crate) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Number of strips that are multiplied together after they are unpacked.
pub(super) const STRIPS: usize = 2;

/// The largest number of tokens that are multiplied directly from the cells.
const DIRECT: usize = 4;

/// Calls a kernel that is generic over the number of tokens of a panel.
macro_rules! for_tokens {
    ([$($n:literal)*] $tokens:expr, $kernel:ident, $call:expr) => {
        match $tokens {
            $($n => { const $kernel: usize = $n; $call })*
            tokens => unreachable!("a panel of {tokens} tokens"),
        }
    };
}

impl Kernel {
    /// Returns the best kernel that `IMPASTO_CPU` ([`Isa::best`]) and this processor allow.
    pub fn best() -> Kernel {
        Kernel::of(Isa::best())
    }

    /// Returns the best kernel for an instruction set: for `avx512` the one with VNNI; for `avx2`, or without VNNI, the
    /// one with AVX2 and FMA; otherwise the portable one.
    pub fn of(isa: Isa) -> Kernel {
        #[cfg(target_arch = "x86_64")]
        {
            let isa = isa.or_scalar();
            let vnni = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("fma");
            if isa == Isa::Avx512 && vnni {
                return Kernel(Kind::Avx512);
            }
            if isa != Isa::Scalar && is_x86_feature_detected!("fma") {
                return Kernel(Kind::Avx2);
            }
        }
        let _ = isa;
        Kernel(Kind::Scalar)
    }

    /// Returns all kernels that this processor supports, from the slowest to the fastest.
    pub fn available() -> Vec<Kernel> {
        let mut kernels: Vec<_> = Isa::available().into_iter().map(Kernel::of).collect();
        kernels.dedup();
        kernels
    }

    /// Returns the instruction set.
    pub(crate) fn isa(self) -> Isa {
        match self.0 {
            Kind::Scalar => Isa::Scalar,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => Isa::Avx512,
        }
    }

    /// Returns whether strips are unpacked before they are multiplied ([`Kernel::unpack`], [`Kernel::unpacked`]).
    /// Otherwise, and always if there is an offset, they are multiplied directly from their cells ([`Kernel::int8`]).
    pub(super) fn unpacks(self, tokens: usize) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Kind::Avx512 && tokens > DIRECT;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Returns the largest number of tokens in a panel.
    pub(super) fn panel(self, unpacks: bool) -> usize {
        if unpacks { PANEL } else { DIRECT }
    }

    /// [`activations::permute`].
    pub(super) fn permute(self, columns: &ColumnOrder, x: &[f32], out: &mut [f32]) {
        match self.0 {
            Kind::Scalar => activations::permute(columns, x, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as below.
            Kind::Avx2 => unsafe { avx2::permute(columns, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kernel::of` checked that the processor has the features.
            Kind::Avx512 => unsafe { avx512::permute(columns, x, out) },
        }
    }

    /// [`PanelMut::quantize`].
    pub(super) fn quantize(self, panel: &mut PanelMut, token: usize, values: &[f32]) {
        match self.0 {
            Kind::Scalar => panel.quantize(token, values),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as below.
            Kind::Avx2 => unsafe { avx2::quantize(panel, token, values) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kernel::of` checked that the processor has the features.
            Kind::Avx512 => unsafe { avx512::quantize(panel, token, values) },
        }
    }

    /// Computes the sums of strips of a row group for each token, before the multiplication by row steps. Calls `each`
    /// with each strip and its sums.
    pub(super) fn int8(
        self,
        group: &RowGroup,
        strips: Range<usize>,
        panel: Panel,
        fixes: &mut Fixes,
        mut each: impl FnMut(Strip, &[[f32; STRIP]]),
    ) {
        let offset = group.offset();
        for_tokens!([1 2 3 4] panel.tokens, T, {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                // All strips in one call, because a call per strip would cost as much as a short strip.
                // SAFETY: `Kernel::of` checked that the processor has the features.
                Kind::Avx512 if offset == 0.0 => unsafe {
                    avx512::int8_strips::<T, false>(group, strips, panel, offset, fixes, each);
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Kind::Avx512 => unsafe {
                    avx512::int8_strips::<T, true>(group, strips, panel, offset, fixes, each);
                },
                _ => {
                    let mut sums = [[0.0; STRIP]; T];
                    for index in strips {
                        self.int8_strip(group.strip(index), offset, panel, fixes, &mut sums);
                        each(group.strip(index), &sums);
                    }
                }
            }
        })
    }

    /// [`Kernel::int8`] for one strip; `out` receives the sums of each token.
    pub(super) fn int8_strip(
        self,
        strip: Strip,
        offset: f32,
        panel: Panel,
        fixes: &mut Fixes,
        out: &mut [[f32; STRIP]],
    ) {
        for_tokens!([1 2 3 4] panel.tokens, T, {
            match offset == 0.0 {
                true => fixes.sum::<T, false>(strip, panel, false),
                false => fixes.sum::<T, true>(strip, panel, false),
            }
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Kernel::of` checked that the processor has the features.
                Kind::Avx512 if offset == 0.0 => unsafe { avx512::int8::<T, false>(strip, panel, offset, fixes, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Kind::Avx512 => unsafe { avx512::int8::<T, true>(strip, panel, offset, fixes, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Kind::Avx2 if offset == 0.0 => unsafe { avx2::int8::<T, false>(strip, panel, offset, fixes, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Kind::Avx2 => unsafe { avx2::int8::<T, true>(strip, panel, offset, fixes, out) },
                Kind::Scalar => scalar::int8::<T>(strip, panel, offset, fixes, out),
            }
        })
    }

    /// Like [`Kernel::int8`] for one strip, with activations in binary32.
    pub(super) fn float(self, strip: Strip, panel: FloatPanel, offset: f32, out: &mut [[f32; STRIP]]) {
        for_tokens!([1 2 3 4] panel.tokens, T, {
            match self.0 {
                Kind::Scalar => scalar::float::<T>(strip, panel, offset, out),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as below.
                Kind::Avx2 if offset == 0.0 => unsafe { avx2::float::<T, false>(strip, panel, offset, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as below.
                Kind::Avx2 => unsafe { avx2::float::<T, true>(strip, panel, offset, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Kernel::of` checked that the processor has the features.
                Kind::Avx512 if offset == 0.0 => unsafe { avx512::float::<T, false>(strip, panel, offset, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Kind::Avx512 => unsafe { avx512::float::<T, true>(strip, panel, offset, out) },
            }
        })
    }

    /// Unpacks strip `index` of `strips` strips that are multiplied together.
    pub(super) fn unpack(self, strip: Strip, index: usize, strips: usize, out: &mut [Line]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kernel::of` checked that the processor has the features.
            Kind::Avx512 => unsafe { unpacked::unpack_strip(strip, index, strips, out) },
            _ => unreachable!("{self} multiplies directly from cells"),
        }
    }

    /// Like [`Kernel::int8`], for strips that [`Kernel::unpack`] wrote to `weights`. `out` receives the sums of each
    /// token for each strip.
    pub(super) fn unpacked(
        self,
        strips: &[Strip],
        weights: &[Line],
        panel: Panel,
        fixes: &mut [Fixes; STRIPS],
        out: &mut [[f32; STRIP]],
    ) {
        // A panel has at least 3 tokens, because there are more than DIRECT tokens and they are divided evenly.
        for_tokens!([3 4 5 6] panel.tokens, T, {
            for (fixes, strip) in fixes.iter_mut().zip(strips).filter(|(_, strip)| strip.has_far()) {
                fixes.sum::<T, false>(*strip, panel, true);
            }
            let far = |s: usize| strips.get(s).is_some_and(|strip| strip.has_far()).then_some(&fixes[s]);
            let fixes = std::array::from_fn(far);
            let out = out.as_chunks_mut::<T>().0;
            match (self.0, strips.len()) {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Kernel::of` checked that the processor has the features.
                (Kind::Avx512, 1) => unsafe { unpacked::multiply::<1, T>(weights, panel, fixes, first(out)) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                (Kind::Avx512, _) => unsafe { unpacked::multiply::<2, T>(weights, panel, fixes, first(out)) },
                _ => unreachable!("{self} multiplies directly from cells"),
            }
        })
    }
}

/// Returns the first `S` elements.
fn first<T, const S: usize>(out: &mut [T]) -> &mut [T; S] {
    out.first_chunk_mut().expect("room for all strips")
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512-vnni",
        })
    }
}
