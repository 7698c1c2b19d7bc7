//! Integers of variable length: unsigned LEB128 in its shortest form (SPEC 1.2).

/// Why bytes are not a varint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VarintError {
    /// The bytes end before the varint does.
    Cut,
    /// The value is 2^64 or more, or the form is not the shortest.
    Form,
}

/// Takes a varint off the front of `bytes`.
///
/// # Errors
/// [`VarintError`]; `bytes` is then left as it was.
pub fn take(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate() {
        // The tenth byte holds bit 63 alone, and nothing may follow it.
        if i == 9 && byte > 1 {
            return Err(VarintError::Form);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
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

/// Appends `value`.
pub fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(mut bytes: &[u8]) -> Result<(u64, usize), VarintError> {
        take(&mut bytes).map(|value| (value, bytes.len()))
    }

    #[test]
    fn known_forms() {
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for (value, form) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2]), (u64::MAX, &max)] {
            let mut out = Vec::new();
            put(value, &mut out);
            assert_eq!(out, form);
            assert_eq!(read(form), Ok((value, 0)));
        }
    }

    #[test]
    fn refused_forms() {
        assert_eq!(read(&[]), Err(VarintError::Cut));
        assert_eq!(read(&[0x80]), Err(VarintError::Cut));
        assert_eq!(read(&[0xff; 9]), Err(VarintError::Cut));
        assert_eq!(read(&[0x80, 0]), Err(VarintError::Form));
        assert_eq!(read(&[0x81, 0x80, 0]), Err(VarintError::Form));
        // 2^64, and eleven bytes.
        let over = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
        assert_eq!(read(&over), Err(VarintError::Form));
        assert_eq!(read(&[0x80; 11]), Err(VarintError::Form));
    }

    proptest! {
        #[test]
        fn comes_back(value: u64, shift in 0u32..64, tail: Vec<u8>) {
            let value = value >> shift;
            let mut out = Vec::new();
            put(value, &mut out);
            out.extend(&tail);
            prop_assert_eq!(read(&out), Ok((value, tail.len())));
        }

        #[test]
        fn what_is_read_is_the_only_form(bytes: Vec<u8>) {
            if let Ok((value, rest)) = read(&bytes) {
                let mut out = Vec::new();
                put(value, &mut out);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - rest]);
            }
        }
    }
}
