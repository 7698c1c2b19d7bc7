//! How long the stages of a command take.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};

/// Seconds by stage, in the order in which stages began.
pub struct Stages(Mutex<State>);

struct State {
    spent: Vec<(&'static str, f64)>,
    since: Instant,
    stage: &'static str,
}

impl Stages {
    /// Begins the first stage.
    pub fn begin(stage: &'static str) -> Stages {
        Stages(Mutex::new(State { spent: vec![], since: Instant::now(), stage }))
    }

    /// Ends the current stage and begins another, unless it is the same.
    pub fn enter(&self, stage: &'static str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stage != stage {
            state.end();
            state.stage = stage;
        }
    }

    /// Ends the current stage. Returns the seconds of all.
    pub fn end(self) -> Vec<(&'static str, f64)> {
        let mut state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.end();
        state.spent
    }
}

impl State {
    fn end(&mut self) {
        let now = Instant::now();
        let seconds = (now - self.since).as_secs_f64();
        self.since = now;
        match self.spent.iter_mut().find(|(stage, _)| *stage == self.stage) {
            Some((_, sum)) => *sum += seconds,
            None => self.spent.push((self.stage, seconds)),
        }
    }
}

/// Returns stages as a JSON object.
pub fn to_json(stages: &[(&'static str, f64)]) -> Value {
    Value::Object(stages.iter().map(|(stage, seconds)| ((*stage).to_owned(), json!(seconds))).collect::<Map<_, _>>())
}

/// Returns stages as a line of text.
pub fn to_text(stages: &[(&'static str, f64)]) -> String {
    let parts: Vec<String> = stages.iter().map(|(stage, seconds)| format!("{stage} {seconds:.1} s")).collect();
    format!("time: {}\n", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up() {
        let stages = Stages::begin("a");
        ["a", "b", "b", "a", "c"].into_iter().for_each(|stage| stages.enter(stage));
        let spent = stages.end();
        assert_eq!(spent.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(spent.iter().all(|(_, seconds)| *seconds >= 0.0));
        assert_eq!(to_text(&[("rates", 1.25), ("coding", 0.0)]), "time: rates 1.2 s, coding 0.0 s\n");
        assert_eq!(to_json(&[("rates", 1.25)]), json!({ "rates": 1.25 }));
    }
}
