//! `impasto fetch`.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use impasto::{Bases, Cut};
use impasto_container::{Base, Limits};
use impasto_fetch::{
    Address, BaseFile, Bringer, Cancel, Done, Extent, Fetch, FetchError, Goal, Options, Request, Watch, bring_bases,
};
use indicatif::ProgressBar;
use serde_json::json;

use crate::args::{self, Args};
use crate::exit::{Code, UsageError};
use crate::model::memory_limit;
use crate::output::{bytes, print, print_json, print_notes, shown};
use crate::progress::bytes_bar;
use crate::signals::{Interruptible, end_interrupted};

/// How often the command looks whether it is interrupted.
const TICK: Duration = Duration::from_millis(50);

pub fn run(args: &Args, command: &args::Fetch) -> anyhow::Result<Code> {
    let extent = match command.cut.cut() {
        None => Extent::Whole,
        Some(Cut::Bytes(bytes)) => Extent::Bytes(bytes),
        Some(Cut::BitsPerWeight(bits)) => Extent::BitsPerWeight(bits),
        Some(Cut::Layer(layer)) => Extent::Layer(layer),
        Some(Cut::Parts(_)) => {
            return Err(UsageError("--layer takes one number here: what is fetched is the first part of a file").into());
        }
    };
    let address = Address::parse(&command.url)?;
    let limits = Limits { allow_expansion: true, ..Limits::within(memory_limit(args)) };
    let request = Request {
        extent,
        force: command.force,
        limits: limits.clone(),
        options: command.link.options()?,
        ..Request::new(address.clone(), &command.output)
    };
    let options = request.options.clone();
    let interruptible = Interruptible::begin();
    let done = fetch(args, request, &interruptible, &command.output)?;
    let bases = match &done.base {
        Some(base) if command.bases => {
            let bases = fetch_bases(args, &command.output, &address, limits, options, &interruptible);
            bases.with_context(|| format!("the base {} was not fetched", shown(&base.name)))?
        }
        Some(base) => {
            note_missing(args, &command.output, base);
            vec![]
        }
        None => vec![],
    };
    drop(interruptible);
    report(args, &command.output, &done, &bases)
}

/// Shows on a bar what happens.
struct Shown {
    is_quiet: bool,
    bar: OnceLock<ProgressBar>,
}

impl Shown {
    fn new(args: &Args) -> Arc<Shown> {
        Arc::new(Shown { is_quiet: args.quiet, bar: OnceLock::new() })
    }

    fn clear(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Shown {
    fn begun(&self, goal: &Goal) {
        let bar = self.bar.get_or_init(|| bytes_bar(self.is_quiet, goal.bytes));
        bar.set_length(goal.bytes);
    }

    fn arrived(&self, _units: u32, bytes: u64) {
        if let Some(bar) = self.bar.get() {
            // What was there before says nothing about the rate.
            let is_first = bar.position() == 0;
            bar.set_position(bytes);
            match is_first {
                true => bar.reset_eta(),
                false => bar.set_message(""),
            }
        }
    }

    fn retrying(&self, error: &FetchError, wait: Duration) {
        if let Some(bar) = self.bar.get() {
            bar.set_message(format!("(again in {:.0} s: {})", wait.as_secs_f64().ceil(), shown(&error.to_string())));
        }
    }
}

/// Fetches a file, until it is there or Ctrl-C interrupts it.
fn fetch(args: &Args, request: Request, interruptible: &Interruptible, path: &Path) -> anyhow::Result<Done> {
    let watch = Shown::new(args);
    let fetch = Fetch::start(request, watch.clone())?;
    while !fetch.wait(TICK, |_| false).is_over {
        if interruptible.is_interrupted() {
            fetch.canceller().cancel();
        }
    }
    let progress = fetch.progress();
    let done = fetch.join();
    watch.clear();
    match (done, progress.goal) {
        (Err(FetchError::Cancelled), goal) => {
            let left = match goal {
                Some(goal) => format!(
                    "interrupted: {} holds {} of {} units, and can be used; the same command continues it",
                    path.display(),
                    progress.units,
                    goal.units
                ),
                None => "interrupted before anything was written".to_owned(),
            };
            eprintln!("impasto: {}", shown(&left));
            end_interrupted()
        }
        (done, _) => Ok(done?),
    }
}

fn fetch_bases(
    args: &Args,
    delta: &Path,
    from: &Address,
    limits: Limits,
    options: Options,
    interruptible: &Interruptible,
) -> anyhow::Result<Vec<BaseFile>> {
    let folder = Bases::cache_folder().context("there is no cache folder: neither XDG_CACHE_HOME nor HOME is set")?;
    let bases = Bases::new(args.base.clone());
    let cancel = Cancel::default();
    let watches = std::sync::Mutex::new(Vec::new());
    let watch = |_: &Base| -> Arc<dyn Watch> {
        let watch = Shown::new(args);
        watches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(watch.clone());
        watch
    };
    let bringer = Bringer {
        folder,
        find: &|path, base| bases.find(path, base),
        limits,
        options,
        cancel: cancel.clone(),
        watch: &watch,
    };
    let brought = std::thread::scope(|scope| {
        let brought = std::thread::Builder::new().spawn_scoped(scope, || bring_bases(delta, from, &bringer))?;
        while !brought.is_finished() {
            std::thread::sleep(TICK);
            if interruptible.is_interrupted() {
                cancel.cancel();
            }
        }
        Ok::<_, std::io::Error>(brought.join())
    })?;
    watches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().for_each(|watch| watch.clear());
    match brought {
        Ok(Err(FetchError::Cancelled)) => {
            eprintln!("impasto: interrupted; the same command continues with the bases");
            end_interrupted()
        }
        Ok(brought) => Ok(brought?),
        Err(_) => Err(anyhow::anyhow!("the thread that fetches bases ended too early")),
    }
}

/// Says which base is missing, and how to get it.
fn note_missing(args: &Args, delta: &Path, base: &Base) {
    if Bases::new(args.base.clone()).find(delta, base).is_some() {
        return;
    }
    let root = impasto::hex(&base.root);
    let mirrors = match base.mirrors.len() {
        0 => "the file names no mirrors".to_owned(),
        _ => format!("--bases fetches it from: {}", base.mirrors.join(", ")),
    };
    print_notes(&[format!("it is a delta of {}, which is not here (root {root}); {mirrors}", base.name)]);
}

fn report(args: &Args, path: &Path, done: &Done, bases: &[BaseFile]) -> anyhow::Result<Code> {
    let seconds = done.time.as_secs_f64();
    if args.json {
        let base = |base: &BaseFile| {
            json!({
                "name": base.name, "root": impasto::hex(&base.root), "file": base.path.display().to_string(),
                "fetched": base.fetched.is_some(), "received": base.fetched.as_ref().map_or(0, |done| done.received),
            })
        };
        let bases: Vec<_> = bases.iter().map(base).collect();
        return print_json(&json!({
            "url": done.url, "file": path.display().to_string(), "root": impasto::hex(&done.root),
            "bytes": done.bytes, "bytes_of": done.bytes_of, "bytes_before": done.bytes_before,
            "units": done.units, "units_of": done.units_of, "layers": done.layers, "layers_of": done.layers_of,
            "whole": done.units == done.units_of, "seconds": seconds, "received": done.received,
            "requests": done.requests, "retries": done.retries, "bases": bases,
        }))
        .map(|()| Code::Success);
    }
    let mut text = format!("{}: {}", path.display(), bytes(done.bytes));
    if done.units < done.units_of {
        text += &format!(" of {}", bytes(done.bytes_of));
    }
    text += &format!(", {} of {} units", done.units, done.units_of);
    if done.layers_of > 0 {
        text += &format!(", {} of {} layers", done.layers, done.layers_of);
    }
    let rate = bytes((done.received as f64 / seconds.max(1e-3)) as u64);
    text += &format!("\nreceived {} in {seconds:.1} s ({rate} per second)", bytes(done.received));
    text += &format!(", {} requests, {} retries\n", done.requests, done.retries);
    for base in bases {
        let how = if base.fetched.is_some() { "fetched" } else { "there already" };
        text += &format!("base {}: {} ({how})\n", base.name, base.path.display());
    }
    print(&text)?;
    Ok(Code::Success)
}
