//! The options of sampling.

use crate::{ModelError, Result};

/// How the next token is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token and disables the filters below.
    pub temperature: f32,
    /// Keep the k most likely tokens, and those as likely as the k-th; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens until their probabilities sum to this (Holtzman et al., arXiv 1904.09751); 1 keeps
    /// all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely (arXiv 2407.01082); 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens already in the context are divided by this if positive, multiplied if negative (Keskar et al.,
    /// arXiv 1909.05858); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that were generated before (as in the OpenAI API), from -2 to 2; 0 changes
    /// nothing.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens that were generated before, as often as they were, from -2 to 2; 0 changes
    /// nothing.
    pub frequency_penalty: f32,
    /// Seed of the random stream.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks that every option is in its range.
    ///
    /// # Errors
    /// [`ModelError::BadOption`] naming the first that is not.
    pub fn validate(&self) -> Result<()> {
        let rule = |good: bool, name: &'static str, value: f32, rule: &'static str| {
            if good { Ok(()) } else { Err(ModelError::BadOption { name, value: value.to_string(), rule }) }
        };
        let t = self.temperature;
        rule(t.is_finite() && t >= 0.0, "temperature", t, "must be 0 or more")?;
        rule(self.top_p > 0.0 && self.top_p <= 1.0, "top-p", self.top_p, "must be above 0 and at most 1")?;
        rule((0.0..=1.0).contains(&self.min_p), "min-p", self.min_p, "must be from 0 to 1")?;
        let r = self.repetition_penalty;
        rule(r.is_finite() && r > 0.0, "repetition-penalty", r, "must be above 0")?;
        let penalties = [("presence-penalty", self.presence_penalty), ("frequency-penalty", self.frequency_penalty)];
        penalties.into_iter().try_for_each(|(name, p)| rule((-2.0..=2.0).contains(&p), name, p, "must be from -2 to 2"))
    }
}
