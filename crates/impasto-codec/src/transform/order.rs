//! Permutations of the rows and columns of a tile (SPEC 17.9): samples that are alike come to lie side by side.

use super::arithmetic::Coder;
use super::samples::Samples;
use crate::error::CodecError;

/// A permutation: the place in the tile of each row (or column) of the samples, in the order in which they are coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order(Vec<u32>);

impl Order {
    /// Creates a permutation; `None` if `places` is none.
    pub fn new(places: Vec<u32>) -> Option<Order> {
        let mut seen = vec![false; places.len()];
        let mut take = |&place: &u32| seen.get_mut(place as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        places.iter().all(&mut take).then_some(Order(places))
    }

    /// Returns the places.
    pub fn places(&self) -> &[u32] {
        &self.0
    }

    /// Codes a permutation of `count` places: for each, which one of those that are left it is. A decoder ignores `wanted`
    /// and finds a permutation in any bits.
    ///
    /// # Errors
    /// Those of the coder.
    pub(super) fn code<C: Coder>(coder: &mut C, count: usize, wanted: Option<&Order>) -> Result<Order, CodecError> {
        let mut places: Vec<u32> = (0..count as u32).collect();
        // Where each place is among `places`, for an encoder.
        let mut at = wanted.map_or(vec![], |_| places.clone());
        for n in 0..count {
            let ahead = wanted.map_or(0, |wanted| at[wanted.0[n] as usize] - n as u32);
            let found = n + below(coder, (count - n) as u32, ahead)? as usize;
            places.swap(n, found);
            if wanted.is_some() {
                (at[places[n] as usize], at[places[found] as usize]) = (n as u32, found as u32);
            }
        }
        Ok(Order(places))
    }

    /// Moves the rows of samples to their places.
    pub(super) fn move_rows(&self, samples: &mut Samples) {
        let width = samples.sides[1];
        let (mut done, mut held) = (vec![false; self.0.len()], vec![0; width]);
        for start in 0..self.0.len() {
            // A cycle of rows, each of which takes the place of the next.
            let mut at = start;
            while !done[at] {
                done[at] = true;
                if at == start {
                    held.copy_from_slice(&samples.values[at * width..][..width]);
                }
                at = self.0[at] as usize;
                held.swap_with_slice(&mut samples.values[at * width..][..width]);
            }
        }
    }

    /// Moves the columns of samples to their places.
    pub(super) fn move_columns(&self, samples: &mut Samples) {
        let mut held = Vec::new();
        for row in samples.values.chunks_exact_mut(samples.sides[1].max(1)) {
            held.clear();
            held.extend_from_slice(row);
            self.0.iter().zip(&held).for_each(|(&place, &sample)| row[place as usize] = sample);
        }
    }
}

/// Codes a number below `limit` (not 0, at most 2^24) in as many bits as the logarithm of `limit`, rounded down for the
/// first numbers and up for the others.
fn below<C: Coder>(coder: &mut C, limit: u32, number: u32) -> Result<u32, CodecError> {
    let bits = limit.ilog2();
    let short = (2 << bits) - limit;
    let long = number + short;
    let top = coder.raw(if number < short { number } else { long >> 1 }, bits)?;
    if top < short { Ok(top) } else { Ok((top << 1 | coder.raw(long & 1, 1)?) - short) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::transform::arithmetic::{Decoder, Encoder, Price};
    use proptest::prelude::*;

    /// A permutation that depends on numbers.
    pub fn shuffled(count: usize, choose: impl FnMut(usize) -> usize) -> Order {
        let mut places: Vec<u32> = (0..count as u32).collect();
        let swaps: Vec<usize> = (1..=count).map(choose).collect();
        swaps.into_iter().enumerate().for_each(|(n, with)| places.swap(n, with));
        Order(places)
    }

    proptest! {
        #[test]
        fn orders_survive(count in 0usize..300, seed in prop::collection::vec(any::<usize>(), 300)) {
            let mut next = seed.iter();
            let order = shuffled(count, |n| next.next().expect("enough") % n);
            prop_assert_eq!(Order::new(order.0.clone()), Some(order.clone()));
            let (mut encoder, mut price) = (Encoder::new(0), Price::new(&[]));
            Order::code(&mut encoder, count, Some(&order))?;
            Order::code(&mut price, count, Some(&order))?;
            let logs = (1..=count as u64).map(|n| u64::from(n.ilog2()));
            let least: u64 = logs.sum();
            let bits = price.bits >> 16;
            prop_assert!(bits >= least && bits <= least + count as u64, "{} {}", bits, least);
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(0, &bytes)?;
            prop_assert_eq!(Order::code(&mut decoder, count, None)?, order);
            decoder.finish()?;
        }

        /// Any bits are a permutation.
        #[test]
        fn any_bits_permute(bytes in prop::collection::vec(any::<u8>(), 200), count in 0usize..100) {
            let order = Order::code(&mut Decoder::new(0, &bytes)?, count, None)?;
            prop_assert!(Order::new(order.0).is_some());
        }

        #[test]
        fn samples_move(height in 1usize..20, width in 1usize..20, seed in prop::collection::vec(any::<usize>(), 40)) {
            let mut next = seed.iter();
            let mut order = |count| shuffled(count, |n| next.next().expect("enough") % n);
            let (rows, columns) = (order(height), order(width));
            let mut samples = Samples::new(height, width);
            samples.values.iter_mut().enumerate().for_each(|(i, value)| *value = i as i32);
            let before = samples.clone();
            rows.move_rows(&mut samples);
            columns.move_columns(&mut samples);
            let stride = samples.sides[1];
            for (r, &to) in rows.0.iter().enumerate() {
                for (c, &across) in columns.0.iter().enumerate() {
                    prop_assert_eq!(samples.values[to as usize * stride + across as usize], before.values[r * stride + c]);
                }
            }
        }
    }

    #[test]
    fn what_is_no_permutation_is_refused() {
        assert!(Order::new(vec![1, 0, 1]).is_none() && Order::new(vec![0, 3, 1]).is_none());
        assert!(Order::new(vec![]).is_some());
    }
}
