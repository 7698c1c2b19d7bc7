//! What of a file is not used, because the file is cut or a cut excludes it.

use std::collections::BTreeMap;

use impasto_container::{Source, UnitState};

use crate::file::File;

/// A tensor that is read below its highest level, since units above the base are absent or excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// The level of the row that is read at the lowest one; 0 for the base.
    pub level: u8,
    /// The number of its layers above the base, which is the highest level.
    pub layers: u8,
    /// Bytes of its units that are not used.
    pub bytes: u64,
}

impl<S: Source> File<S> {
    /// Returns the tensors of which units above the base are not used, in the order of the file.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let mut left = BTreeMap::<u32, (u8, u64)>::new();
        for (number, unit) in (0u32..).zip(self.reader.units()).filter(|(_, unit)| unit.layer > 0) {
            if self.reader.unit_state(number).is_ok_and(|state| state == UnitState::Absent) {
                let (level, bytes) = left.entry(unit.object).or_insert((u8::MAX, 0));
                // What a layer lacks, the rows above it lack too.
                *level = (*level).min(unit.layer - 1);
                *bytes += u64::from(unit.length);
            }
        }
        let describe = |(object, (level, bytes)): (u32, (u8, u64))| {
            let name = self.reader.objects().get(object as usize)?.name.clone();
            Some(LeftOut { name, level, layers: self.reader.layers_of(object), bytes })
        };
        left.into_iter().filter_map(describe).collect()
    }
}
