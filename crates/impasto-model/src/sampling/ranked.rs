//! Tokens in the order of their logits, sorted only as far as they are asked for.

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
}

impl Candidate {
    /// The greatest logit first, ties by id.
    fn order(a: &Self, b: &Self) -> std::cmp::Ordering {
        b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
    }
}

/// Number of tokens that are sorted at first. Most draws end among them.
const FIRST: usize = 256;
/// Factor by which more are sorted, when these were not enough.
const GROWTH: usize = 16;

/// Returns the first `count` candidates in order. They arrive in the order of their ids, and no logit is NaN or -0.
///
/// This is one pass: those that may be among the first are collected, and the smaller half is thrown away when there are
/// twice as many.
pub(super) fn largest(candidates: impl Iterator<Item = Candidate>, count: usize) -> Vec<Candidate> {
    if count == 0 {
        return Vec::new();
    }
    let mut kept: Vec<Candidate> = Vec::new();
    // Of equal logits, the smaller ids are kept already.
    let mut above = None;
    for candidate in candidates {
        if above.is_some_and(|least| candidate.logit <= least) {
            continue;
        }
        kept.push(candidate);
        if kept.len() == count.saturating_mul(2) {
            let (_, last, _) = kept.select_nth_unstable_by(count - 1, Candidate::order);
            above = Some(last.logit);
            kept.truncate(count);
        }
    }
    kept.sort_unstable_by(Candidate::order);
    kept.truncate(count);
    kept
}

/// The candidates of a distribution: the tokens with finite logits.
pub(super) struct Ranked {
    /// By id.
    logits: Vec<f32>,
    /// The first of them.
    sorted: Vec<Candidate>,
    /// Whether `sorted` has all.
    complete: bool,
}

impl Ranked {
    /// Ranks logits that are divided by `temperature`.
    pub(super) fn new(logits: &[f32], temperature: f32) -> Self {
        // Adding 0 makes -0 to 0, so that equal logits are equal in every comparison.
        let logits = logits.iter().map(|x| x / temperature + 0.0).collect();
        Self { logits, sorted: Vec::new(), complete: false }
    }

    /// Returns the candidate at a place in the order.
    pub(super) fn get(&mut self, place: usize) -> Option<Candidate> {
        if place >= self.sorted.len() && !self.complete {
            let wanted = FIRST.max(self.sorted.len() * GROWTH).max(place.saturating_add(1));
            let all = (0u32..).zip(&self.logits).map(|(id, &logit)| Candidate { id, logit });
            self.sorted = largest(all.filter(|c| c.logit.is_finite()), wanted);
            self.complete = self.sorted.len() < wanted;
        }
        self.sorted.get(place).copied()
    }

    /// Returns the probability of a candidate relative to the first one.
    fn weight(&mut self, candidate: Candidate) -> f64 {
        self.get(0).map_or(0.0, |first| (f64::from(candidate.logit) - f64::from(first.logit)).exp())
    }

    /// Calls `each` with the first `count` candidates and their weights, in order, until it returns `false`. Returns the
    /// number of calls that returned `true`.
    pub(super) fn take_while(&mut self, count: usize, mut each: impl FnMut(Candidate, f64) -> bool) -> usize {
        for place in 0..count {
            let Some(candidate) = self.get(place) else { return place };
            let weight = self.weight(candidate);
            if !each(candidate, weight) {
                return place;
            }
        }
        count
    }

    /// Returns the sum of the weights of the first `count` candidates.
    pub(super) fn sum(&mut self, count: usize) -> f64 {
        let mut sum = 0.0;
        if count < self.logits.len() {
            self.take_while(count, |_, weight| {
                sum += weight;
                true
            });
            return sum;
        }
        // All of them need not be sorted.
        let Some(Candidate { logit: first, .. }) = self.get(0) else { return 0.0 };
        self.logits.iter().filter(|x| x.is_finite()).map(|&x| (f64::from(x) - f64::from(first)).exp()).sum()
    }

    /// Number of tokens, candidates or not.
    pub(super) fn len(&self) -> usize {
        self.logits.len()
    }
}
