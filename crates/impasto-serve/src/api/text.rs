//! From the tokens of a continuation to its text.

use std::sync::Arc;

use impasto_text::tokenizer::StreamDecoder;
use impasto_text::{StopMatcher, Stopped, Tokenizer};

use super::error::ApiError;
use crate::engine::Scored;

/// A piece of text that is final.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// The tokens that it was made of.
    pub tokens: Vec<Scored>,
    /// Whether a stop string ends it.
    pub is_stopped: bool,
}

/// The text of one continuation, as its tokens come.
pub struct Text {
    decoder: StreamDecoder<Arc<Tokenizer>>,
    stops: StopMatcher,
    /// Tokens whose text is not final.
    held: Vec<Scored>,
}

impl Text {
    /// Begins the text after a prompt.
    ///
    /// # Errors
    /// A stop string that is empty.
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        prompt: &[u32],
        stops: &[String],
        with_special: bool,
    ) -> Result<Text, ApiError> {
        let decoder = StreamDecoder::new(tokenizer.clone(), prompt);
        let decoder = if with_special { decoder.with_special() } else { decoder };
        Ok(Text { decoder, stops: StopMatcher::new(stops)?, held: Vec::new() })
    }

    /// Appends a token and returns what is final now.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, token: Scored) -> Result<Piece, ApiError> {
        let text = self.decoder.push(token.token)?;
        self.held.push(token);
        Ok(self.piece(&text))
    }

    /// Appends a token that has no text.
    pub fn push_end(&mut self, token: Scored) {
        self.held.push(token);
    }

    /// Ends the text and returns the rest.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn finish(&mut self) -> Result<Piece, ApiError> {
        let rest = self.decoder.finish()?;
        let mut piece = self.piece(&rest);
        if !piece.is_stopped {
            piece.text.push_str(&self.stops.finish());
            piece.tokens.append(&mut self.held);
        }
        Ok(piece)
    }

    fn piece(&mut self, text: &str) -> Piece {
        match self.stops.push(text) {
            Stopped::Text(text) if text.is_empty() => Piece::default(),
            Stopped::Text(text) => Piece { text, tokens: std::mem::take(&mut self.held), is_stopped: false },
            // The last token began or completed the stop string, so it is not part of the text.
            Stopped::Stop(text, _) => {
                self.held.pop();
                let tokens = if text.is_empty() { Vec::new() } else { std::mem::take(&mut self.held) };
                Piece { text, tokens, is_stopped: true }
            }
        }
    }
}
