//! Mode decision: several tools try one thing, and the one of least `J = D + lambda R` is kept.
//!
//! What is tried is a tile ([`crate::tools`]) or the tables of a tensor ([`crate::shapes`]). A tool says what the result errs by, `D`, and
//! what it costs exactly, `R`; nothing is written until its outcome is taken, so a trial that loses leaves no trace.
//!
//! **To add a tool for tiles**, implement [`Tool`] for it in a module beside [`crate::tools`], and add it to the list of `exact_tools` or
//! `lossy_tools` there: no other place decides how a tile is coded.

/// What a tool made of something.
pub struct Trial<'t, T> {
    /// Bits that it takes, in 2^-16 bit.
    pub bits: u64,
    /// What is kept if it wins: units, tables.
    pub outcome: T,
    /// What it errs by; called where tools have to be compared.
    distortion: Box<dyn Fn() -> f64 + 't>,
}

impl<'t, T> Trial<'t, T> {
    /// One that errs by nothing.
    pub fn exact(bits: u64, outcome: T) -> Self {
        Self::lossy(bits, outcome, || 0.0)
    }

    /// One that errs by `distortion`, in the unit that `lambda` of [`choose`] has for a bit.
    pub fn lossy(bits: u64, outcome: T, distortion: impl Fn() -> f64 + 't) -> Self {
        Trial { bits, outcome, distortion: Box::new(distortion) }
    }

    /// `D + lambda R`.
    fn cost(&self, lambda: f64) -> f64 {
        (self.distortion)() + lambda * (self.bits as f64 / 65536.0)
    }
}

/// A way to code an `S`; its outcome is a `T`.
pub trait Tool<S, T, E> {
    /// Tries it. `best`: the best trial so far, for tools that see cheaply that they will not be better, or that only stand in.
    /// `None` if the tool cannot code this, or sees that it is no better.
    ///
    /// # Errors
    /// Its own; they end the decision.
    fn attempt<'t>(&'t self, subject: &'t S, best: Option<&Trial<T>>) -> Result<Option<Trial<'t, T>>, E>;
}

/// The best trial of all tools, at `lambda` units of distortion for a bit; of equal ones the first. `None` if no tool can code it.
///
/// # Errors
/// The first of a tool.
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

    /// Rounds numbers to a multiple of itself, and says how many bits of a byte that leaves.
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
