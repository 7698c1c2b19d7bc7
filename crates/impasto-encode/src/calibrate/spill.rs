//! Temporary storage of values during calibration: a [`Spool`] in the folder of the statistics.

use std::path::Path;

use impasto_checkpoint::CheckpointError;

use crate::spool::Spool;

/// Bytes of values that are converted or read at once.
const BUFFER: usize = 1 << 16;

/// Values in a temporary file, little-endian. The file is deleted on drop and when the process dies.
pub struct Spill(Spool);

/// The place of values in a [`Spill`] that were pushed together.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Offset in the file, in bytes.
    first: u64,
    /// Number of values.
    pub values: u64,
}

impl Spill {
    /// Creates a temporary file in the folder of `path`, and the folder if it is missing.
    pub fn beside(path: &Path) -> Result<Spill, CheckpointError> {
        Spool::beside(path).map(Spill)
    }

    /// Appends the values of all parts.
    pub fn push<'a>(&mut self, parts: impl IntoIterator<Item = &'a [f32]>) -> Result<Stretch, CheckpointError> {
        let first = self.0.end();
        let mut buffer = [0; BUFFER];
        for values in parts.into_iter().flat_map(|part| part.chunks(BUFFER / size_of::<f32>())) {
            let bytes = &mut buffer[..size_of_val(values)];
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = value.to_le_bytes());
            self.0.push(bytes)?;
        }
        Ok(Stretch { first, values: (self.0.end() - first) / size_of::<f32>() as u64 })
    }

    /// Reads the values at a place into `values`, which must have that many elements.
    pub fn read(&mut self, place: Stretch, values: &mut [f32]) -> Result<(), CheckpointError> {
        assert_eq!(values.len() as u64, place.values);
        let mut left = values;
        self.bytes(place, &mut |bytes| {
            let (now, after) = std::mem::take(&mut left).split_at_mut(bytes.len() / size_of::<f32>());
            now.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
            left = after;
            Ok(())
        })
    }

    /// Passes the bytes at a place to `sink`, little-endian, whole values at a time.
    pub fn bytes(
        &mut self,
        place: Stretch,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let end = place.first + place.values * size_of::<f32>() as u64;
        let (mut at, mut buffer) = (place.first, vec![0; BUFFER]);
        while at < end {
            let now = usize::try_from(end - at).map_or(BUFFER, |left| left.min(BUFFER));
            self.0.read_at(at, &mut buffer[..now])?;
            sink(&buffer[..now])?;
            at += now as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = Spill::beside(&folder.path().join("new/x")).expect("a file");
        let values: Vec<f32> = (0..200_000).map(|i| i as f32 * 0.5).collect();
        let places = [&values[..3], &values[3..150_000], &[]].map(|part| spill.push([part]).expect("room"));
        let mut read = |place: Stretch| {
            let mut values = vec![0.0; place.values as usize];
            spill.read(place, &mut values).expect("values");
            values
        };
        assert_eq!(read(places[1]), values[3..150_000]);
        assert_eq!(read(places[0]), values[..3]);
        assert!(read(places[2]).is_empty());
        // A push after reads, in several parts.
        let place = spill.push([&values[150_000..199_000], &values[199_000..]]).expect("room");
        assert_eq!(place.values, 50_000);
        let mut last = vec![0.0; 50_000];
        spill.read(place, &mut last).expect("values");
        assert_eq!(last, values[150_000..]);
        assert_eq!(std::fs::read_dir(folder.path().join("new")).expect("a folder").count(), 0, "it has no name");
    }
}
