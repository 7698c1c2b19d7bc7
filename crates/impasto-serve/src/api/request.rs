//! What the requests for text have in common: sampling, limits, stop strings.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use impasto_model::sampling::SamplingParams;
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;

/// The most stop strings of a request.
const MOST_STOPS: usize = 16;
/// The most bytes of a stop string.
const LONGEST_STOP: usize = 1024;
/// The most tokens whose logits a request may change.
const MOST_BIASES: usize = 1024;

/// How tokens are chosen.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the most likely token. 1 by default.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Keeps the most likely tokens until their probabilities sum to this. 1 by default, which keeps all.
    #[schema(maximum = 1)]
    pub top_p: Option<f32>,
    /// Keeps so many of the most likely tokens. 0 by default, which keeps all.
    pub top_k: Option<i64>,
    /// Keeps tokens at least this fraction as likely as the most likely. 0 by default, which keeps all.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that are in the text already. 1 by default, which changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Is subtracted from the logits of tokens that were written already.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// Is subtracted from them for each time that they were.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// Makes the choice the same again. Continuation number `i` of `n` has the seed plus `i`. By default it is random.
    pub seed: Option<i64>,
    /// What is added to the logits of tokens, by id, from -100, which bans the token, to 100.
    pub logit_bias: Option<BTreeMap<String, f32>>,
}

impl Sampling {
    /// The sampling parameters of each of `n` continuations.
    ///
    /// # Errors
    /// If one is out of its range.
    pub fn choices(&self, n: usize) -> Result<Vec<SamplingParams>, ApiError> {
        let seed = self.seed.map_or_else(|| RandomState::new().build_hasher().finish(), |seed| seed as u64);
        let temperature = self.temperature.unwrap_or(1.0);
        if temperature > 100.0 {
            return Err(ApiError::invalid("temperature", format!("temperature = {temperature}: must be at most 100")));
        }
        let top_k = match self.top_k {
            // Some clients say -1 for all.
            None | Some(-1) => 0,
            Some(k) => {
                usize::try_from(k).map_err(|_| ApiError::invalid("top_k", format!("top_k = {k}: must be 0 or more")))?
            }
        };
        let params = SamplingParams {
            temperature,
            top_k,
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            seed,
        };
        params.validate()?;
        Ok((0..n as u64).map(|i| SamplingParams { seed: seed.wrapping_add(i), ..params }).collect())
    }

    /// What is added to the logits of which tokens.
    ///
    /// # Errors
    /// If there are too many, a token is not below `vocab`, or a bias is out of its range.
    pub fn biases(&self, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
        let biases = self.logit_bias.iter().flatten();
        if biases.clone().count() > MOST_BIASES {
            return Err(ApiError::invalid("logit_bias", format!("logit_bias: at most {MOST_BIASES} tokens")));
        }
        let bias = |(token, &bias): (&String, &f32)| {
            let id = token.parse::<u32>().ok().filter(|&id| (id as usize) < vocab);
            let wrong = || format!("logit_bias: {token:?} is not the id of a token (0 to {})", vocab.saturating_sub(1));
            let id = id.ok_or_else(|| ApiError::invalid("logit_bias", wrong()))?;
            match (-100.0..=100.0).contains(&bias) {
                true => Ok((id, bias)),
                false => Err(ApiError::invalid("logit_bias", format!("logit_bias: {bias} is not from -100 to 100"))),
            }
        };
        biases.map(bias).collect()
    }
}

/// One string or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

/// Returns the stop strings of a request.
///
/// # Errors
/// If there are too many, or one is empty or too long.
pub fn stops(stop: Option<OneOrMore>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => vec![],
        Some(OneOrMore::One(stop)) => vec![stop],
        Some(OneOrMore::More(stops)) => stops,
    };
    if stops.len() > MOST_STOPS {
        return Err(ApiError::invalid("stop", format!("stop: at most {MOST_STOPS} strings")));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > LONGEST_STOP) {
        return Err(ApiError::invalid("stop", format!("stop: each string must have 1 to {LONGEST_STOP} bytes")));
    }
    Ok(stops)
}

/// What requests for text have in common.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct TextOptions {
    /// The model, and a layer of its file if not all of it is wanted: `name`, `name:2` or `name:3.5bpw`.
    pub model: Option<String>,
    /// How many continuations, or answers.
    pub n: Option<usize>,
    /// Strings that end the text.
    pub stop: Option<OneOrMore>,
    /// Whether the text goes on after tokens that would end it.
    pub ignore_eos: Option<bool>,
    /// Whether the answer comes in pieces.
    pub stream: Option<bool>,
    /// Options for that.
    pub stream_options: Option<StreamOptions>,
    /// How tokens are chosen.
    #[serde(flatten)]
    pub sampling: Sampling,
}

impl TextOptions {
    /// Whether the answer comes in pieces, and if so, whether the numbers of tokens come at its end.
    pub fn streamed(&self) -> Option<bool> {
        let usage = self.stream_options.unwrap_or_default().include_usage.unwrap_or(false);
        self.stream.unwrap_or(false).then_some(usage)
    }
}

/// Options of answers that are streamed.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct StreamOptions {
    /// Whether the numbers of tokens are sent at the end.
    pub include_usage: Option<bool>,
}

/// Returns the number of continuations.
///
/// # Errors
/// If it is not from 1 to `most`.
pub fn count(n: Option<usize>, most: usize) -> Result<usize, ApiError> {
    match n.unwrap_or(1) {
        n if (1..=most).contains(&n) => Ok(n),
        n => Err(ApiError::invalid("n", format!("n = {n}: must be from 1 to {most}"))),
    }
}

/// Returns how many of the most likely tokens are reported.
///
/// # Errors
/// If it is more than 20.
pub fn top_logprobs(name: &str, count: usize) -> Result<usize, ApiError> {
    match count {
        0..=20 => Ok(count),
        _ => Err(ApiError::invalid(name, format!("{name} = {count}: must be at most 20"))),
    }
}
