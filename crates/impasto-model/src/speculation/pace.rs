//! The choice of proposer and length of a draft, from measured times and acceptance.
//!
//! If each token of a draft is kept with probability a, independently, a pass over n of them yields
//! `1 + a + ... + a^n` tokens (arXiv 2211.17192, section 3.1). It takes the time of n proposals and of one pass, which is
//! about linear in n. The best draft has the most tokens per second; none is best if that is below what single tokens
//! reach. Since a draft that does not pay costs time, one is tried ever less often as long as none does.

/// A share of the weight of what was measured that is kept when something new is.
const MEMORY: f64 = 0.95;
/// What drafts are assumed to be kept before any was tried, and the weight of this assumption in tokens.
const PRIOR: (f64, f64) = (0.6, 2.0);
/// Share of the time of one token that each further one of a pass takes, before it is measured.
const SLOPE: f64 = 0.1;
/// How often single tokens and each proposer are tried first.
const TRIALS: usize = 2;
/// Length of the drafts of these trials.
const TRIAL: usize = 2;
/// How much faster than single tokens a draft must be expected to be.
const MARGIN: f64 = 1.02;
/// The least and the most single tokens between two drafts that do not pay.
const PAUSE: (usize, usize) = (32, 1024);
/// Passes over drafts between two measurements of a single token.
const REFRESH: usize = 64;

/// A proposer and the length of its draft; length 0 for a single token without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub proposer: usize,
    pub length: usize,
}

impl Choice {
    pub(super) const PLAIN: Choice = Choice { proposer: 0, length: 0 };
}

/// A mean in which older values have less weight.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    weight: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, sum: f64, weight: f64) {
        (self.sum, self.weight) = (self.sum * MEMORY + sum, self.weight * MEMORY + weight);
        self.count += 1;
    }

    fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// Times of passes by the number of drafted tokens, as a line.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    weight: f64,
    n: f64,
    t: f64,
    nn: f64,
    nt: f64,
}

impl Line {
    fn add(&mut self, n: f64, t: f64) {
        for sum in [&mut self.weight, &mut self.n, &mut self.t, &mut self.nn, &mut self.nt] {
            *sum *= MEMORY;
        }
        self.weight += 1.0;
        self.n += n;
        self.t += t;
        self.nn += n * n;
        self.nt += n * t;
    }

    /// Returns the time of a pass over `n` drafted tokens, if one of none takes `single`.
    fn at(&self, n: f64, single: f64) -> f64 {
        // As if one pass of the assumed slope had been measured far away, so that there is always a slope.
        let (far, slope) = (1.0, SLOPE * single);
        if self.weight == 0.0 {
            return single + slope * n;
        }
        let (mean_n, mean_t) = (self.n / self.weight, self.t / self.weight);
        let spread = self.nn / self.weight - mean_n * mean_n;
        let shared = self.nt / self.weight - mean_n * mean_t;
        let slope = (shared + far * slope / self.weight) / (spread + far / self.weight);
        (mean_t + slope.max(0.0) * (n - mean_n)).max(0.0)
    }
}

/// What is known of a proposer.
#[derive(Clone, Copy, Debug, Default)]
struct Arm {
    kept: Mean,
    /// Seconds for a proposed token.
    seconds: Mean,
    tried: usize,
}

impl Arm {
    fn acceptance(&self) -> f64 {
        let (prior, weight) = PRIOR;
        ((self.kept.sum + prior * weight) / (self.kept.weight + weight)).clamp(0.0, 0.999)
    }
}

/// Measured times and acceptance.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    arms: Vec<Arm>,
    single: Mean,
    pass: Line,
    /// Single tokens since the last draft, and how many there are between drafts that do not pay.
    singles: usize,
    pause: usize,
    /// Drafts since the last single token.
    drafts: usize,
}

impl Pace {
    pub(super) fn new(proposers: usize) -> Pace {
        let (single, pass) = (Mean::default(), Line::default());
        Pace { arms: vec![Arm::default(); proposers], single, pass, singles: 0, pause: PAUSE.0, drafts: 0 }
    }

    /// Chooses among the proposers for which `is_open`, and lengths up to `longest`.
    pub(super) fn choose(&mut self, longest: usize, is_open: &[bool]) -> Choice {
        let Some(single) = self.single.get().filter(|_| self.single.count >= TRIALS && longest > 0) else {
            return Choice::PLAIN;
        };
        let open = || (0..self.arms.len()).filter(|&arm| is_open.get(arm).is_none_or(|is_open| *is_open));
        if let Some(proposer) = open().find(|&arm| self.arms[arm].tried < TRIALS) {
            return Choice { proposer, length: longest.min(TRIAL) };
        }
        let choices = open().flat_map(|proposer| (1..=longest).map(move |length| Choice { proposer, length }));
        let rated = choices.map(|choice| (self.rate(choice, single), choice));
        let Some((rate, best)) = rated.max_by(|a, b| a.0.total_cmp(&b.0)) else { return Choice::PLAIN };
        if rate * single > MARGIN {
            self.pause = PAUSE.0;
            return if self.drafts >= REFRESH { Choice::PLAIN } else { best };
        }
        if self.singles >= self.pause {
            self.pause = (2 * self.pause).min(PAUSE.1);
            return best;
        }
        Choice::PLAIN
    }

    /// Returns the expected tokens per second.
    fn rate(&self, Choice { proposer, length }: Choice, single: f64) -> f64 {
        let arm = &self.arms[proposer];
        let a = arm.acceptance();
        let tokens = (1.0 - a.powi(length as i32 + 1)) / (1.0 - a);
        let n = length as f64;
        tokens / (n * arm.seconds.get().unwrap_or(0.0) + self.pass.at(n, single)).max(f64::MIN_POSITIVE)
    }

    /// Notes that a single token took `seconds`.
    pub(super) fn plain(&mut self, seconds: f64) {
        self.single.add(seconds, 1.0);
        self.pass.add(0.0, seconds);
        self.singles += 1;
        self.drafts = 0;
    }

    /// Notes that a proposer proposed nothing.
    pub(super) fn nothing(&mut self, proposer: usize) {
        self.arms[proposer].tried += usize::from(self.singles >= self.pause);
    }

    /// Notes a pass over drafts of `length` tokens, of which this many were kept and judged; proposals and pass took so many
    /// seconds.
    pub(super) fn drafted(&mut self, proposer: usize, length: f64, kept: usize, judged: usize, seconds: [f64; 2]) {
        let arm = &mut self.arms[proposer];
        arm.kept.add(kept as f64, judged as f64);
        arm.seconds.add(seconds[0], length);
        arm.tried += 1;
        self.pass.add(length, seconds[1]);
        self.singles = 0;
        self.drafts += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of which a single token takes 1, a pass over n drafted ones 1 + `slope` n, and a proposed token `draft`.
    struct World {
        acceptance: f64,
        draft: f64,
        slope: f64,
    }

    /// Runs until `tokens` are drawn. Returns the time, the tokens and the last choice with a draft.
    fn run(worlds: &[World], tokens: usize) -> (f64, f64, Choice) {
        let mut pace = Pace::new(worlds.len());
        let mut rng = impasto_core::rng::SplitMix64::new(3);
        let (mut time, mut drawn, mut last) = (0.0, 0, Choice::PLAIN);
        while drawn < tokens {
            let choice = pace.choose(8, &[]);
            if choice.length == 0 {
                pace.plain(1.0);
                (time, drawn) = (time + 1.0, drawn + 1);
                continue;
            }
            last = choice;
            let world = &worlds[choice.proposer];
            let kept = (0..choice.length).take_while(|_| rng.next_f64() < world.acceptance).count();
            let judged = (kept + 1).min(choice.length);
            let n = choice.length as f64;
            let seconds = [n * world.draft, 1.0 + world.slope * n];
            pace.drafted(choice.proposer, n, kept, judged, seconds);
            (time, drawn) = (time + seconds[0] + seconds[1], drawn + kept + 1);
        }
        (time, drawn as f64, last)
    }

    #[test]
    fn drafts_that_pay_are_long_and_others_are_rare() {
        let good = World { acceptance: 0.9, draft: 0.1, slope: 0.02 };
        let (time, tokens, last) = run(&[good], 2000);
        assert!(tokens / time > 2.4, "{}", tokens / time);
        assert!(last.length >= 5);
        let bad =
            [World { acceptance: 0.2, draft: 0.6, slope: 0.1 }, World { acceptance: 0.1, draft: 0.5, slope: 0.4 }];
        let (time, tokens, _) = run(&bad, 1000);
        assert!(tokens / time > 0.97, "{}", tokens / time);
    }

    #[test]
    fn the_better_proposer_is_found() {
        for better in [0, 1] {
            let of = |index| World { acceptance: if index == better { 0.9 } else { 0.5 }, draft: 0.2, slope: 0.05 };
            assert_eq!(run(&[of(0), of(1)], 1000).2.proposer, better);
        }
        let cheap =
            [World { acceptance: 0.9, draft: 0.7, slope: 0.05 }, World { acceptance: 0.8, draft: 0.1, slope: 0.05 }];
        assert_eq!(run(&cheap, 1000).2.proposer, 1);
    }

    #[test]
    fn proposers_that_are_closed_are_not_chosen() {
        let mut pace = Pace::new(2);
        (0..TRIALS).for_each(|_| pace.plain(1.0));
        assert_eq!(pace.choose(4, &[true, true]).proposer, 0);
        assert_eq!(pace.choose(4, &[false, true]), Choice { proposer: 1, length: TRIAL });
        assert_eq!(pace.choose(4, &[false, false]), Choice::PLAIN);
        assert_eq!(pace.choose(0, &[]), Choice::PLAIN);
    }
}
