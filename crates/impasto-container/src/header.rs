//! The first 64 bytes of a file (SPEC 2).

use impasto_core::FileKind;

use crate::error::FormatError;
use crate::fields::{Field, table};

/// The first eight bytes of every file. The high bit, the line endings and the control character reveal transfers that
/// alter text.
pub const MAGIC: [u8; 8] = FileKind::IMPASTO_MAGIC;

/// The major version that this crate reads and writes.
pub const MAJOR: u16 = 1;

/// The minor version that this crate writes.
pub const MINOR: u16 = 0;

/// The largest length of a manifest in bytes (SPEC 2.2).
pub const MAX_MANIFEST: u64 = 1 << 32;

/// The variable fields of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The minor version.
    pub minor: u16,
    /// Length of the manifest in bytes.
    pub manifest_length: u64,
    /// Length of the whole file in bytes.
    pub file_length: u64,
    /// BLAKE3 hash of the manifest; identifies the file.
    pub root: [u8; 32],
}

table! {
    struct Table {
        magic: [u8; 8],
        major: u16,
        minor: u16,
        flags: u32,
        manifest_length: u64,
        file_length: u64,
        root: [u8; 32],
    }
}

impl Header {
    /// Size of a header in bytes. The manifest begins here (SPEC 2.2).
    pub const SIZE: usize = Table::SIZE;

    /// Parses the header at the front of `bytes` and checks what can be checked without the rest of the file.
    ///
    /// # Errors
    /// If the header violates SPEC 2.1, or its manifest length the bound of 2.2.
    pub fn read(mut bytes: &[u8]) -> Result<Header, FormatError> {
        let length = bytes.len() as u64;
        // Checked before the length, so that a short file of another type is reported as such.
        if bytes.iter().zip(&MAGIC).any(|(a, b)| a != b) {
            return Err(FileKind::of(bytes).map_or(FormatError::Magic, FormatError::OtherKind));
        }
        let table = Table::take(&mut bytes).ok_or(FormatError::NoHeader { length })?;
        if table.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if table.major != MAJOR {
            return Err(FormatError::Major { major: table.major });
        }
        if table.flags != 0 {
            return Err(FormatError::Flags { flags: table.flags });
        }
        if table.manifest_length > MAX_MANIFEST {
            return Err(FormatError::ManifestLength { length: table.manifest_length });
        }
        Ok(Header {
            minor: table.minor,
            manifest_length: table.manifest_length,
            file_length: table.file_length,
            root: table.root,
        })
    }

    /// Returns the bytes of the header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        Table {
            magic: MAGIC,
            major: MAJOR,
            minor: self.minor,
            flags: 0,
            manifest_length: self.manifest_length,
            file_length: self.file_length,
            root: self.root,
        }
        .put(&mut out);
        out
    }

    /// Returns the end of the manifest, counted from the start of the file. It cannot overflow, because 2.2 bounds the
    /// manifest.
    pub fn manifest_end(&self) -> u64 {
        (Self::SIZE as u64).saturating_add(self.manifest_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_where_the_table_says() {
        let header = Header {
            minor: 0x0102,
            manifest_length: 0x03_0405_0607,
            file_length: 0x08090a0b0c0d0e0f,
            root: std::array::from_fn(|i| 0x40 + i as u8),
        };
        let mut bytes = vec![0x89, 0x49, 0x4d, 0x50, 0x0d, 0x0a, 0x1a, 0x0a, 1, 0, 2, 1, 0, 0, 0, 0];
        bytes.extend([7, 6, 5, 4, 3, 0, 0, 0, 15, 14, 13, 12, 11, 10, 9, 8]);
        bytes.extend(0x40..0x60);
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(Header::SIZE, 64);
        let refused = Header::read(&bytes);
        assert_eq!(refused, Err(FormatError::ManifestLength { length: 0x03_0405_0607 }));
        bytes[20] = 0;
        let read = Header::read(&bytes).unwrap();
        assert_eq!(read, Header { manifest_length: 0x0405_0607, ..header });
        assert_eq!(read.manifest_end(), 0x0405_0607 + 64);
    }

    #[test]
    fn a_short_file_is_told_from_one_of_another_kind() {
        for length in 0..64 {
            let bytes = &[&MAGIC[..], &[0; 56]].concat()[..length];
            assert_eq!(Header::read(bytes), Err(FormatError::NoHeader { length: length as u64 }));
        }
        assert_eq!(Header::read(b"GGUF"), Err(FormatError::OtherKind(FileKind::Gguf)));
        assert_eq!(Header::read(b"\x88IMP"), Err(FormatError::Magic));
    }
}
