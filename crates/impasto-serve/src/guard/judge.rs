//! What is to be done about a model that diverges.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Audit, GuardState, Profile};

/// How often blocks are promoted before all weights are.
const ROUNDS: usize = 3;
/// The share of blocks that are promoted at a time: one in so many.
const ONE_IN: usize = 8;
/// Below this share of the threshold, a model is calm. Between that and the threshold, nothing changes.
const CALM: f64 = 0.5;
/// How long it must be calm before it goes back, the first time.
const HOLD: Duration = Duration::from_secs(600);
/// The longest.
const LONGEST_HOLD: Duration = Duration::from_secs(86_400);
/// Weight of the newest error of a block in its mean.
const NEW: f64 = 0.5;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Stay,
    /// Give these blocks the weights of the next finer layer.
    Promote(Vec<usize>),
    /// Give all the finest weights.
    FallBack,
    /// Give all the weights that were asked for.
    Restore,
}

/// Judges a model by comparisons of its texts.
#[derive(Clone, Debug)]
pub struct Judge {
    window: VecDeque<f64>,
    /// The mean error of each block, newer ones counting more.
    errors: Vec<f64>,
    /// By how many layers each block was promoted.
    pub(super) promoted: BTreeMap<usize, usize>,
    profile: Profile,
    rounds: usize,
    calm_since: Option<Instant>,
    hold: Duration,
}

impl Default for Judge {
    fn default() -> Self {
        Judge {
            window: VecDeque::new(),
            errors: Vec::new(),
            promoted: BTreeMap::new(),
            profile: Profile::default(),
            rounds: 0,
            calm_since: None,
            hold: HOLD,
        }
    }
}

impl Judge {
    /// What was done so far.
    pub fn state(&self) -> GuardState {
        GuardState { profile: self.profile, promoted: self.promoted.len() }
    }

    /// The mean divergence over the window.
    pub fn mean(&self) -> f64 {
        self.window.iter().sum::<f64>() / self.window.len().max(1) as f64
    }

    /// Hears a comparison at time `now`, and says what is to be done: only when a window of them is full, which begins again after
    /// each verdict.
    pub fn hear(&mut self, audit: &Audit, threshold: f64, window: usize, now: Instant) -> Verdict {
        self.errors.resize(audit.errors.len(), 0.0);
        let means = self.errors.iter_mut().zip(&audit.errors);
        means.for_each(|(mean, &error)| *mean += NEW * (error - *mean));
        self.window.push_back(audit.kld);
        if self.window.len() < window.max(1) {
            return Verdict::Stay;
        }
        while self.window.len() > window.max(1) {
            self.window.pop_front();
        }
        let mean = self.mean();
        // A divergence that is no number is above every threshold.
        let is_above = mean > threshold || mean.is_nan();
        if is_above {
            self.calm_since = None;
            return match self.profile {
                // Nothing finer is left.
                Profile::Conservative => Verdict::Stay,
                _ if self.rounds < ROUNDS => Verdict::Promote(self.worst()),
                _ => Verdict::FallBack,
            };
        }
        if self.profile == Profile::AsRequested || mean > CALM * threshold {
            self.calm_since = None;
            return Verdict::Stay;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.duration_since(since) >= self.hold { Verdict::Restore } else { Verdict::Stay }
    }

    /// The blocks that err most.
    fn worst(&self) -> Vec<usize> {
        let count = self.errors.len().div_ceil(ONE_IN);
        let mut blocks: Vec<usize> = (0..self.errors.len()).collect();
        let error = |&block: &usize| self.errors[block];
        blocks.sort_by(|a, b| error(b).total_cmp(&error(a)).then(a.cmp(b)));
        blocks.truncate(count);
        blocks.sort_unstable();
        blocks
    }

    /// Notes that a verdict was carried out, or could not be: then the next window decides again.
    pub fn notes(&mut self, verdict: &Verdict, is_done: bool) {
        match verdict {
            Verdict::Stay => return,
            Verdict::Promote(blocks) => {
                if is_done {
                    blocks.iter().for_each(|&block| *self.promoted.entry(block).or_default() += 1);
                    self.profile = Profile::Promoted;
                }
                self.rounds += 1;
            }
            Verdict::FallBack if is_done => self.profile = Profile::Conservative,
            Verdict::Restore if is_done => {
                self.profile = Profile::AsRequested;
                self.promoted.clear();
                self.rounds = 0;
                // After a relapse, it takes longer until the next time.
                self.hold = (self.hold * 2).min(LONGEST_HOLD);
            }
            Verdict::FallBack | Verdict::Restore => {}
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.window.clear();
        self.errors.clear();
        self.calm_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(kld: f64, errors: &[f64]) -> Audit {
        Audit { kld, agreement: 0.9, errors: errors.to_vec() }
    }

    #[test]
    fn the_worst_blocks_are_promoted_and_then_all() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        let mut errors = vec![0.01; 16];
        (errors[3], errors[11]) = (0.9, 0.5);
        let bad = audit(2.0, &errors);
        assert_eq!(judge.hear(&bad, 1.0, 2, now), Verdict::Stay, "the window is not full");
        assert_eq!(judge.hear(&bad, 1.0, 2, now), Verdict::Promote(vec![3, 11]));
        for _ in 0..3 {
            judge.notes(&Verdict::Promote(vec![3, 11]), true);
            assert_eq!(judge.hear(&bad, 1.0, 2, now), Verdict::Stay);
            let verdict = judge.hear(&bad, 1.0, 2, now);
            let expected = if judge.rounds < 3 { Verdict::Promote(vec![3, 11]) } else { Verdict::FallBack };
            assert_eq!(verdict, expected);
        }
        judge.notes(&Verdict::FallBack, true);
        assert_eq!(judge.state(), GuardState { profile: Profile::Conservative, promoted: 2 });
        assert_eq!(judge.hear(&bad, 1.0, 1, now), Verdict::Stay, "nothing finer is left");
    }

    #[test]
    fn it_goes_back_late_and_later_each_time() {
        let (mut judge, start) = (Judge::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (good, between) = (audit(0.1, &[0.0; 4]), audit(0.8, &[0.0; 4]));
        judge.notes(&Verdict::Promote(vec![0]), true);
        assert_eq!(judge.hear(&good, 1.0, 1, at(0)), Verdict::Stay);
        assert_eq!(judge.hear(&between, 1.0, 1, at(300)), Verdict::Stay, "not calm");
        assert_eq!(judge.hear(&good, 1.0, 1, at(400)), Verdict::Stay);
        assert_eq!(judge.hear(&good, 1.0, 1, at(999)), Verdict::Stay);
        assert_eq!(judge.hear(&good, 1.0, 1, at(1000)), Verdict::Restore);
        judge.notes(&Verdict::Restore, true);
        assert_eq!(judge.state(), GuardState::default());
        judge.notes(&Verdict::Promote(vec![0]), true);
        assert_eq!(judge.hear(&good, 1.0, 1, at(2000)), Verdict::Stay);
        assert_eq!(judge.hear(&good, 1.0, 1, at(3199)), Verdict::Stay, "twice as long");
        assert_eq!(judge.hear(&good, 1.0, 1, at(3200)), Verdict::Restore);
    }

    #[test]
    fn no_number_is_no_calm() {
        let mut judge = Judge::default();
        let verdict = judge.hear(&audit(f64::NAN, &[0.0, f64::NAN, 0.0]), 1.0, 1, Instant::now());
        assert_eq!(verdict, Verdict::Promote(vec![1]));
    }
}
