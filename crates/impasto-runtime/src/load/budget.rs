//! The memory that weights may take.

use std::sync::atomic::{AtomicUsize, Ordering};

use impasto_model::{ModelError, Result};

/// A limit on memory, and how much of it is used, in bytes.
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Creates a budget of `limit` bytes of which `used` are used.
    pub(crate) fn new(limit: usize, used: usize) -> Budget {
        Budget { limit, used: used.into() }
    }

    /// Checks that there are `bytes` left. Call it before memory is allocated.
    ///
    /// # Errors
    /// [`ModelError::MemoryLimit`] if there are not.
    pub(crate) fn admit(&self, bytes: usize) -> Result<()> {
        self.check(self.used.load(Ordering::Relaxed).saturating_add(bytes))
    }

    /// Uses `bytes`.
    ///
    /// # Errors
    /// As for [`Self::admit`]; the bytes then count as used too.
    pub(crate) fn spend(&self, bytes: usize) -> Result<()> {
        let add = |used: usize| Some(used.saturating_add(bytes));
        let used = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_else(|used| used);
        self.check(used.saturating_add(bytes))
    }

    fn check(&self, bytes: usize) -> Result<()> {
        match self.limit {
            limit if bytes > limit => Err(ModelError::MemoryLimit { bytes: bytes as u64, limit: limit as u64 }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_not_admitted_again() {
        let budget = Budget::new(100, 10);
        assert!(budget.admit(90).is_ok() && budget.admit(91).is_err());
        assert!(budget.spend(50).is_ok());
        assert!(budget.admit(40).is_ok() && budget.admit(41).is_err());
        let error = budget.spend(60);
        assert!(matches!(error, Err(ModelError::MemoryLimit { bytes: 120, limit: 100 })), "{error:?}");
        assert!(budget.spend(usize::MAX).is_err() && budget.admit(0).is_err());
    }
}
