//! The order in which the levels of a block are coded (SPEC 17.6): from the coefficients that are usually large to those
//! that are usually 0.

use std::sync::OnceLock;

use super::basis::{Kind, LEAST_LOG, MOST_LOG};

/// Sizes of a side.
const SIZES: usize = (MOST_LOG - LEAST_LOG + 1) as usize;
/// Number of forms.
pub const FORMS: usize = SIZES * SIZES * 4;

/// The form of a block: its sides, and along which of them its transforms gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Logarithms of its height and width.
    pub logs: [u32; 2],
    gathers: [bool; 2],
}

impl Form {
    /// Returns the form of a block with these transforms of its columns and its rows.
    pub fn new(logs: [u32; 2], kinds: [Kind; 2]) -> Form {
        Form { logs, gathers: kinds.map(Kind::gathers) }
    }

    /// Returns its number, below [`FORMS`].
    pub fn number(self) -> usize {
        let [rows, columns] = self.logs.map(|log| (log - LEAST_LOG) as usize);
        let [a, b] = self.gathers.map(usize::from);
        ((rows * SIZES + columns) * 2 + a) * 2 + b
    }

    /// Returns the number of coefficients.
    pub fn coefficients(self) -> usize {
        1 << (self.logs[0] + self.logs[1])
    }

    /// Returns the places of its coefficients (row-major) in the order of coding.
    pub fn scan(self) -> &'static [u16] {
        static ALL: OnceLock<Vec<Vec<u16>>> = OnceLock::new();
        let make = |number: usize| {
            let log = |n: usize| LEAST_LOG + (n % SIZES) as u32;
            let logs = [log(number / 4 / SIZES), log(number / 4)];
            Form { logs, gathers: [number / 2 % 2 == 1, number % 2 == 1] }.sorted()
        };
        &ALL.get_or_init(|| (0..FORMS).map(make).collect())[self.number()]
    }

    fn sorted(self) -> Vec<u16> {
        let width = 1usize << self.logs[1];
        let key = |&place: &u16| {
            let [r, c] = [usize::from(place) / width, usize::from(place) % width];
            match self.gathers {
                [true, true] => ((r << self.logs[1]) + (c << self.logs[0]), r),
                [false, true] => (c, r),
                _ => (r, c),
            }
        };
        let mut places: Vec<u16> = (0..self.coefficients() as u16).collect();
        places.sort_by_key(key);
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_that_follow_the_transforms() {
        let form = |logs, kinds| Form::new(logs, kinds);
        let mut numbers = Vec::new();
        for (log, kind) in (2..=5).flat_map(|log| Kind::ALL.map(|kind| (log, kind))) {
            for (other, second) in (2..=5).flat_map(|log| [Kind::Dct, Kind::Identity].map(|kind| (log, kind))) {
                let form = form([log, other], [kind, second]);
                let mut places = form.scan().to_vec();
                places.sort_unstable();
                assert!(places.iter().enumerate().all(|(i, &place)| usize::from(place) == i));
                assert_eq!(places.len(), form.coefficients());
                numbers.push(form.number());
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!((numbers.len(), numbers.last()), (FORMS, Some(&(FORMS - 1))));
        assert_eq!(form([2, 2], [Kind::Dct, Kind::Dst]).scan()[..6], [0, 1, 4, 2, 5, 8]);
        assert_eq!(form([2, 3], [Kind::Dct, Kind::Dct]).scan()[..6], [0, 1, 2, 8, 3, 9]);
        assert_eq!(form([2, 2], [Kind::Identity, Kind::Dct]).scan()[..6], [0, 4, 8, 12, 1, 5]);
        assert_eq!(form([2, 2], [Kind::Dct, Kind::Identity]).scan()[..6], [0, 1, 2, 3, 4, 5]);
    }
}
