//! Speculation: cheap guesses of the next tokens, which one pass of the model verifies (Leviathan et al., arXiv
//! 2211.17192; Chen et al., arXiv 2302.01318).
//!
//! A [`Proposer`] guesses the next tokens, the *draft*. The model evaluates the whole draft in one pass, which costs
//! little more than one token as long as reading the weights takes most of the time. `accept` keeps the part
//! of the draft that makes the result what the model alone would have drawn: greedy sampling gives the same tokens, other
//! sampling the same distribution. A pass always yields one more token than was kept.
//!
//! Guesses come from a coarser layer of the same weights ([`DraftModel`]) or from earlier text ([`Lookup`]). Which
//! proposer is used, and how long a draft is, follows from measured times and acceptance (`pace`): if no
//! draft pays, tokens are drawn one by one.

mod accept;
mod draft;
mod lookup;
mod pace;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::time::Instant;

use impasto_core::rng::SplitMix64;

pub use draft::DraftModel;
pub use lookup::Lookup;
use pace::{Choice, Pace};

use crate::sampling::{Distribution, Sampler};
use crate::{CausalLm, KvCache, Result, Session, Step};

/// What a proposer may know of a sequence.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Its tokens; not empty.
    pub tokens: &'a [u32],
    /// Keys and values of all tokens but the last, or of fewer.
    pub cache: &'a KvCache,
    /// What its tokens are drawn with.
    pub sampler: &'a Sampler,
    /// The largest number of tokens to propose.
    pub most: usize,
}

/// Guesses of the next tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The distribution that each token was drawn from. A token without one was not drawn.
    pub from: Vec<Distribution>,
}

/// Guesses the next tokens of sequences.
pub trait Proposer: Send {
    /// Returns a draft for each sequence, which may be empty. Drawn tokens use `rng`.
    ///
    /// # Errors
    /// Those of the model that guesses.
    fn propose(&mut self, known: &[Known<'_>], rng: &mut SplitMix64) -> Result<Vec<Draft>>;
}

/// Counts of a [`Speculator`].
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Speculated {
    /// Tokens that were drawn.
    pub tokens: usize,
    /// Tokens that were proposed.
    pub proposed: usize,
    /// Proposed tokens that were verified before the first that was not kept, and that one.
    pub judged: usize,
    /// Proposed tokens that were kept.
    pub kept: usize,
    /// Passes that verified a draft.
    pub passes: usize,
    /// Tokens from passes that verified a draft.
    pub of_passes: usize,
    /// Seconds that proposals took.
    pub propose_seconds: f64,
    /// Seconds that passes over drafts took.
    pub verify_seconds: f64,
}

impl Speculated {
    /// Returns the share of judged tokens that were kept.
    pub fn acceptance(&self) -> f64 {
        self.kept as f64 / self.judged.max(1) as f64
    }

    /// Returns the mean number of tokens that a pass over a draft yields.
    pub fn tokens_per_pass(&self) -> f64 {
        self.of_passes as f64 / self.passes.max(1) as f64
    }
}

/// How long drafts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftLength {
    /// As measured times and acceptance suggest, but at most this. The draws of a sampled text then depend on time.
    Adaptive(usize),
    /// This many tokens, of the first proposer that has a draft.
    Fixed(usize),
}

/// Draws tokens of sessions with the help of proposers.
pub struct Speculator<'p> {
    proposers: Vec<Box<dyn Proposer + 'p>>,
    length: DraftLength,
    pace: Pace,
    rng: SplitMix64,
    counts: Speculated,
}

impl<'p> Speculator<'p> {
    /// Creates a speculator. `seed` is that of the draws that decide which guesses are kept.
    pub fn new(proposers: Vec<Box<dyn Proposer + 'p>>, length: DraftLength, seed: u64) -> Speculator<'p> {
        let pace = Pace::new(proposers.len());
        // Another stream than that of a sampler with the same seed.
        let rng = SplitMix64::new(seed ^ 0x5EED_0F5A_3C01_7E57);
        Speculator { proposers, length, pace, rng, counts: Speculated::default() }
    }

    /// Counts of all steps so far.
    pub fn counts(&self) -> Speculated {
        self.counts
    }

    /// Returns the counts since the last call.
    pub fn take_counts(&mut self) -> Speculated {
        std::mem::take(&mut self.counts)
    }

    /// Draws at least one token of a session and appends it; at most `most`, which is at least 1.
    ///
    /// # Errors
    /// Those of [`Session::step`] and of the proposer. The session then has its earlier tokens.
    pub fn step<M: Deref<Target: CausalLm>>(&mut self, session: &mut Session<M>, most: usize) -> Result<Vec<Step>> {
        Ok(self.step_many(&mut [session], &[most])?.pop().unwrap_or_default())
    }

    /// [`Self::step`] for several sessions of one model, which are verified in one pass.
    ///
    /// # Errors
    /// Those of [`Self::step`], for any session; no token is then drawn. Check [`Session::remaining`] first.
    pub fn step_many<M: Deref<Target: CausalLm>>(
        &mut self,
        sessions: &mut [&mut Session<M>],
        most: &[usize],
    ) -> Result<Vec<Vec<Step>>> {
        let mut is_open = vec![true; self.proposers.len()];
        let begun = Instant::now();
        let (proposer, mut drafts) = loop {
            let choice = match self.length {
                // Logits that are there take no pass that a draft could share, and a prompt is evaluated first.
                _ if sessions.iter().any(|session| session.has_logits() || session.pending() > 1) => Choice::PLAIN,
                DraftLength::Adaptive(longest) => self.pace.choose(longest, &is_open),
                DraftLength::Fixed(length) => match is_open.iter().position(|is_open| *is_open) {
                    Some(proposer) => Choice { proposer, length },
                    None => Choice::PLAIN,
                },
            };
            if choice.length == 0 {
                return self.plain(sessions);
            }
            let drafts = self.propose(choice, sessions, most)?;
            if drafts.iter().any(|draft| !draft.tokens.is_empty()) {
                break (choice.proposer, drafts);
            }
            is_open[choice.proposer] = false;
            self.pace.nothing(choice.proposer);
        };
        let propose_seconds = begun.elapsed().as_secs_f64();
        let proposed: usize = drafts.iter().map(|draft| draft.tokens.len()).sum();
        let begun = Instant::now();
        let guesses: Vec<&[u32]> = drafts.iter().map(|draft| &draft.tokens[..]).collect();
        let before: Vec<usize> = sessions.iter().map(|session| session.tokens().len()).collect();
        let logits = Session::verify_many(sessions, &guesses)?;
        let mut steps = Vec::with_capacity(sessions.len());
        let mut kept_of_all = 0;
        let mut judged_of_all = 0;
        for (index, session) in sessions.iter_mut().enumerate() {
            let drawn = accept::accept(session, before[index], &mut drafts[index], &logits[index], &mut self.rng);
            let (kept, own) = match drawn {
                Ok(drawn) => drawn,
                Err(error) => {
                    sessions.iter_mut().zip(&before).for_each(|(session, &before)| session.truncate(before));
                    return Err(error);
                }
            };
            kept_of_all += kept;
            judged_of_all += (kept + 1).min(drafts[index].tokens.len());
            steps.push(own);
        }
        let verify_seconds = begun.elapsed().as_secs_f64();
        let (length, seconds) = (proposed as f64 / sessions.len() as f64, [propose_seconds, verify_seconds]);
        self.pace.drafted(proposer, length, kept_of_all, judged_of_all, seconds);
        let tokens: usize = steps.iter().map(Vec::len).sum();
        let counts = &mut self.counts;
        counts.tokens += tokens;
        counts.proposed += proposed;
        counts.judged += judged_of_all;
        counts.kept += kept_of_all;
        counts.passes += 1;
        counts.of_passes += tokens;
        counts.propose_seconds += propose_seconds;
        counts.verify_seconds += verify_seconds;
        Ok(steps)
    }

    /// Asks a proposer for drafts.
    fn propose<M: Deref<Target: CausalLm>>(
        &mut self,
        choice: Choice,
        sessions: &mut [&mut Session<M>],
        most: &[usize],
    ) -> Result<Vec<Draft>> {
        sessions.iter_mut().try_for_each(|session| session.leave_last())?;
        let known = sessions.iter().zip(most).map(|(session, &most)| {
            // The pass yields one more token than the draft has, which needs no place in the context.
            let most = most.min(session.remaining()).saturating_sub(1);
            let (tokens, cache, sampler) = (session.tokens(), session.cache(), session.sampler());
            Known { tokens, cache, sampler, most: choice.length.min(most) }
        });
        self.proposers[choice.proposer].propose(&known.collect::<Vec<_>>(), &mut self.rng)
    }

    /// Draws one token of each session.
    fn plain<M: Deref<Target: CausalLm>>(&mut self, sessions: &mut [&mut Session<M>]) -> Result<Vec<Vec<Step>>> {
        let has_pass = sessions.iter().all(|session| !session.has_logits() && session.pending() <= 1);
        let begun = Instant::now();
        let steps = match sessions {
            [session] => vec![session.step()?],
            sessions => Session::step_many(sessions)?,
        };
        if has_pass {
            self.pace.plain(begun.elapsed().as_secs_f64());
        }
        self.counts.tokens += steps.len();
        Ok(steps.into_iter().map(|step| vec![step]).collect())
    }
}
