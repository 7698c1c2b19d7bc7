//! Stop strings in streamed text.

use crate::{Result, TextError};

/// Finds the first stop string to be completed, wherever it is split between pieces. Holds back text that may be the
/// start of a stop string.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// The result of one piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Text that is not part of a stop string.
    Text(String),
    /// The text before a stop string, and the stop string. The text ends here.
    Stop(String, String),
}

impl StopMatcher {
    /// Creates a matcher for any of `stops`.
    ///
    /// # Errors
    /// [`TextError::BadOption`] for an empty stop string, which would match everywhere.
    pub fn new(stops: &[String]) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            let rule = "a stop string must not be empty";
            return Err(TextError::BadOption { name: "stop", value: "\"\"".into(), rule });
        }
        Ok(Self { stops: stops.to_vec(), held: String::new() })
    }

    /// Processes the next piece of the text.
    pub fn push(&mut self, piece: &str) -> Stopped {
        self.held.push_str(piece);
        // The match that ends first wins, so the result does not depend on how the text is split. Of matches that end
        // together, the longest wins.
        let ends = self.stops.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at + s.len(), at, s)));
        if let Some((_, start, stop)) = ends.min_by_key(|&(end, start, _)| (end, start)) {
            let stop = stop.clone();
            self.held.truncate(start);
            return Stopped::Stop(std::mem::take(&mut self.held), stop);
        }
        let keep = self.possible_beginning();
        let safe = self.held.len() - keep;
        let rest = self.held.split_off(safe);
        Stopped::Text(std::mem::replace(&mut self.held, rest))
    }

    /// Returns the text that is still held back, at the end.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest suffix of the held text that is a proper prefix of a stop string.
    fn possible_beginning(&self) -> usize {
        let begins = |stop: &String| {
            let longest = (stop.len() - 1).min(self.held.len());
            (1..=longest).rev().find(|&n| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n])).unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Extends the text character by character and looks for a stop string at its end.
    fn naive(text: &str, stops: &[String]) -> (String, Option<String>) {
        for end in (1..=text.len()).filter(|&n| text.is_char_boundary(n)) {
            let matching = stops.iter().filter(|s| text[..end].ends_with(s.as_str()));
            if let Some(stop) = matching.max_by_key(|s| s.len()) {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_cutting_gives_the_naive_answer(
            pieces in prop::collection::vec("[abé]{0,4}", 0..8), stops in prop::collection::vec("[abé]{1,4}", 0..4)
        ) {
            let mut matcher = StopMatcher::new(&stops).unwrap();
            let mut shown = String::new();
            let mut stopped = None;
            for piece in &pieces {
                match matcher.push(piece) {
                    Stopped::Text(text) => shown.push_str(&text),
                    Stopped::Stop(text, stop) => {
                        shown.push_str(&text);
                        stopped = Some(stop);
                        break;
                    }
                }
            }
            if stopped.is_none() {
                shown.push_str(&matcher.finish());
            }
            prop_assert_eq!((shown, stopped), naive(&pieces.concat(), &stops));
        }
    }

    #[test]
    fn shows_what_is_certain() {
        let mut matcher = StopMatcher::new(&["\n\nUser:".into()]).unwrap();
        assert_eq!(matcher.push("Yes.\n"), Stopped::Text("Yes.".into()));
        assert_eq!(matcher.push("\nUs"), Stopped::Text(String::new()));
        assert_eq!(matcher.push("e it"), Stopped::Text("\n\nUse it".into()));
        assert!(StopMatcher::new(&[String::new()]).is_err());
    }
}
