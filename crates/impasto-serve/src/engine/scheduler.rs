//! Which sequences run in the next pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Instant;

use impasto_model::{ModelError, Session};
use impasto_runtime::Upgrader;

use super::sequence::{Phase, Sequence, failure, is_memory};
use super::{EngineError, Event, Shared};
use crate::models::Loaded;

/// Tokens of prompts in a pass while other texts are being written: what these wait for a prompt.
const BESIDE: usize = 128;
/// Tokens of prompts in a pass while nothing else runs.
const ALONE: usize = 512;
/// The fewest tokens of a prompt in a pass.
const LEAST: usize = 16;

/// The engine's thread.
pub(super) struct Scheduler {
    shared: Arc<Shared>,
    /// In the order in which they came.
    running: Vec<Sequence>,
    /// The models that keep keys and values.
    models: Vec<Weak<Loaded>>,
}

impl Scheduler {
    pub(super) fn new(shared: Arc<Shared>) -> Scheduler {
        Scheduler { shared, running: Vec::new(), models: Vec::new() }
    }

    /// Runs until the engine ends.
    pub(super) fn run(mut self) {
        while let Some(jobs) = self.shared.next(self.running.iter().map(Sequence::texts).sum()) {
            for job in jobs {
                if !self.models.iter().any(|model| std::ptr::eq(model.as_ptr(), &raw const *job.model)) {
                    self.models.push(Arc::downgrade(&job.model));
                }
                let events = job.events.clone();
                match catch_unwind(AssertUnwindSafe(|| Sequence::start(job, &self.running))) {
                    Ok(started) => self.running.extend(started),
                    // Nobody is left to be told if this cannot be sent.
                    Err(_) => _ = events.send(Event::Failed(EngineError::Panicked)),
                }
            }
            // A bug in a kernel must not end the server.
            if catch_unwind(AssertUnwindSafe(|| self.step())).is_err() {
                self.running.drain(..).for_each(|mut sequence| sequence.fail(EngineError::Panicked));
            }
            let before = self.running.len();
            self.running.retain(|sequence| !sequence.is_over());
            let given_up = self.running.extract_if(.., |sequence| sequence.is_given_up());
            let cancelled = given_up.map(Sequence::give_up).filter(|is_cancelled| *is_cancelled).count();
            self.shared.stats.cancelled.fetch_add(cancelled as u64, Relaxed);
            if self.running.len() < before {
                self.unpark();
            }
            self.models.retain(|model| model.strong_count() > 0);
            self.shared.stats.running.store(self.running.len(), Relaxed);
            self.shared.stats.parked.store(self.running.iter().filter(|of| of.is_parked).count(), Relaxed);
        }
        self.running.drain(..).for_each(|mut sequence| sequence.fail(EngineError::Ending));
    }

    /// Gives every model a pass.
    fn step(&mut self) {
        if self.running.iter().all(|sequence| sequence.is_parked) {
            self.unpark();
        }
        let mut models: Vec<Arc<Loaded>> = Vec::new();
        for sequence in &self.running {
            if !models.iter().any(|model| Arc::ptr_eq(model, &sequence.common.model)) {
                models.push(sequence.common.model.clone());
            }
        }
        for model in models {
            self.upgrade(&model);
            self.score(&model);
            let drafted = self.speculate(&model);
            self.pass(&model, drafted);
        }
    }

    /// Scores some tokens of the first prompt that needs it.
    fn score(&mut self, model: &Arc<Loaded>) {
        let begun = Instant::now();
        let of_model = |sequence: &&mut Sequence| {
            Arc::ptr_eq(&sequence.common.model, model)
                && !sequence.is_parked
                && matches!(sequence.phase, Phase::Scoring(..))
        };
        let Some(sequence) = self.running.iter_mut().find(of_model) else { return };
        match sequence.score() {
            Ok(tokens) => self.shared.passed(tokens, begun),
            Err(error) if is_memory(&error) => self.make_room(error),
            Err(error) => sequence.fail(failure(error)),
        }
    }

    /// Draws tokens with drafts for the sequences that may, if no prompt of the model is being evaluated. The next pass then has one
    /// token of each to evaluate, as if they had been drawn one by one. Returns whether it did; otherwise a pass has to draw their tokens.
    fn speculate(&mut self, model: &Arc<Loaded>) -> bool {
        let mut speculator = model.speculator();
        let Some(speculator) = speculator.as_mut() else { return false };
        let begun = Instant::now();
        let is_of = |sequence: &&mut Sequence| Arc::ptr_eq(&sequence.common.model, model);
        if self.running.iter_mut().filter(is_of).any(|sequence| sequence.pending() > 1) {
            return false;
        }
        let sequences = self.running.iter_mut().filter(is_of).filter(|sequence| sequence.may_speculate() > 0);
        let mut sequences: Vec<&mut Sequence> = sequences.collect();
        let most: Vec<usize> = sequences.iter().map(|sequence| sequence.may_speculate()).collect();
        let mut sessions: Vec<_> = sequences.iter_mut().filter_map(|sequence| sequence.session()).collect();
        if sessions.is_empty() {
            return false;
        }
        let drawn = speculator.step_many(&mut sessions, &most);
        let counts = speculator.take_counts();
        // After an error, the sessions have the tokens that they had. A plain pass needs less memory, and says whose error it is.
        let Ok(steps) = drawn else { return false };
        let written = sequences.iter_mut().zip(steps).map(|(sequence, steps)| sequence.take(steps)).sum();
        let stats = &self.shared.stats;
        stats.written.fetch_add(written, Relaxed);
        stats.proposed.fetch_add(counts.proposed as u64, Relaxed);
        stats.kept.fetch_add(counts.kept as u64, Relaxed);
        self.shared.passed(written as usize, begun);
        true
    }

    /// Evaluates what is pending in one pass, and draws a token of each sequence of which nothing is; without those that may draw with
    /// drafts, if they did.
    fn pass(&mut self, model: &Arc<Loaded>, drafted: bool) {
        let begun = Instant::now();
        let is_of = |sequence: &Sequence| {
            Arc::ptr_eq(&sequence.common.model, model) && !(drafted && sequence.may_speculate() > 0)
        };
        let pending = || self.running.iter().filter(|sequence| is_of(sequence)).map(Sequence::pending);
        let prompts = pending().filter(|&pending| pending > 1).count();
        let texts = pending().filter(|&pending| pending == 1).count();
        let budget = if texts > 0 { BESIDE } else { ALONE };
        let chunk = budget.checked_div(prompts).map_or(1, |chunk| chunk.max(LEAST));
        let tokens: usize = pending().map(|pending| pending.min(chunk)).sum();
        let sequences = self.running.iter_mut().filter(|sequence| is_of(sequence) && !sequence.is_parked);
        let mut sessions: Vec<_> = sequences.filter_map(Sequence::session).collect();
        match Session::evaluate_many(&mut sessions, chunk) {
            Ok(_) if tokens > 0 => self.shared.passed(tokens, begun),
            Ok(_) => {}
            Err(error) if is_memory(&error) => return self.make_room(error),
            Err(error) => {
                let error = error.to_string();
                let sequences = self.running.iter_mut().filter(|sequence| is_of(sequence));
                return sequences.for_each(|sequence| sequence.fail(EngineError::Pass(error.clone())));
            }
        }
        let mut written = 0;
        let mut branches = Vec::new();
        for sequence in self.running.iter_mut().filter(|sequence| is_of(sequence)) {
            let is_ready = |sequence: &Sequence| match &sequence.phase {
                Phase::Running(session) => !sequence.is_parked && session.pending() == 0,
                _ => false,
            };
            if !is_ready(sequence) {
                continue;
            }
            match sequence.branch() {
                Ok(more) => branches.extend(more),
                Err(error) => {
                    sequence.fail(failure(error));
                    continue;
                }
            }
            written += u64::from(sequence.draw());
        }
        for mut branch in branches {
            written += u64::from(branch.draw());
            self.running.push(branch);
        }
        self.shared.stats.written.fetch_add(written, Relaxed);
    }

    /// Makes room for keys and values: gives up those that are kept, or lets the sequence that came last wait.
    fn make_room(&mut self, error: ModelError) {
        let kept = self.models.iter().filter_map(Weak::upgrade);
        if kept.into_iter().any(|model| model.prefixes().give_up_one()) {
            return;
        }
        let active = self.running.iter().filter(|sequence| !sequence.is_parked && !sequence.is_over()).count();
        let last = self.running.iter_mut().rev().find(|sequence| !sequence.is_parked && !sequence.is_over());
        let Some(last) = last else { return };
        if active < 2 {
            last.fail(failure(error));
        } else if let Err(error) = last.park() {
            last.fail(failure(error));
        }
    }

    /// Lets the sequence that waits for memory and came first go on.
    fn unpark(&mut self) {
        if let Some(first) = self.running.iter_mut().find(|sequence| sequence.is_parked) {
            first.is_parked = false;
        }
    }

    /// Brings keys and values to the weights of a model that became finer: those of one sequence at a time, on another thread.
    fn upgrade(&mut self, model: &Arc<Loaded>) {
        let Some((runtime, how)) = model.upgrades() else { return };
        let generation = model.generation();
        let mut is_busy = false;
        let of_model = self.running.iter_mut().filter(|of| Arc::ptr_eq(&of.common.model, model) && !of.is_parked);
        for sequence in of_model {
            let Phase::Running(session) = &mut sequence.phase else { continue };
            if let Some(upgrader) = &mut sequence.upgrader {
                match upgrader.poll(session) {
                    Ok(false) => is_busy = true,
                    Ok(true) => (sequence.upgrader, sequence.generation) = (None, sequence.tried),
                    Err(error) => {
                        tracing::warn!(%error, "keys and values stay those of coarser weights");
                        sequence.upgrader = None;
                    }
                }
            } else if sequence.tried < generation && !is_busy {
                let mut upgrader = Upgrader::new(runtime.clone(), how);
                sequence.tried = generation;
                match upgrader.begin(session) {
                    Ok(()) => sequence.upgrader = Some(upgrader).filter(Upgrader::is_running),
                    Err(error) => tracing::warn!(%error, "keys and values stay those of coarser weights"),
                }
                is_busy |= sequence.upgrader.is_some();
            }
        }
    }
}

impl Shared {
    fn passed(&self, tokens: usize, begun: Instant) {
        self.stats.passes.fetch_add(1, Relaxed);
        self.stats.evaluated.fetch_add(tokens as u64, Relaxed);
        self.stats.nanoseconds.fetch_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}
