//! A cursor over the bytes of the manifest that tracks its position.

use impasto_core::varint::{self, VarintError};

use crate::error::FormatError;
use crate::fields::Field;

/// The unread bytes of a manifest, or of one of its records.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    /// Offset of `rest` in the manifest.
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(manifest: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: manifest, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn take<F: Field>(&mut self) -> Result<F, FormatError> {
        let before = self.rest.len();
        let value = F::take(&mut self.rest).ok_or(FormatError::Cut { at: self.at })?;
        self.at += before - self.rest.len();
        Ok(value)
    }

    pub fn varint(&mut self) -> Result<u64, FormatError> {
        let before = self.rest.len();
        let value = varint::read(&mut self.rest).map_err(|error| match error {
            VarintError::Cut => FormatError::Cut { at: self.at },
            VarintError::Form => FormatError::Varint { at: self.at },
        })?;
        self.at += before - self.rest.len();
        Ok(value)
    }

    /// Reads the next `length` bytes.
    pub fn bytes(&mut self, length: u64) -> Result<&'a [u8], FormatError> {
        let cut = FormatError::Cut { at: self.at };
        let Ok(length) = usize::try_from(length) else { return Err(cut) };
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(cut)?;
        (self.rest, self.at) = (rest, self.at + length);
        Ok(taken)
    }

    /// Splits off a cursor over the next `length` bytes.
    pub fn part(&mut self, length: u64) -> Result<Cursor<'a>, FormatError> {
        let at = self.at;
        Ok(Cursor { rest: self.bytes(length)?, at })
    }
}
