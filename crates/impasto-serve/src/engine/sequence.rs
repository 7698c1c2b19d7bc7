//! One text that is being written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use impasto_model::sampling::{Sampler, SamplingParams};
use impasto_model::{CausalLm, ModelError, Result, Session, Step};
use impasto_runtime::Upgrader;
use tokio::sync::mpsc::UnboundedSender;

use super::scoring::Scoring;
use super::{Constraint, EndReason, EngineError, Event, Job, Scored};
use crate::models::Loaded;

pub(super) type SharedSession = Session<Arc<dyn CausalLm>>;

/// What the continuations of a prompt have in common.
pub(super) struct Common {
    pub(super) model: Arc<Loaded>,
    eos: Vec<u32>,
    max_tokens: usize,
    logprobs: Option<usize>,
    /// Whether the tokens of the prompt are scored.
    is_scored: bool,
    logit_bias: Vec<(u32, f32)>,
    deadline: Instant,
    events: UnboundedSender<Event>,
    prompt: usize,
    stopped: Arc<[AtomicBool]>,
    owner: u64,
}

impl Common {
    pub(super) fn send(&self, event: Event) {
        // A receiver that is gone is noticed by `is_given_up`.
        let _ = self.events.send(event);
    }
}

/// One continuation of a prompt.
pub(super) struct Sequence {
    pub(super) common: Arc<Common>,
    choice: usize,
    /// The number of the first continuation of its prompt.
    first: usize,
    pub(super) phase: Phase,
    constraint: Option<Box<dyn Constraint>>,
    /// The continuations that begin when the prompt is evaluated.
    others: Vec<(SamplingParams, Option<Box<dyn Constraint>>)>,
    written: usize,
    /// Whether it waits for memory.
    pub(super) is_parked: bool,
    /// The generation of the weights that its keys and values are of.
    pub(super) generation: u64,
    /// The generation that they are being brought to, or were tried to be.
    pub(super) tried: u64,
    pub(super) upgrader: Option<Upgrader>,
}

/// What happens to a sequence next.
pub(super) enum Phase {
    /// The tokens of its prompt are scored.
    Scoring(Scoring, SamplingParams),
    /// It is continued.
    Running(SharedSession),
    /// It has ended, or failed.
    Over,
}

impl Sequence {
    /// Starts a job. `others` are the sequences that run.
    ///
    /// # Errors
    /// Those of [`Session::with_cache`]; no memory. They were sent to the receiver, too.
    pub(super) fn start(job: Job, others: &[Sequence]) -> Option<Sequence> {
        let Job { model, prompt, first, stopped, choices, max_tokens, eos, .. } = job;
        let Job { logprobs, prompt_logprobs, logit_bias, constraints, deadline, events, owner, .. } = job;
        let length = prompt.len();
        let common = Common {
            model,
            eos,
            max_tokens,
            logprobs,
            is_scored: prompt_logprobs.is_some(),
            logit_bias,
            deadline,
            events,
            prompt: length,
            stopped,
            owner,
        };
        let common = Arc::new(common);
        let mut constraints = constraints.into_iter();
        let mut choices = choices.into_iter().map(|sampling| (sampling, constraints.next()));
        let (sampling, constraint) = choices.next().unwrap_or_default();
        let generation = common.model.generation();
        let phase = match prompt_logprobs {
            Some(top) => {
                common.send(Event::Started { cached: 0 });
                Scoring::new(common.model.network(), prompt, top).map(|scoring| Phase::Scoring(scoring, sampling))
            }
            None => common.begin(generation, prompt, sampling, others).map(Phase::Running),
        };
        let phase = phase.map_err(|error| common.send(Event::Failed(failure(error)))).ok()?;
        Some(Sequence {
            common,
            choice: first,
            first,
            phase,
            constraint,
            others: choices.collect(),
            written: 0,
            is_parked: false,
            generation,
            tried: generation,
            upgrader: None,
        })
    }

    /// Number of texts that it is or will become.
    pub(super) fn texts(&self) -> usize {
        1 + self.others.len()
    }

    /// Gives it up. One that has its text, because a stop string ended it, is kept for later prompts. Returns whether it was
    /// cancelled.
    pub(super) fn give_up(self) -> bool {
        let is_stopped = self.is_stopped();
        if let (true, Phase::Running(session)) = (is_stopped, self.phase) {
            self.common.model.ended((self.common.owner, self.generation), self.common.prompt, session);
        }
        !is_stopped
    }

    fn is_stopped(&self) -> bool {
        self.common.stopped.get(self.choice).is_some_and(|stopped| stopped.load(Ordering::Relaxed))
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        if self.is_stopped() || self.common.events.is_closed() {
            return true;
        }
        let is_late = self.common.deadline <= Instant::now();
        if is_late {
            self.common.send(Event::Failed(EngineError::Deadline));
        }
        is_late
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    pub(super) fn session(&mut self) -> Option<&mut SharedSession> {
        match &mut self.phase {
            Phase::Running(session) => Some(session),
            _ => None,
        }
    }

    /// Tokens that are not evaluated yet, if it is being continued and not parked.
    pub(super) fn pending(&self) -> usize {
        match &self.phase {
            Phase::Running(session) if !self.is_parked => session.pending(),
            _ => 0,
        }
    }

    /// Gives up its keys and values until there is memory again.
    pub(super) fn park(&mut self) -> Result<()> {
        match &mut self.phase {
            Phase::Running(session) => {
                let empty = session.model().new_cache(0)?;
                session.adopt(empty);
            }
            Phase::Scoring(scoring, _) => scoring.restart(),
            Phase::Over => {}
        }
        self.upgrader = None;
        self.is_parked = true;
        Ok(())
    }

    /// Ends it with an error.
    pub(super) fn fail(&mut self, error: EngineError) {
        self.common.send(Event::Failed(error));
        self.phase = Phase::Over;
    }

    /// Scores some of the prompt's tokens; when all are, continues. Returns the number of tokens that were evaluated.
    ///
    /// # Errors
    /// Those of [`Scoring::advance`].
    pub(super) fn score(&mut self) -> Result<usize> {
        let Phase::Scoring(scoring, _) = &mut self.phase else { return Ok(0) };
        let evaluated = scoring.advance()?;
        if evaluated == 0
            && let Phase::Scoring(scoring, sampling) = std::mem::replace(&mut self.phase, Phase::Over)
        {
            let (cache, tokens, scored) = scoring.finish();
            self.common.send(Event::Prompt { first: self.first, tokens: scored });
            let mut session = Session::with_cache(self.common.model.network(), sampling, cache)?;
            session.extend(&tokens[session.tokens().len()..])?;
            self.common.prepare(&mut session, sampling)?;
            self.phase = Phase::Running(session);
        }
        Ok(evaluated)
    }

    /// Returns the other continuations, once the prompt is evaluated.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn branch(&mut self) -> Result<Vec<Sequence>> {
        let Phase::Running(session) = &self.phase else { return Ok(vec![]) };
        if self.written == 0 && self.choice == self.first {
            self.common.send(Event::Evaluated);
        }
        let mut branches = Vec::new();
        for (choice, (sampling, constraint)) in (self.first + 1..).zip(std::mem::take(&mut self.others)) {
            let mut session = session.fork()?;
            self.common.prepare(&mut session, sampling)?;
            branches.push(Sequence {
                common: self.common.clone(),
                choice,
                first: self.first,
                phase: Phase::Running(session),
                constraint,
                others: vec![],
                written: 0,
                is_parked: false,
                generation: self.generation,
                // An upgrade that is running is not one of the copies.
                tried: self.generation,
                upgrader: None,
            });
        }
        Ok(branches)
    }

    /// The most tokens to draw with drafts; 0 if it draws without. With a temperature, what is kept of a draft would depend on the
    /// other texts; the most likely token does not.
    pub(super) fn may_speculate(&self) -> usize {
        let Phase::Running(session) = &self.phase else { return 0 };
        let is_writing = self.written > 0 && session.pending() == 1 && !self.is_parked && session.remaining() > 0;
        let is_greedy = session.sampler().params().temperature == 0.0 && self.constraint.is_none();
        if is_writing && is_greedy { self.common.max_tokens.saturating_sub(self.written) } else { 0 }
    }

    /// Takes tokens that were drawn with drafts. Returns how many are part of the text.
    pub(super) fn take(&mut self, steps: Vec<Step>) -> u64 {
        let Phase::Running(session) = &mut self.phase else { return 0 };
        let first = session.tokens().len() - steps.len();
        let eos = steps.iter().position(|step| self.common.eos.contains(&step.token));
        let count = eos.unwrap_or(steps.len());
        if eos.is_some() {
            session.truncate(first + count);
        }
        let mut tokens = steps.into_iter().map(|Step { token, logprob, top }| Scored { token, logprob, top });
        for token in tokens.by_ref().take(count) {
            self.common.send(Event::Token { choice: self.choice, token });
        }
        self.written += count;
        let end = tokens.next().filter(|_| eos.is_some());
        let reason = end.as_ref().map(|end| EndReason::Eos(end.token));
        if let Some(token) = end.filter(|_| self.common.is_scored) {
            self.common.send(Event::Eos { choice: self.choice, token });
        }
        let reason = reason.or_else(|| over(session, &self.constraint, self.written, &self.common));
        if let Some(reason) = reason {
            self.end(reason);
        }
        count as u64
    }

    /// Draws the next token of a sequence whose tokens are all evaluated, and ends the sequence if nothing can follow: its last token
    /// is never evaluated, since it may have no place in the context. Returns whether there was a token.
    pub(super) fn draw(&mut self) -> bool {
        let Phase::Running(session) = &mut self.phase else { return false };
        let mut end = over(session, &self.constraint, self.written, &self.common);
        let is_before = end.is_none();
        if is_before {
            match next(session, &mut self.constraint, &self.common) {
                Ok(Next::Token(token)) => {
                    self.written += 1;
                    self.common.send(Event::Token { choice: self.choice, token });
                    end = over(session, &self.constraint, self.written, &self.common);
                }
                Ok(Next::Eos(token)) => {
                    let reason = EndReason::Eos(token.token);
                    if self.common.is_scored {
                        self.common.send(Event::Eos { choice: self.choice, token });
                    }
                    self.end(reason);
                    return false;
                }
                Err(error) => {
                    self.fail(error);
                    return false;
                }
            }
        }
        if let Some(reason) = end {
            self.end(reason);
        }
        is_before
    }

    /// Ends it, and keeps its keys and values for later prompts.
    fn end(&mut self, reason: EndReason) {
        if let Phase::Running(session) = std::mem::replace(&mut self.phase, Phase::Over) {
            self.common.model.ended((self.common.owner, self.generation), self.common.prompt, session);
        }
        self.common.send(Event::End { choice: self.choice, reason });
    }
}

impl Common {
    /// Begins to continue a prompt, from keys and values that are there.
    fn begin(
        &self,
        generation: u64,
        prompt: Vec<u32>,
        sampling: SamplingParams,
        others: &[Sequence],
    ) -> Result<SharedSession> {
        let running = others.iter().filter(|other| {
            Arc::ptr_eq(&other.common.model, &self.model)
                && other.common.owner == self.owner
                && other.generation == generation
                && !other.is_parked
        });
        let caches = running.filter_map(|other| match &other.phase {
            Phase::Running(session) => Some(session.cache()),
            _ => None,
        });
        let known = self.model.prefixes().find((self.owner, generation), &prompt, caches);
        let network = self.model.network();
        let cache = match known {
            Some(cache) => cache,
            None => network.new_cache(0)?,
        };
        // The last token is always evaluated, for its logits.
        self.send(Event::Started { cached: cache.len().min(prompt.len().saturating_sub(1)) });
        let (last, before) = prompt.split_last().ok_or(ModelError::EmptyPrompt)?;
        let mut session = Session::with_cache(network, sampling, cache)?;
        session.restart(before)?;
        session.extend(&[*last])?;
        self.prepare(&mut session, sampling)?;
        Ok(session)
    }

    /// Sets what a session draws by, and reports.
    fn prepare(&self, session: &mut SharedSession, sampling: SamplingParams) -> Result<()> {
        let mut sampler = Sampler::new(sampling)?;
        sampler.set_logit_bias(self.logit_bias.clone())?;
        sampler.set_prompt_length(self.prompt);
        session.set_sampler(sampler);
        session.report_logprobs(self.logprobs);
        Ok(())
    }
}

/// What comes next in a text.
enum Next {
    Token(Scored),
    Eos(Scored),
}

/// Why nothing can follow the tokens of a session, if that is so.
fn over(
    session: &SharedSession,
    constraint: &Option<Box<dyn Constraint>>,
    written: usize,
    common: &Common,
) -> Option<EndReason> {
    if constraint.as_ref().is_some_and(|constraint| constraint.is_complete()) {
        return Some(EndReason::Complete);
    }
    if written >= common.max_tokens {
        return Some(EndReason::MaxTokens);
    }
    (session.remaining() == 0).then_some(EndReason::ContextFull)
}

fn next(
    session: &mut SharedSession,
    constraint: &mut Option<Box<dyn Constraint>>,
    common: &Common,
) -> Result<Next, EngineError> {
    let mask = constraint.as_mut().map(|constraint| constraint.mask()).transpose().map_err(EngineError::Constraint)?;
    let step = session.draw(mask)?;
    let scored = Scored { token: step.token, logprob: step.logprob, top: step.top };
    if common.eos.contains(&step.token) {
        return Ok(Next::Eos(scored));
    }
    if let Some(constraint) = constraint {
        constraint.commit(step.token).map_err(EngineError::Constraint)?;
    }
    Ok(Next::Token(scored))
}

/// Whether there was not enough memory for keys and values.
pub(crate) fn is_memory(error: &ModelError) -> bool {
    matches!(error, ModelError::Cache(_) | ModelError::Memory { .. })
}

/// Returns the error of a job.
pub(super) fn failure(error: ModelError) -> EngineError {
    if is_memory(&error) { EngineError::Memory(error) } else { EngineError::Model(error) }
}
