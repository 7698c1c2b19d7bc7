//! Fixed-width structures, declared like the tables in SPEC.md.

/// A value with a fixed width in the file, little-endian (SPEC 1.1).
pub(crate) trait Field: Sized {
    /// Size in the file, in bytes.
    const SIZE: usize;

    /// Reads the value and removes it from the front of `bytes`; `None` if there are too few bytes.
    fn take(bytes: &mut &[u8]) -> Option<Self>;

    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
}

impl<const N: usize> Field for [u8; N] {
    const SIZE: usize = N;

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (value, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*value)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Field for $type {
            const SIZE: usize = size_of::<$type>();

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Field::take(bytes).map(<$type>::from_le_bytes)
            }

            fn put(&self, out: &mut Vec<u8>) {
                self.to_le_bytes().put(out);
            }
        }
    )*};
}

integers!(u8 u16 u32 u64);

/// Declares a private structure that is stored as its fields in order.
macro_rules! table {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        struct $name { $($field: $type,)* }

        impl $crate::fields::Field for $name {
            const SIZE: usize = 0 $(+ <$type as $crate::fields::Field>::SIZE)*;

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some($name { $($field: $crate::fields::Field::take(bytes)?,)* })
            }

            fn put(&self, out: &mut Vec<u8>) {
                $($crate::fields::Field::put(&self.$field, out);)*
            }
        }
    };
}

pub(crate) use table;
