//! Keys and values that are kept for later prompts with the same beginning.

use std::collections::VecDeque;

use impasto_model::KvCache;

/// The most caches that are kept for a model.
const MOST: usize = 64;
/// A shorter common prefix is not worth a copy.
const LEAST: usize = 16;

/// Caches of texts that have ended, those that were used last at the end. A conversation continues from them, and prompts
/// that begin with the same instructions share their pages until one writes to them.
#[derive(Default)]
pub struct Prefixes {
    kept: VecDeque<(u64, KvCache)>,
}

impl Prefixes {
    /// Keeps a cache, computed with the weights of some generation. One whose tokens it begins with is not needed any more.
    pub fn keep(&mut self, generation: u64, cache: KvCache) {
        if cache.len() < LEAST {
            return;
        }
        let is_of_use = |(other, kept): &(u64, KvCache)| {
            *other == generation && !cache.tokens().starts_with(kept.tokens())
        };
        self.kept.retain(is_of_use);
        if self.kept.iter().any(|(_, kept)| kept.tokens().starts_with(cache.tokens())) {
            return;
        }
        self.kept.push_back((generation, cache));
        if self.kept.len() > MOST {
            self.kept.pop_front();
        }
    }

    /// Returns the length of the longest beginning of `tokens` that a kept cache of this generation has, and a copy of it that ends
    /// there. `others` are caches of running texts. `None` if it is too short to be worth it, or cannot be copied.
    pub fn find<'c>(
        &mut self,
        generation: u64,
        tokens: &[u32],
        others: impl Iterator<Item = &'c KvCache>,
    ) -> Option<KvCache> {
        let common = |cache: &KvCache| cache.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let kept = self.kept.iter().enumerate().filter(|(_, (other, _))| *other == generation);
        let best = kept.map(|(place, (_, cache))| (common(cache), place)).max();
        let running = others.map(|cache| (common(cache), cache)).max_by_key(|(length, _)| *length);
        let (length, cache) = match (best, running) {
            (Some((length, _)), Some((more, cache))) if more > length => (more, cache),
            (None, Some((length, cache))) => (length, cache),
            (Some((length, place)), _) => {
                // What is used moves to the end.
                let used = self.kept.remove(place)?;
                self.kept.push_back(used);
                (length, &self.kept.back()?.1)
            }
            (None, None) => return None,
        };
        if length < LEAST {
            return None;
        }
        let mut copy = cache.fork().ok()?;
        copy.truncate(length);
        Some(copy)
    }

    /// Gives up the cache that was not used for the longest time; false if there is none.
    pub fn give_up_one(&mut self) -> bool {
        self.kept.pop_front().is_some()
    }

    /// Number of caches.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
