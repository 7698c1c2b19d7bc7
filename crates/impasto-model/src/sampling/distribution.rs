//! The distribution of the next token.

use super::filter::Kept;

/// The distribution that a token is drawn from. Its tokens are sorted only as far as they are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution(Form);

#[derive(Clone, Debug, PartialEq)]
enum Form {
    One(u32),
    Kept(Box<Kept>),
}

impl Distribution {
    /// The distribution that always gives one token.
    pub fn certain(token: u32) -> Distribution {
        Distribution(Form::One(token))
    }

    /// What the filters keep, of which `best` is the most likely token; that alone if nothing is kept.
    pub(super) fn of_kept(mut kept: Kept, best: u32) -> Distribution {
        match kept.settle() {
            0 | 1 => Distribution::certain(best),
            _ => Distribution(Form::Kept(Box::new(kept))),
        }
    }

    /// Returns the probability of a token.
    pub fn probability(&mut self, token: u32) -> f64 {
        match &mut self.0 {
            Form::One(one) => f64::from(u8::from(*one == token)),
            Form::Kept(kept) => kept.probability(token),
        }
    }

    /// Draws a token. `uniform` returns a number from 0 to 1, without 1; it is called if there is more than one token.
    pub fn draw(&mut self, uniform: impl FnOnce() -> f64) -> u32 {
        match &mut self.0 {
            Form::One(one) => *one,
            Form::Kept(kept) => kept.draw(uniform()).unwrap_or_default(),
        }
    }

    /// Returns the tokens and their probabilities, most likely first.
    pub fn all(&mut self) -> Vec<(u32, f64)> {
        match &mut self.0 {
            Form::One(one) => vec![(*one, 1.0)],
            Form::Kept(kept) => kept.probabilities(),
        }
    }
}
