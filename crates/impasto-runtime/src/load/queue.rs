//! Loads matrices on all workers at once.
//!
//! A matrix of a small model has a few tile rows, too few to keep many workers busy, and each wait for all of them has a
//! cost. So workers do not wait: each takes the next tile row of an open matrix, or opens the next matrix. Whoever
//! finishes the last tile row of a matrix closes it, so that the tables of few matrices are in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use impasto_model::{Difference, LatticeRows, ModelError, Result};

use super::of_base::{OfBase, Place};
use super::parts::{HalfParts, LatticeParts};
use super::{MatrixLoader, Residence, Wanted};
use crate::matrix::Matrix;

/// What became of a matrix.
pub(super) enum Found {
    /// It was loaded.
    Matrix(Matrix),
    /// It is on a lattice, but cannot be packed, for this reason.
    Refused(String),
    /// It is not read in parts.
    Whole,
}

/// A matrix that is being read.
enum Parts<'a> {
    Lattice(LatticeParts<'a>),
    Halves(HalfParts<'a>),
    /// Integers that are added to a matrix of a base.
    Added(LatticeParts<'a>, Box<Place<'a>>),
}

/// A matrix with parts that no worker has taken.
struct Open<'a> {
    index: usize,
    parts: Arc<Parts<'a>>,
    next: usize,
}

/// What is left to do, and what was done.
struct State<'a> {
    open: Vec<Open<'a>>,
    /// The next matrix to open.
    next: usize,
    found: Vec<Option<Found>>,
    /// The error of the first matrix that has one.
    failed: Option<(usize, ModelError)>,
}

enum Task<'a> {
    Open(usize),
    Read(usize, Arc<Parts<'a>>, usize),
}

/// Loads the matrices that are read in parts.
///
/// # Errors
/// A tensor that cannot be read; matrices above the memory limit.
pub(super) fn load<'a>(loader: &MatrixLoader<'a>, wanted: &[Wanted<'a>], of_base: &OfBase) -> Result<Vec<Found>> {
    let found = wanted.iter().map(|_| None).collect();
    let state = Mutex::new(State { open: Vec::new(), next: 0, found, failed: None });
    loader.pool.run(loader.pool.threads(), &|_, _| {
        let mut rows = LatticeRows::default();
        loop {
            let Some(task) = lock(&state).task(wanted.len()) else { return };
            let index = task.index();
            if let Err(error) = perform(loader, wanted, of_base, task, &mut rows, &state) {
                lock(&state).fail(index, error);
            }
        }
    });
    let State { found, failed, .. } = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed {
        Some((_, error)) => Err(error),
        None => Ok(found.into_iter().map(|found| found.unwrap_or(Found::Whole)).collect()),
    }
}

fn lock<'s, 'a>(state: &'s Mutex<State<'a>>) -> MutexGuard<'s, State<'a>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn perform<'a>(
    loader: &MatrixLoader<'a>,
    wanted: &[Wanted<'a>],
    of_base: &OfBase,
    task: Task<'a>,
    rows: &mut LatticeRows,
    state: &Mutex<State<'a>>,
) -> Result<()> {
    let (index, parts, part) = match task {
        Task::Read(index, parts, part) => (index, parts, part),
        Task::Open(index) => {
            let opened = match Parts::open(loader, wanted[index], of_base)? {
                Ok(parts) if parts.count() == 0 => Err(parts.finish(loader)?),
                opened => opened,
            };
            let mut state = lock(state);
            match opened {
                Ok(parts) => state.open.push(Open { index, parts: Arc::new(parts), next: 0 }),
                Err(found) => state.found[index] = Some(found),
            }
            return Ok(());
        }
    };
    match &*parts {
        Parts::Halves(halves) => halves.read(loader, part)?,
        Parts::Lattice(lattice) | Parts::Added(lattice, _) => {
            if let Err(error) = lattice.read(loader, part, rows)? {
                lock(state).refuse(index, error.to_string());
                return Ok(());
            }
        }
    }
    // The last worker that lets go of the parts owns them.
    let Some(parts) = Arc::into_inner(parts) else { return Ok(()) };
    let is_refused = lock(state).found[index].is_some();
    if !is_refused {
        let found = parts.finish(loader)?;
        lock(state).found[index] = Some(found);
    }
    Ok(())
}

impl<'a> Parts<'a> {
    /// Opens a matrix, or says why it is not read in parts.
    fn open(loader: &MatrixLoader<'a>, wanted: Wanted<'a>, of_base: &OfBase) -> Result<Result<Self, Found>> {
        if loader.residence == Residence::Coded {
            return Ok(Err(Found::Whole));
        }
        if let Some((place, difference)) = of_base.place(loader, wanted)? {
            let Difference { lattice, low_rank, sparse } = difference;
            let place = place.with(loader, low_rank, sparse)?;
            return Ok(match lattice {
                None => Err(Found::Matrix(place.fill(loader, None)?)),
                Some(tensor) => match LatticeParts::of(loader, wanted, tensor)? {
                    Ok(lattice) => Ok(Parts::Added(lattice, Box::new(place))),
                    Err(error) => Err(Found::Refused(error.to_string())),
                },
            });
        }
        if let Some(lattice) = LatticeParts::open(loader, wanted)? {
            return Ok(lattice.map(Parts::Lattice).map_err(|error| Found::Refused(error.to_string())));
        }
        Ok(HalfParts::open(loader, wanted)?.map(Parts::Halves).ok_or(Found::Whole))
    }

    fn count(&self) -> usize {
        match self {
            Parts::Lattice(lattice) | Parts::Added(lattice, _) => lattice.count(),
            Parts::Halves(halves) => halves.count(),
        }
    }

    fn finish(self, loader: &MatrixLoader<'_>) -> Result<Found> {
        Ok(match self {
            Parts::Halves(halves) => Found::Matrix(Matrix::Dense(halves.finish())),
            Parts::Lattice(lattice) => match lattice.finish(loader) {
                Ok(matrix) => {
                    loader.budget.spend(matrix.memory_bytes())?;
                    Found::Matrix(Matrix::Packed(matrix))
                }
                Err(error) => Found::Refused(error.to_string()),
            },
            Parts::Added(lattice, place) => match lattice.finish(loader) {
                Ok(matrix) => Found::Matrix(place.fill(loader, Some(matrix))?),
                Err(error) => Found::Refused(error.to_string()),
            },
        })
    }
}

impl Task<'_> {
    fn index(&self) -> usize {
        match *self {
            Task::Open(index) | Task::Read(index, ..) => index,
        }
    }
}

impl<'a> State<'a> {
    /// Takes a task; `None` if there is none, or a matrix cannot be read.
    fn task(&mut self, matrices: usize) -> Option<Task<'a>> {
        if self.failed.is_some() {
            return None;
        }
        if let Some(open) = self.open.first_mut() {
            let (index, part) = (open.index, open.next);
            open.next += 1;
            let is_last = open.next >= open.parts.count();
            let parts = if is_last { self.open.remove(0).parts } else { open.parts.clone() };
            return Some(Task::Read(index, parts, part));
        }
        self.next += 1;
        (self.next <= matrices).then(|| Task::Open(self.next - 1))
    }

    fn fail(&mut self, index: usize, error: ModelError) {
        if self.failed.as_ref().is_none_or(|(first, _)| index < *first) {
            self.failed = Some((index, error));
        }
    }

    /// Gives up a matrix that cannot be packed. The reason is that of the first part to be refused.
    fn refuse(&mut self, index: usize, reason: String) {
        self.open.retain(|open| open.index != index);
        if !matches!(self.found[index], Some(Found::Refused(_))) {
            self.found[index] = Some(Found::Refused(reason));
        }
    }
}
