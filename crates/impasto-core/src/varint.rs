//! Unsigned LEB128 in its shortest form, and zigzag (SPEC 1.2, 1.3).

use thiserror::Error;

/// Appends the varint of `value`.
pub fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns the number of bytes that [`write()`] appends.
pub fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Error: the bytes are not a valid varint.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum VarintError {
    /// The bytes end before the varint does.
    #[error("bytes end inside a varint (SPEC 1.2)")]
    Cut,
    /// The value is 2^64 or more, or the form is not the shortest.
    #[error("a varint is too long or above its range (SPEC 1.2)")]
    Form,
}

/// Reads a varint and removes it from the front of `bytes`.
///
/// # Errors
/// Returns [`VarintError`] and leaves `bytes` unchanged.
pub fn read(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate() {
        // The tenth byte holds only bit 63, and no byte may follow it.
        if i == 9 && byte > 1 {
            return Err(VarintError::Form);
        }
        value |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            if byte == 0 && i > 0 {
                return Err(VarintError::Form);
            }
            *bytes = &bytes[i + 1..];
            return Ok(value);
        }
    }
    Err(VarintError::Cut)
}

/// Maps signed to unsigned: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
pub fn zigzag(n: i32) -> u32 {
    ((n << 1) ^ (n >> 31)) as u32
}

/// The inverse of [`zigzag`].
pub fn unzigzag(u: u32) -> i32 {
    (u >> 1) as i32 ^ -((u & 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(value: u64, n: i32) {
            let mut out = Vec::new();
            write(&mut out, value);
            prop_assert_eq!(out.len(), len(value));
            prop_assert_eq!(read(&mut &out[..]), Ok(value));
            prop_assert_eq!(unzigzag(zigzag(n)), n);
        }
    }

    #[test]
    fn known_forms() {
        let max = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        for (value, form) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xAC, 2]), (u64::MAX, &max)] {
            let mut out = Vec::new();
            write(&mut out, value);
            assert_eq!(out, form);
        }
    }

    #[test]
    fn refuses_other_forms() {
        for (bytes, error) in [
            (&[][..], VarintError::Cut),
            (&[0x80], VarintError::Cut),
            (&[0x80, 0x00], VarintError::Form),
            (&[0xFF; 10], VarintError::Form),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02], VarintError::Form),
        ] {
            assert_eq!(read(&mut &bytes[..]), Err(error));
        }
    }
}
