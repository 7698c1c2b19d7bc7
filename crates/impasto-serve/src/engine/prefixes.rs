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
    kept: VecDeque<(Tag, KvCache)>,
}

/// Whose keys and values they are, if clients must not share any (how many tokens were there tells what others asked), and the
/// generation of the weights that they were computed with.
pub type Tag = (u64, u64);

impl Prefixes {
    /// Keeps a cache. One whose tokens it begins with is not needed any more, nor are those of earlier generations.
    pub fn keep(&mut self, tag: Tag, cache: KvCache) {
        let is_late = self.kept.iter().any(|((_, generation), _)| *generation > tag.1);
        if cache.len() < LEAST || is_late {
            return;
        }
        self.kept
            .retain(|(other, kept)| other.1 == tag.1 && (*other != tag || !cache.tokens().starts_with(kept.tokens())));
        if self.kept.iter().any(|(other, kept)| *other == tag && kept.tokens().starts_with(cache.tokens())) {
            return;
        }
        self.kept.push_back((tag, cache));
        if self.kept.len() > MOST {
            self.kept.pop_front();
        }
    }

    /// Returns a copy of the longest beginning of `tokens` that a kept cache with this tag has. `others` are caches of running texts. `None` if it is too short to be worth it, or cannot be copied.
    pub fn find<'c>(&mut self, tag: Tag, tokens: &[u32], others: impl Iterator<Item = &'c KvCache>) -> Option<KvCache> {
        let common = |cache: &KvCache| cache.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let kept = self.kept.iter().enumerate().filter(|(_, (other, _))| *other == tag);
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
