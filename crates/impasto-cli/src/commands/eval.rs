//! `impasto eval`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context;
use impasto::Cut;
use impasto_eval::tasks::{Figures, Subject, Task, TaskProgress, TaskReport, evaluate};
use impasto_eval::{
    Compared, Estimate, EvalOptions, EvalText, Kld, Perplexity, Progress, Score as Scored, klds, perplexity,
};
use impasto_runtime::{Model, Residence, RunOptions};
use impasto_text::Tokenizer;
use serde_json::json;

use crate::args::{Args, Eval, Score, Text};
use crate::exit::Code;
use crate::model::{load, load_float};
use crate::output::{print, print_json, shown, table};
use crate::progress::bar;

pub fn run(args: &Args, what: &Eval) -> anyhow::Result<Code> {
    match what {
        Eval::Ppl { model, text, cut, running } => {
            let loaded = load(args, model, cut.cut().as_ref(), &running.options(args, Residence::Float)?)?;
            let (tokens, options) = prepare(args, model, &loaded, text)?;
            let progress = bar(args, 0);
            let mut on_progress = |p: Progress| progress.set_message(message(p));
            let result =
                perplexity(loaded.network(), &tokens, &options, &mut on_progress).with_context(|| name_of(text))?;
            progress.finish_and_clear();
            if args.json {
                print_json(&json!({ "model": model.display().to_string(), "perplexity": result }))?;
            } else {
                print(&ppl_line(model, &result))?;
            }
        }
        Eval::Kld { models, reference, text, cut, running } => {
            let options = running.options(args, Residence::Float)?;
            let loaded: Vec<Model> =
                models.iter().map(|model| load(args, model, cut.cut().as_ref(), &options)).collect::<Result<_, _>>()?;
            let original = load_float(args, reference, None)?;
            let (tokens, options) = prepare(args, reference, &original, text)?;
            let networks: Vec<_> = loaded.iter().map(Model::network).collect();
            let progress = bar(args, 0);
            let mut on_progress = |p: Progress| progress.set_message(message(p));
            let results = klds(original.network(), &networks, &tokens, &options, &mut on_progress);
            let results = results.with_context(|| name_of(text))?;
            progress.finish_and_clear();
            print_klds(args, models, reference, &results)?;
        }
        Eval::Tasks { model, tasks, reference, limit, cut, running } => {
            let options = running.options(args, Residence::Float)?;
            run_tasks(args, (model, cut.cut(), &options), reference.as_deref(), tasks, *limit)?;
        }
    }
    Ok(Code::Success)
}

/// One model has all its figures; several have a row each.
fn print_klds(args: &Args, models: &[PathBuf], reference: &Path, results: &[Compared]) -> anyhow::Result<()> {
    let json = |(model, of): (&PathBuf, &Compared)| {
        let (model, reference) = (model.display().to_string(), reference.display().to_string());
        json!({ "model": model, "reference": reference, "kld": of.kld, "minus_first": of.minus_first })
    };
    match (models, results) {
        ([model], [of]) if args.json => print_json(&json((model, of))),
        ([model], [of]) => print(&kld_text(model, reference, &of.kld)),
        _ if args.json => print_json(&models.iter().zip(results).map(json).collect()),
        _ => print(&klds_text(models, reference, results)),
    }
}

fn run_tasks(
    args: &Args,
    (model, cut, options): (&Path, Option<Cut>, &RunOptions),
    reference: Option<&Path>,
    tasks: &[PathBuf],
    limit: Option<usize>,
) -> anyhow::Result<()> {
    // Report errors in task files before loading models.
    let tasks: Vec<Task> = tasks.iter().map(|path| read_task(path, limit)).collect::<anyhow::Result<_>>()?;
    let loaded = load(args, model, cut.as_ref(), options)?;
    let original = reference.map(|path| Ok::<_, anyhow::Error>((path, load_float(args, path, None)?))).transpose()?;
    let original = original.as_ref().map(|(path, original)| subject(path, original)).transpose()?;
    let loaded = subject(model, &loaded)?;
    let items = tasks.iter().map(|task| task.items.len() as u64).sum();
    let progress = bar(args, items);
    let mut on_progress = |p: TaskProgress<'_>| {
        progress.inc(1);
        progress.set_message(format!("{} {}/{}: acc {:.2}%", shown(p.task), p.done, p.items, 100.0 * p.acc));
    };
    let score = |task| evaluate(&loaded, original.as_ref(), task, &mut on_progress);
    let reports: Vec<TaskReport> = tasks.iter().map(score).collect::<Result<_, _>>()?;
    progress.finish_and_clear();
    if args.json {
        let (model, reference) = (model.display().to_string(), reference.map(|path| path.display().to_string()));
        print_json(&json!({ "model": model, "reference": reference, "tasks": reports }))
    } else {
        print(&reports.iter().map(|report| task_text(model, reference, report)).collect::<Vec<_>>().join("\n"))
    }
}

fn read_task(path: &Path, limit: Option<usize>) -> anyhow::Result<Task> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone())?;
    Ok(Task::read(&name, BufReader::new(file), limit)?)
}

/// Returns the tokenizer of the model at `path`.
fn tokenizer<'a>(path: &Path, model: &'a Model) -> anyhow::Result<&'a Tokenizer> {
    model.tokenizer().with_context(|| path.display().to_string())
}

fn subject<'a>(path: &Path, model: &'a Model) -> anyhow::Result<Subject<'a>> {
    Ok(Subject::new(model.network(), tokenizer(path, model)?, model.eos())?)
}

fn name_of(text: &Text) -> String {
    text.text.display().to_string()
}

fn prepare(args: &Args, path: &Path, model: &Model, text: &Text) -> anyhow::Result<(EvalText, EvalOptions)> {
    let name = || name_of(text);
    let content = std::fs::read_to_string(&text.text).with_context(name)?;
    let score = match text.score {
        Score::All => Scored::All,
        Score::SecondHalf => Scored::SecondHalf,
    };
    let options = EvalOptions { ctx: text.ctx, score, windows: text.windows, threads: args.threads };
    Ok((EvalText::new(tokenizer(path, model)?, &content).with_context(name)?, options))
}

fn message(p: Progress) -> String {
    let kld = p.kld.map_or(String::new(), |kld| format!(", KLD {kld:.5}"));
    format!("window {}/{}: perplexity {:.3}{kld}", p.done, p.windows, p.perplexity)
}

fn pm(e: &Estimate, digits: usize) -> String {
    format!("{:.digits$} +- {:.digits$}", e.value, e.error)
}

fn ppl_line(name: &Path, p: &Perplexity) -> String {
    let of = format!("{} tokens in {} windows of {}", p.tokens, p.windows, p.ctx);
    format!("{}: perplexity {} ({of})\n", name.display(), pm(&p.perplexity, 4))
}

fn kld_text(model: &Path, reference: &Path, k: &Kld) -> String {
    let percent = |e: &Estimate| format!("{:.3}% +- {:.3}%", 100.0 * e.value, 100.0 * e.error);
    [
        ppl_line(reference, &k.reference),
        ppl_line(model, &k.model),
        format!("ln perplexity ratio  {}\n", pm(&k.delta_ln_ppl, 6)),
        format!("KLD mean             {} nats\n", pm(&k.mean, 6)),
        format!("KLD median           {:.6}\n", k.median),
        format!("KLD 90% 99% 99.9%    {:.6}  {:.6}  {:.6}\n", k.q90, k.q99, k.q999),
        format!("KLD max              {:.6}\n", k.max),
        format!("same top token       {}\n", percent(&k.same_top)),
    ]
    .concat()
}

fn klds_text(models: &[PathBuf], reference: &Path, results: &[Compared]) -> String {
    let header = ["model", "KLD mean, nats", "minus the first", "99%", "same top token", "perplexity"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (model, Compared { kld, minus_first }) in models.iter().zip(results) {
        rows.push(vec![
            shown(&model.display().to_string()),
            pm(&kld.mean, 5),
            pm(minus_first, 5),
            format!("{:.4}", kld.q99),
            format!("{:.2}%", 100.0 * kld.same_top.value),
            pm(&kld.model.perplexity, 3),
        ]);
    }
    let of = results.first().map_or(String::new(), |first| ppl_line(reference, &first.kld.reference));
    format!("{of}{}", table(&rows))
}

fn task_text(model: &Path, reference: Option<&Path>, r: &TaskReport) -> String {
    let percent = |e: &Estimate| format!("{:.2}% +- {:.2}%", 100.0 * e.value, 100.0 * e.error);
    let row = |name: String, f: &Figures| vec![name, percent(&f.acc), percent(&f.acc_norm)];
    let mut rows =
        vec![vec![format!("{}, {} items", shown(&r.task), r.items), "acc".to_owned(), "acc_norm".to_owned()]];
    rows.push(row(model.display().to_string(), &r.model));
    if let (Some(reference), Some(compared)) = (reference, &r.comparison) {
        rows.push(row(reference.display().to_string(), &compared.reference));
        rows.push(row("paired difference".to_owned(), &compared.difference));
        rows.push(row("same choice".to_owned(), &compared.same));
    }
    table(&rows)
}
