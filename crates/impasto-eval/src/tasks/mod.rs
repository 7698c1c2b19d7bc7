//! Accuracy on multiple-choice tasks, as measured by lm-evaluation-harness (Gao et al.; the tasks `arc_easy` and
//! `piqa`, with output type `multiple_choice`).
//!
//! The score of a choice is the log-likelihood of its tokens after the question. `acc` counts an item as correct if the
//! correct choice has the highest log-likelihood, `acc_norm` if it has the highest log-likelihood per character, not
//! counting the space before the choice. Of equal scores the first wins.
//!
//! With a reference, both models answer each item, each with its own tokenizer. The error of the difference is that of
//! the paired differences. It is far smaller than that of either accuracy, as two variants of a model agree on most
//! items.

mod error;
mod file;
mod subject;

use serde::{Deserialize, Serialize};

pub use error::{LineRule, TaskError};
pub use file::{Item, MAX_LINE, Task};
pub use subject::Subject;

use super::Estimate;

/// A figure for each way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// By log-likelihood.
    pub acc: Estimate,
    /// By log-likelihood per character.
    pub acc_norm: Estimate,
}

/// A comparison of a model with a reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Accuracy of the reference, from 0 to 1.
    pub reference: Figures,
    /// Accuracy of the model minus that of the reference, with the error of the paired difference.
    pub difference: Figures,
    /// Share of items on which both choose the same.
    pub same: Figures,
}

/// The results of a model on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Name of the task.
    pub task: String,
    /// Number of items.
    pub items: usize,
    /// Accuracy, from 0 to 1.
    pub model: Figures,
    /// The comparison with the reference, if there is one.
    pub comparison: Option<Comparison>,
}

/// Progress of a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskProgress<'a> {
    /// Name of the task.
    pub task: &'a str,
    /// Number of items scored.
    pub done: usize,
    /// Number of items in total.
    pub items: usize,
    /// Accuracy of the model under test so far.
    pub acc: f64,
}

/// The choices of a model on an item: by log-likelihood, and by log-likelihood per character.
type Chosen = [usize; 2];

/// Scores `model`, and `reference` if there is one, on every item of `task`. `on_progress` is called after each item.
///
/// # Errors
/// [`TaskError::Model`] if a model cannot score an item, for example because it exceeds the context.
pub fn evaluate(
    model: &Subject<'_>,
    reference: Option<&Subject<'_>>,
    task: &Task,
    on_progress: &mut dyn FnMut(TaskProgress<'_>),
) -> Result<TaskReport, TaskError> {
    let items = task.items.len();
    let (mut ours, mut theirs): (Vec<Chosen>, Vec<Chosen>) = Default::default();
    let mut right = 0;
    for (item, done) in task.items.iter().zip(1..) {
        let choose = |subject: &Subject<'_>| match subject.log_likelihoods(item) {
            Ok(scores) => Ok(chosen(&scores, &item.choices)),
            Err(source) => Err(TaskError::Model { file: task.file.clone(), line: item.line, source }),
        };
        ours.push(choose(model)?);
        theirs.extend(reference.map(choose).transpose()?);
        right += u32::from(ours.last().is_some_and(|chosen| chosen[0] == item.gold));
        on_progress(TaskProgress { task: &task.name, done, items, acc: f64::from(right) / done as f64 });
    }
    let mark = |chosen: &[Chosen], i: usize, way: usize| f64::from(u8::from(chosen[i][way] == task.items[i].gold));
    let comparison = reference.map(|_| Comparison {
        reference: figures(items, |i, way| mark(&theirs, i, way)),
        difference: figures(items, |i, way| mark(&ours, i, way) - mark(&theirs, i, way)),
        same: figures(items, |i, way| f64::from(u8::from(ours[i][way] == theirs[i][way]))),
    });
    let model = figures(items, |i, way| mark(&ours, i, way));
    Ok(TaskReport { task: task.name.clone(), items, model, comparison })
}

/// Returns the choices with the highest of `scores`, their log-likelihoods.
fn chosen(scores: &[f64], choices: &[String]) -> Chosen {
    let normed: Vec<f64> = scores.iter().zip(choices).map(|(s, choice)| s / choice.chars().count() as f64).collect();
    [first_best(scores), first_best(&normed)]
}

/// Index of the highest score, the first if there are several.
fn first_best(scores: &[f64]) -> usize {
    let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (0..scores.len()).reduce(better).unwrap_or(0)
}

/// Means over items of a value that depends on the item and the way to choose.
fn figures(items: usize, value: impl Fn(usize, usize) -> f64) -> Figures {
    let mean = |way| Estimate::mean(&(0..items).map(|i| value(i, way)).collect::<Vec<_>>());
    Figures { acc: mean(0), acc_norm: mean(1) }
}

#[cfg(test)]
mod tests;
