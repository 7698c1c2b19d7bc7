//! Multiple-choice tasks: how often the likeliest choice is the right one, as lm-evaluation-harness (Gao et al., the
//! tasks `arc_easy` and `piqa` of `multiple_choice` output type) measures it.
//!
//! Each choice is scored by the log-likelihood of its tokens after the question. `acc` counts an item as right when the
//! choice of the highest log-likelihood is the right one, `acc_norm` when the one of the highest log-likelihood over
//! length is, the length being the choice's characters without the blank before it; of equals the first is chosen.
//!
//! With a reference, each item is put to both models, each with its own tokenizer. The error of the difference is that of
//! the paired differences: on most items two variants of a model are right or wrong together, so it is far smaller than
//! that of either accuracy.

mod error;
mod file;
mod subject;

use serde::{Deserialize, Serialize};

pub use error::{LineRule, TaskError};
pub use file::{Item, MAX_LINE, Task};
pub use subject::Subject;

use super::Estimate;

/// A figure for both ways to choose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// By log-likelihood.
    pub acc: Estimate,
    /// By log-likelihood over the length of the choice.
    pub acc_norm: Estimate,
}

/// A model beside a reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Accuracy of the reference, from 0 to 1.
    pub reference: Figures,
    /// Accuracy of the model less that of the reference, with the error of the paired difference.
    pub difference: Figures,
    /// Share of items on which both choose the same.
    pub same: Figures,
}

/// What a model makes of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Name of the task.
    pub task: String,
    /// Items put to the model.
    pub items: usize,
    /// Accuracy, from 0 to 1.
    pub model: Figures,
    /// The same beside a reference, if there is one.
    pub comparison: Option<Comparison>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug)]
pub struct TaskProgress<'a> {
    /// Name of the task.
    pub task: &'a str,
    /// Items scored.
    pub done: usize,
    /// Items in all.
    pub items: usize,
    /// Accuracy so far, of the model under test.
    pub acc: f64,
}

/// The choices of a model on an item: by log-likelihood, and by log-likelihood over length.
type Chosen = [usize; 2];

/// Puts every item of `task` to `model`, and to `reference` beside it. `on_progress` is called after each item.
///
/// # Errors
/// [`TaskError::Model`] where a model cannot score an item, one longer than its context among them.
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

/// The choices that `scores`, their log-likelihoods, speak for.
fn chosen(scores: &[f64], choices: &[String]) -> Chosen {
    let normed: Vec<f64> = scores.iter().zip(choices).map(|(s, choice)| s / choice.chars().count() as f64).collect();
    [first_best(scores), first_best(&normed)]
}

/// Index of the highest score, the first of equals.
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
