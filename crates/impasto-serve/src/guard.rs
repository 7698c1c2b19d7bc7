//! Guardrails.

/// What the guardrails have done to a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardState {
    /// The profile that it runs in.
    pub profile: Profile,
    /// Blocks that were promoted.
    pub promoted: usize,
}

/// How a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// As it was loaded.
    #[default]
    AsRequested,
    /// Some blocks have finer weights.
    Promoted,
    /// All have the finest.
    Conservative,
}

impl Profile {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Profile::AsRequested => "as requested",
            Profile::Promoted => "promoted",
            Profile::Conservative => "conservative",
        }
    }
}
