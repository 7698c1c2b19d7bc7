//! A text that is written within a grammar.

use llguidance::TokenParser;
use llguidance::toktrie::SimpleVob;

use crate::{Result, TextError};

/// Follows a text token by token, and tells which tokens may come next. A clone continues on its own.
pub struct Matcher {
    inner: llguidance::Matcher,
    mask: SimpleVob,
    vocab: usize,
}

impl Clone for Matcher {
    fn clone(&self) -> Self {
        // Not sharing the tables of the lexer lets both run at the same time.
        Self { inner: self.inner.deep_clone(), mask: self.mask.clone(), vocab: self.vocab }
    }
}

impl Matcher {
    pub(super) fn new(parser: TokenParser, vocab: usize) -> Result<Self> {
        let inner = llguidance::Matcher::new(Ok(parser));
        match inner.get_error() {
            Some(error) => Err(TextError::grammar(&error)),
            None => Ok(Self { inner, mask: SimpleVob::new(), vocab }),
        }
    }

    /// Returns the tokens that may come next: token `i` is bit `i % 32` of word `i / 32`. They include the tokens that end
    /// the text, if it may end here, and are only these if it must.
    ///
    /// # Errors
    /// [`TextError::Grammar`] if the mask exceeds a limit, or no token of the vocabulary can come next; the matcher is then of
    /// no more use.
    pub fn mask(&mut self) -> Result<&[u32]> {
        self.mask = self.inner.compute_mask_or_eos().map_err(|error| {
            let message = error.to_string();
            let is_stuck = message.lines().next() == Some("NoExtensionBias");
            TextError::grammar(if is_stuck { "no token of the vocabulary can come next" } else { &message })
        })?;
        Ok(self.mask.as_slice())
    }

    /// Adds a token to the text.
    ///
    /// # Errors
    /// [`TextError::Grammar`] if the token is not allowed here; the matcher is then of no more use.
    pub fn commit(&mut self, token: u32) -> Result<()> {
        if token as usize >= self.vocab {
            return Err(TextError::grammar(&format!("token {token} is not in the vocabulary")));
        }
        self.inner.consume_token(token).map_err(|error| TextError::grammar(&error.to_string()))
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// [`TextError::Grammar`] after another error.
    pub fn is_accepting(&mut self) -> Result<bool> {
        self.inner.is_accepting().map_err(|error| TextError::grammar(&error.to_string()))
    }

    /// Whether nothing can follow: the text is complete, or a token that ends it was committed.
    pub fn must_stop(&self) -> bool {
        self.inner.is_stopped()
    }
}
