//! Unsigned LEB128 in its shortest form, and zigzag (SPEC 1.2, 1.3).

use crate::error::CodecError;

/// Appends `value`.
pub fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`write`] appends.
pub fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes a varint off the front of `bytes`.
///
/// # Errors
/// [`CodecError::Truncated`] if the bytes end inside it, [`CodecError::Varint`] if it is not the shortest form or reaches 2^64.
pub fn read(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    let mut value = 0u64;
    for i in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or(CodecError::Truncated("varint"))?;
        *bytes = rest;
        if i == 9 && byte > 1 {
            return Err(CodecError::Varint);
        }
        value |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            return if byte == 0 && i > 0 { Err(CodecError::Varint) } else { Ok(value) };
        }
    }
    Err(CodecError::Varint)
}

/// Signed to unsigned: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
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
    fn refuses_long_forms() {
        assert_eq!(read(&mut &[0x80, 0x00][..]), Err(CodecError::Varint));
        assert_eq!(read(&mut &[0xFF; 10][..]), Err(CodecError::Varint));
        assert_eq!(read(&mut &[0x80][..]), Err(CodecError::Truncated("varint")));
    }
}
