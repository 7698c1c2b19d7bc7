//! A queue in which clients take turns.

use std::collections::{HashMap, VecDeque};

/// Items by client. Clients are served in turn, and the items of each in order, so that one client with many requests does not
/// keep others waiting.
#[derive(Debug)]
pub struct FairQueue<T> {
    items: HashMap<u64, VecDeque<T>>,
    /// The clients that have items, the next one first.
    turns: VecDeque<u64>,
    length: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        FairQueue { items: HashMap::new(), turns: VecDeque::new(), length: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends an item of a client.
    pub fn push(&mut self, client: u64, item: T) {
        let items = self.items.entry(client).or_default();
        if items.is_empty() {
            self.turns.push_back(client);
        }
        items.push_back(item);
        self.length += 1;
    }

    /// Removes the next item of the client whose turn it is, if it is as it should be. Otherwise all others wait for it.
    pub fn pop_if(&mut self, is_good: impl FnOnce(&T) -> bool) -> Option<T> {
        let next = self.items.get(self.turns.front()?)?.front()?;
        if !is_good(next) {
            return None;
        }
        let client = self.turns.pop_front()?;
        let items = self.items.get_mut(&client)?;
        let item = items.pop_front()?;
        if items.is_empty() {
            self.items.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        self.length -= 1;
        Some(item)
    }

    /// Removes the items that are not to be kept, and returns them.
    pub fn remove(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for items in self.items.values_mut() {
            let (kept, out): (VecDeque<T>, VecDeque<T>) = items.drain(..).partition(|item| keep(item));
            *items = kept;
            removed.extend(out);
        }
        self.items.retain(|_, items| !items.is_empty());
        self.turns.retain(|client| self.items.contains_key(client));
        self.length -= removed.len();
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns() {
        let mut queue = FairQueue::default();
        for item in 0..5 {
            queue.push(1, ("a", item));
        }
        queue.push(2, ("b", 0));
        queue.push(3, ("c", 0));
        queue.push(2, ("b", 1));
        assert_eq!(queue.len(), 8);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_if(|_| true)).collect();
        assert_eq!(
            order,
            [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 4)],
            "in turn, and each in order"
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn an_item_that_must_wait_keeps_its_turn() {
        let mut queue = FairQueue::default();
        queue.push(1, 5);
        queue.push(2, 1);
        assert_eq!(queue.pop_if(|&item| item < 3), None);
        assert_eq!((queue.pop_if(|&item| item == 5), queue.pop_if(|_| true), queue.len()), (Some(5), Some(1), 0));
    }

    #[test]
    fn what_is_removed_is_not_counted() {
        let mut queue = FairQueue::default();
        (0..6).for_each(|item| queue.push(item % 2, item));
        let mut removed = queue.remove(|item| item % 2 == 0);
        removed.sort_unstable();
        assert_eq!((removed, queue.len()), (vec![1, 3, 5], 3));
        queue.push(1, 7);
        assert_eq!(std::iter::from_fn(|| queue.pop_if(|_| true)).collect::<Vec<_>>(), [0, 7, 2, 4]);
    }
}
