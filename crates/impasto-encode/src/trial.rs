//! Mode decision: several tools try the same subject, and the one with the least `J = D + lambda R` is kept.
//!
//! The subject is a tile ([`crate::tools`]) or the tables of a tensor ([`crate::shapes`]). A tool reports the error `D`
//! of its result and its exact cost `R`. Nothing is written before an outcome is chosen, so a losing trial has no
//! effect.
//!
//! **To add a tool for tiles**, implement [`Tool`] in a module next to [`crate::tools`], and add it to the list in
//! `code_exact` or `code_lossy` there. No other place decides how a tile is coded.

/// The result of a tool.
pub struct Trial<'t, T> {
    /// Its cost, in units of 2^-16 bit.
    pub bits: u64,
    /// What is kept if it wins, such as units or tables.
    pub outcome: T,
    /// Computes its error; called only when tools are compared.
    distortion: Box<dyn Fn() -> f64 + 't>,
}

impl<'t, T> Trial<'t, T> {
    /// Creates a trial without error.
    pub fn exact(bits: u64, outcome: T) -> Self {
        Self::lossy(bits, outcome, || 0.0)
    }

    /// Creates a trial with an error `distortion`, in the unit that `lambda` of [`choose`] weighs against a bit.
    pub fn lossy(bits: u64, outcome: T, distortion: impl Fn() -> f64 + 't) -> Self {
        Trial { bits, outcome, distortion: Box::new(distortion) }
    }

    /// Returns `D + lambda R`.
    fn cost(&self, lambda: f64) -> f64 {
        (self.distortion)() + lambda * (self.bits as f64 / 65536.0)
    }
}

/// A way to code an `S`; its outcome is a `T`.
pub trait Tool<S, T, E> {
    /// Tries to code `subject`. `best` is the best trial so far, for tools that can tell cheaply that they are no
    /// better, or that are only a fallback. Returns `None` if the tool cannot code the subject, or is no better.
    ///
    /// # Errors
    /// Those of the tool. They end the decision.
    fn attempt<'t>(&'t self, subject: &'t S, best: Option<&Trial<T>>) -> Result<Option<Trial<'t, T>>, E>;
}

/// Returns the best trial of all tools, at `lambda` units of distortion per bit; among equal ones, the first. `None` if
/// no tool can code the subject.
///
/// # Errors
/// The first error of a tool.
pub fn choose<'t, S, T, E>(
    tools: &[&'t dyn Tool<S, T, E>],
    subject: &'t S,
    lambda: f64,
) -> Result<Option<Trial<'t, T>>, E> {
    let mut best: Option<Trial<T>> = None;
    for tool in tools {
        if let Some(trial) = tool.attempt(subject, best.as_ref())?
            && best.as_ref().is_none_or(|best| trial.cost(lambda) < best.cost(lambda))
        {
            best = Some(trial);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds numbers down to multiples of `self.0`, and reports how many bits per number that leaves.
    struct Multiple(u8);

    impl Tool<Vec<u8>, Vec<u8>, &'static str> for Multiple {
        fn attempt<'t>(
            &'t self,
            numbers: &'t Vec<u8>,
            best: Option<&Trial<Vec<u8>>>,
        ) -> Result<Option<Trial<'t, Vec<u8>>>, &'static str> {
            if self.0 == 0 {
                return Err("no multiple");
            }
            let bits = u64::from(8 - self.0.ilog2()) * numbers.len() as u64 * 65536;
            if best.is_some_and(|best| best.outcome == *numbers && best.bits <= bits) {
                return Ok(None);
            }
            let rounded: Vec<u8> = numbers.iter().map(|n| n / self.0 * self.0).collect();
            let error = |(a, b): (&u8, &u8)| f64::from(a - b).powi(2);
            let errors = rounded.clone();
            let distortion = move || numbers.iter().zip(&errors).map(error).sum();
            Ok(Some(Trial::lossy(bits, rounded, distortion)))
        }
    }

    fn chosen(numbers: &Vec<u8>, lambda: f64) -> Option<Vec<u8>> {
        let (one, two, eight) = (Multiple(1), Multiple(2), Multiple(8));
        choose(&[&one, &two, &eight], numbers, lambda).expect("multiples").map(|trial| trial.outcome)
    }

    #[test]
    fn lambda_trades_bits_for_error() {
        let numbers = vec![16, 8, 3, 31];
        assert_eq!(chosen(&numbers, 0.0), Some(numbers.clone()));
        assert_eq!(chosen(&numbers, 0.4), Some(numbers.clone()));
        assert_eq!(chosen(&numbers, 0.6), Some(vec![16, 8, 2, 30]));
        assert_eq!(chosen(&numbers, 1e6), Some(vec![16, 8, 0, 24]));
    }

    #[test]
    fn the_first_of_equals_and_errors() {
        let numbers = vec![2, 4];
        let (exact, broken) = (Trial::<Vec<u8>>::exact(3, vec![]), Multiple(0));
        assert_eq!(exact.cost(65536.0), 3.0);
        let (one, two): (Multiple, Multiple) = (Multiple(2), Multiple(2));
        let found = choose(&[&one, &two], &numbers, 1.0).expect("multiples").expect("a trial");
        assert_eq!(found.outcome, numbers);
        assert_eq!(choose(&[&one, &broken], &numbers, 1.0).err(), Some("no multiple"));
        assert!(choose::<Vec<u8>, Vec<u8>, ()>(&[], &numbers, 1.0).expect("no tools").is_none());
    }
}
