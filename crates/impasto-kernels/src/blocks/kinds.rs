//! Types that stand for the block dtypes, so that kernels are compiled for each.

use std::marker::PhantomData;

use impasto_core::DType;
use impasto_core::blocks::apart::Form;

use super::lanes::{self, Lanes, OnLanes};
use super::strip::keeps_blocks;
use crate::packed::Kernel;
use crate::packed::cell::{GROUP, VECTORS};

/// A block dtype.
pub(super) trait Kind {
    const FORM: Form;
    /// Whether strips keep the blocks as they are.
    const KEPT: bool;

    /// Bits of an integer.
    const BITS: u8 = Self::FORM.bits;
    /// Groups with scales of their own in a cell.
    const SUBS: usize = GROUP / Self::FORM.group;
    /// Vectors of a cell in such a group.
    const VECTORS: usize = VECTORS / Self::SUBS;
    /// Whether groups have a minimum.
    const MINIMUM: bool = Self::FORM.has_minimums();
    /// The values of the table plus 128.
    const TABLE: [u8; 16] = match Self::FORM.table {
        Some(table) => plus_128(table),
        None => [0; 16],
    };
    /// Whether the factors of the activations have 8 bits: integers, or values of a table plus 128.
    const WIDE: bool = Self::BITS == 8 || Self::FORM.table.is_some();
}

/// An algorithm that is written once and compiled for each instruction set and block dtype.
pub(super) trait Algorithm {
    type Output;

    /// Runs the algorithm. It and the functions that it calls must be inlined (`#[inline(always)]`) to be compiled for
    /// the instructions.
    fn run<L: Lanes, K: Kind>(self, lanes: L) -> Self::Output;
}

/// An algorithm for one dtype.
struct OfKind<K, A>(A, PhantomData<K>);

impl<K: Kind, A: Algorithm> OnLanes for OfKind<K, A> {
    type Output = A::Output;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> A::Output {
        self.0.run::<L, K>(lanes)
    }
}

/// Defines the types, and the choice among them. Dtypes that are kept as blocks share a type if their groups have the
/// same size, since kernels see them opened: as bytes with a bias of 128.
macro_rules! kinds {
    ($($name:ident $(| $other:ident)*,)*) => {
        $(
            struct $name;

            impl Kind for $name {
                const FORM: Form = match Form::of(DType::$name) {
                    Some(form) => form,
                    None => panic!("a dtype without a form"),
                };
                const KEPT: bool = keeps_blocks(DType::$name, &Self::FORM);
            }
        )*

        /// Runs an algorithm with the instructions of a kernel, for a dtype that has a form.
        pub(super) fn run<A: Algorithm>(kernel: Kernel, dtype: DType, algorithm: A) -> A::Output {
            match dtype {
                $(DType::$name $(| DType::$other)* => {
                    lanes::run(kernel, OfKind::<$name, A>(algorithm, PhantomData))
                })*
                other => unreachable!("{} has no form", other.name()),
            }
        }
    };
}

kinds! {
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs, Tq2_0, Mxfp4,
    Iq1S | Iq2Xxs | Iq3Xxs | Iq3S | Tq1_0,
    Iq1M | Iq2Xs | Iq2S,
}

const fn plus_128(table: [i8; 16]) -> [u8; 16] {
    let mut moved = [0; 16];
    let mut i = 0;
    while i < 16 {
        moved[i] = table[i] as u8 ^ 128;
        i += 1;
    }
    moved
}

/// Returns what is subtracted from the factors of the activations.
pub(super) const fn bias(form: &Form) -> i32 {
    if form.table.is_some() { 128 } else { form.bias as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_its_kind() {
        struct FormOf;
        impl Algorithm for FormOf {
            type Output = (Form, bool);
            fn run<L: Lanes, K: Kind>(self, _: L) -> (Form, bool) {
                (K::FORM, K::KEPT)
            }
        }
        for dtype in DType::BLOCKS {
            let form = Form::of(dtype).expect("blocks");
            let (found, kept) = run(Kernel::best(), dtype, FormOf);
            assert_eq!(kept, keeps_blocks(dtype, &form));
            if kept {
                assert_eq!((found.group, bias(&found), bias(&form)), (form.group, 128, 128));
            } else {
                assert_eq!(found, form);
            }
        }
    }
}
