//! Putting bytes together to units, which are verified and appended.

use std::borrow::Cow;

use impasto_container::{Header, Reader, Source, unit_hash};

use crate::error::FetchError;
use crate::extent::Prefix;
use crate::fetch::Shared;
use crate::get::Getter;
use crate::part::Part;

/// Takes the bytes of a file in order, and appends its units to a part.
pub struct Assembler<'a, S> {
    getter: &'a Getter,
    reader: &'a Reader<S>,
    part: &'a mut Part,
    shared: &'a Shared,
    /// Where the bytes end that are wanted.
    until: Prefix,
    /// The position of the next byte.
    at: u64,
    /// The beginning of the next unit.
    pending: Vec<u8>,
    /// How often the next unit was damaged.
    damaged: u32,
}

impl<'a, S: Source> Assembler<'a, S> {
    pub fn new(
        getter: &'a Getter,
        reader: &'a Reader<S>,
        part: &'a mut Part,
        shared: &'a Shared,
        until: Prefix,
    ) -> Assembler<'a, S> {
        let at = part.length();
        Assembler { getter, reader, part, shared, until, at, pending: vec![], damaged: 0 }
    }

    /// Returns the position of the next byte.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Returns whether all units that are wanted are there.
    pub fn is_done(&self) -> bool {
        self.part.units() >= self.until.units
    }

    /// Forgets the beginning of a unit, and goes back to its first byte.
    pub fn rewind(&mut self) {
        self.pending.clear();
        self.at = self.part.length();
    }

    /// Takes the next bytes. Units of no bytes are appended without any.
    ///
    /// # Errors
    /// If a unit is damaged, also when it is fetched again; or cannot be written.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), FetchError> {
        while !self.is_done() {
            self.getter.cancel.check()?;
            let unit = self.part.units();
            let Some(place) = self.reader.unit_range(unit) else { break };
            // The bytes before a unit are 0, and are written as such.
            let padding = place.start.saturating_sub(self.at).min(bytes.len() as u64);
            (self.at, bytes) = (self.at + padding, &bytes[padding as usize..]);
            let length = (place.end - place.start) as usize;
            let wanted = (length - self.pending.len()).min(bytes.len());
            if wanted == 0 && length > 0 {
                break;
            }
            if self.pending.is_empty() && wanted == length {
                self.at += wanted as u64;
                self.take(unit, place.start, &bytes[..wanted])?;
            } else {
                self.pending.extend_from_slice(&bytes[..wanted]);
                self.at += wanted as u64;
                if self.pending.len() == length {
                    let whole = std::mem::take(&mut self.pending);
                    self.take(unit, place.start, &whole)?;
                }
            }
            bytes = &bytes[wanted..];
        }
        Ok(())
    }

    /// Appends a unit if it is good, and otherwise fetches it again.
    fn take(&mut self, unit: u32, start: u64, bytes: &[u8]) -> Result<(), FetchError> {
        let wanted = self.reader.units().get(unit as usize).map(|entry| entry.hash);
        let end = start + bytes.len() as u64;
        let mut bytes = Cow::Borrowed(bytes);
        while wanted != Some(unit_hash(&bytes)) {
            self.damaged += 1;
            if self.damaged >= self.getter.options.unit_tries.max(1) {
                return Err(self.blame(unit));
            }
            let mut again = Vec::new();
            self.getter.bytes(start..end, &mut |piece| {
                again.extend_from_slice(piece);
                Ok(())
            })?;
            bytes = Cow::Owned(again);
        }
        self.damaged = 0;
        self.part.append(start, &bytes)?;
        self.shared.arrived(self.part);
        Ok(())
    }

    /// Returns the error for a unit that stays damaged: perhaps the file there is another one by now.
    fn blame(&self, unit: u32) -> FetchError {
        let mut first = Vec::new();
        let got = self.getter.bytes(0..Header::SIZE as u64, &mut |part| {
            first.extend_from_slice(part);
            Ok(())
        });
        let url = self.getter.shown();
        match got.ok().and_then(|()| Header::read(&first).ok()) {
            Some(header) if header.root != *self.reader.root() => {
                FetchError::Changed { url, what: "it has another root".to_owned() }
            }
            _ => {
                let (place, tries) = (self.reader.unit_place(unit), self.damaged);
                FetchError::Damaged { url, place, tries }
            }
        }
    }
}
