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
/// Logits that are compared at once.
const CHUNK: usize = 64;

/// Calls `each` with the ids and logits that are greater than what it returned last, at first than `above`.
pub(super) fn for_each_above(logits: &[f32], mut above: f32, mut each: impl FnMut(u32, f32) -> f32) {
    for (start, chunk) in (0u32..).step_by(CHUNK).zip(logits.chunks(CHUNK)) {
        // Nearly all chunks end here. Without a branch for each logit, the compiler compares many at once.
        if !chunk.iter().fold(false, |any, &logit| any | (logit > above)) {
            continue;
        }
        for (id, &logit) in (start..).zip(chunk) {
            if logit > above {
                above = each(id, logit);
            }
        }
    }
}

/// Returns the first `count` of the tokens in order whose logits are greater than `above`. No logit is NaN.
///
/// This is one pass: those that may be among the first are collected, and the smaller half is thrown away when there are
/// twice as many.
pub(super) fn largest(logits: &[f32], count: usize, mut above: f32) -> Vec<Candidate> {
    if count == 0 {
        return Vec::new();
    }
    let mut kept: Vec<Candidate> = Vec::new();
    for_each_above(logits, above, |id, logit| {
        // Adding 0 makes -0 to 0, so that equal logits are equal in every comparison.
        kept.push(Candidate { id, logit: logit + 0.0 });
        if kept.len() == count.saturating_mul(2) {
            let (_, last, _) = kept.select_nth_unstable_by(count - 1, Candidate::order);
            // Of equal logits, the smaller ids are kept already.
            above = last.logit;
            kept.truncate(count);
        }
        above
    });
    kept.sort_unstable_by(Candidate::order);
    kept.truncate(count);
    kept
}

/// The candidates of a distribution: the tokens with finite logits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ranked {
    /// By id.
    logits: Vec<f32>,
    /// The first of them, and their probabilities relative to the first one.
    sorted: Vec<(Candidate, f64)>,
    /// Whether `sorted` has all.
    complete: bool,
}

impl Ranked {
    /// Ranks logits that are divided by `temperature`. None of the quotients is +infinity.
    pub(super) fn new(logits: &[f32], temperature: f32) -> Self {
        Self { logits: logits.iter().map(|x| x / temperature).collect(), sorted: Vec::new(), complete: false }
    }

    /// Returns the candidate at a place in the order, and its probability relative to the first one.
    pub(super) fn get(&mut self, place: usize) -> Option<(Candidate, f64)> {
        if place >= self.sorted.len() && !self.complete {
            let wanted = FIRST.max(self.sorted.len() * GROWTH).max(place.saturating_add(1));
            let candidates = largest(&self.logits, wanted, f32::NEG_INFINITY);
            self.complete = candidates.len() < wanted;
            let first = candidates.first().map_or(0.0, |first| first.logit);
            self.sorted = candidates.into_iter().map(|c| (c, weight(c.logit, first))).collect();
        }
        self.sorted.get(place).copied()
    }

    /// Calls `each` with the first `count` candidates and their weights, in order, until it returns `false`. Returns the
    /// number of calls that returned `true`.
    pub(super) fn take_while(&mut self, count: usize, mut each: impl FnMut(Candidate, f64) -> bool) -> usize {
        let goes_on = |place: &usize| self.get(*place).is_some_and(|(candidate, weight)| each(candidate, weight));
        (0..count).take_while(goes_on).count()
    }

    /// Returns the sum of the weights of the first `count` candidates.
    pub(super) fn sum(&mut self, count: usize) -> f64 {
        if count < self.logits.len() || self.complete {
            let mut sum = 0.0;
            self.take_while(count, |_, weight| {
                sum += weight;
                true
            });
            return sum;
        }
        // All of them need not be sorted.
        let Some((first, _)) = self.get(0) else { return 0.0 };
        self.logits.iter().map(|&x| weight(x, first.logit)).sum()
    }

    /// Returns the weight of a token if it is among the first `count` candidates, or else 0.
    pub(super) fn weight(&mut self, token: u32, count: usize) -> f64 {
        let Some((first, _)) = self.get(0).filter(|_| count > 0) else { return 0.0 };
        let Some(&logit) = self.logits.get(token as usize) else { return 0.0 };
        let candidate = Candidate { id: token, logit: logit + 0.0 };
        let last = if count < self.len() { self.get(count - 1) } else { None };
        match last {
            Some((last, _)) if Candidate::order(&candidate, &last).is_gt() => 0.0,
            _ => weight(candidate.logit, first.logit),
        }
    }

    /// Number of tokens, candidates or not.
    pub(super) fn len(&self) -> usize {
        self.logits.len()
    }
}

/// The probability of a logit relative to that of the greatest one.
fn weight(logit: f32, first: f32) -> f64 {
    (f64::from(logit) - f64::from(first)).exp()
}
