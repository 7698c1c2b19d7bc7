//! `impasto fetch`.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use impasto::{Bases, Cut};
use impasto_container::{Base, Limits};
use impasto_fetch::{
    Address, BaseFile, Bringer, Cancel, Done, Extent, Fetch, FetchError, Goal, Request, Watch, bring_bases,
};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::args::{self, Args};
use crate::exit::{Code, UsageError};
use crate::model::memory_limit;
use crate::output::{bytes, print, print_json, print_notes, shown};
use crate::progress::{Step, Watcher, bytes_bar};
use crate::signals::{Interruptible, end_interrupted};

/// How often the command looks whether it is interrupted.
const TICK: Duration = Duration::from_millis(50);

pub fn run(args: &Args, command: &args::Fetch) -> anyhow::Result<Code> {
    let request = request(args, command)?;
    let interruptible = Interruptible::begin();
    let done = fetch(args, request.clone(), &interruptible, &command.output)?;
    let bases = match &done.base {
        Some(base) if command.bases => {
            let watches = Mutex::new(Vec::new());
            let watch = |_: &Base| -> Arc<dyn Watch> {
                let watch = Shown::new(args);
                watches.lock().unwrap_or_else(PoisonError::into_inner).push(watch.clone());
                watch
            };
            let bases = fetch_bases(args, &request, &watch, &|| interruptible.is_interrupted());
            watches.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|watch| watch.clear());
            if bases.as_ref().is_err_and(is_cancelled) {
                eprintln!("impasto: interrupted; the same command continues with the bases");
                end_interrupted()
            }
            bases.with_context(|| not_fetched(base))?
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

/// Fetches a file, and its bases if that is requested. Returns the result for programs.
pub fn job(args: &Args, command: &args::Fetch, watcher: &dyn Watcher) -> anyhow::Result<Value> {
    let request = request(args, command)?;
    let done = fetch_told(request.clone(), watcher)?;
    let bases = match &done.base {
        Some(base) if command.bases => {
            let step = || Step::new("fetching bases", [0, 0], "fetching bases");
            let bases = fetch_bases(args, &request, &|_| Arc::new(()), &|| watcher.step(step()).is_break());
            bases.with_context(|| not_fetched(base))?
        }
        _ => vec![],
    };
    Ok(to_json(&command.output, &done, &bases))
}

fn not_fetched(base: &Base) -> String {
    format!("the base {} was not fetched", shown(&base.name))
}

fn is_cancelled(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(FetchError::Cancelled))
}

/// Returns what the command line requests.
fn request(args: &Args, command: &args::Fetch) -> anyhow::Result<Request> {
    let extent = extent(command.cut.cut().as_ref())?;
    let limits = Limits { allow_expansion: true, ..Limits::within(memory_limit(args)) };
    let (force, options) = (command.force, command.link.options()?);
    Ok(Request { extent, force, limits, options, ..Request::new(Address::parse(&command.url)?, &command.output) })
}

/// Returns the part of a file that a cut needs.
pub fn extent(cut: Option<&Cut>) -> Result<Extent, UsageError> {
    Ok(match cut {
        None => Extent::Whole,
        Some(Cut::Bytes(bytes)) => Extent::Bytes(*bytes),
        Some(Cut::BitsPerWeight(bits)) => Extent::BitsPerWeight(*bits),
        Some(Cut::Layer(layer)) => Extent::Layer(*layer),
        Some(Cut::Parts(_)) => {
            return Err(UsageError("--layer takes one number here: what is fetched is the first part of a file"));
        }
    })
}

/// Fetches a file, and tells `watcher` how many bytes are there: before the first, and from time to time.
pub fn fetch_told(request: Request, watcher: &dyn Watcher) -> Result<Done, FetchError> {
    let step = |done: u64, goal: Option<Goal>| {
        let of = goal.map_or(0, |goal| goal.bytes);
        let message = format!("fetching, {} of {}", bytes(done), bytes(of));
        watcher.step(Step { stage: "fetching", done, of, message })
    };
    if step(0, None).is_break() {
        return Err(FetchError::Cancelled);
    }
    let fetch = Fetch::start(request, Arc::new(()))?;
    loop {
        let progress = fetch.wait(TICK, |_| false);
        if progress.is_over {
            return fetch.join();
        }
        if step(progress.bytes, progress.goal).is_break() {
            fetch.canceller().cancel();
        }
    }
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

/// Fetches the bases of the file of a request, until `is_cancelled` says otherwise.
fn fetch_bases(
    args: &Args,
    request: &Request,
    watch: &(dyn Fn(&Base) -> Arc<dyn Watch> + Sync),
    is_cancelled: &dyn Fn() -> bool,
) -> anyhow::Result<Vec<BaseFile>> {
    let folder = Bases::cache_folder().context("there is no cache folder: neither XDG_CACHE_HOME nor HOME is set")?;
    let bases = Bases::new(args.base.clone());
    let cancel = Cancel::default();
    let bringer = Bringer {
        folder,
        find: &|path, base| bases.find(path, base),
        limits: request.limits.clone(),
        options: request.options.clone(),
        cancel: cancel.clone(),
        watch,
    };
    let brought = std::thread::scope(|scope| {
        let bring = || bring_bases(&request.file, &request.address, &bringer);
        let brought = std::thread::Builder::new().spawn_scoped(scope, bring)?;
        while !brought.is_finished() {
            std::thread::sleep(TICK);
            if is_cancelled() {
                cancel.cancel();
            }
        }
        Ok::<_, std::io::Error>(brought.join())
    })?;
    match brought {
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
    if args.json {
        return print_json(&to_json(path, done, bases)).map(|()| Code::Success);
    }
    let seconds = done.time.as_secs_f64();
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

/// The result for programs.
fn to_json(path: &Path, done: &Done, bases: &[BaseFile]) -> Value {
    let base = |base: &BaseFile| {
        json!({
            "name": base.name, "root": impasto::hex(&base.root), "file": base.path.display().to_string(),
            "fetched": base.fetched.is_some(), "received": base.fetched.as_ref().map_or(0, |done| done.received),
        })
    };
    json!({
        "url": done.url, "file": path.display().to_string(), "root": impasto::hex(&done.root),
        "bytes": done.bytes, "bytes_of": done.bytes_of, "bytes_before": done.bytes_before,
        "units": done.units, "units_of": done.units_of, "layers": done.layers, "layers_of": done.layers_of,
        "whole": done.units == done.units_of, "seconds": done.time.as_secs_f64(), "received": done.received,
        "requests": done.requests, "retries": done.retries, "bases": bases.iter().map(base).collect::<Vec<_>>(),
    })
}
