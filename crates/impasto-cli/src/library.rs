//! The command's jobs for programs that are no command line. They take the words of the command, so that options have the same
//! names, rules and messages, return what `--json` prints, and print nothing but the warning about a licence.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgGroup, ArgMatches, CommandFactory, FromArgMatches, Id};
use impasto::{Cut, File};
use impasto_core::Isa;
use impasto_runtime::{Model, Residence};
use serde_json::Value;

use crate::args::{Args, Command, Run};
use crate::commands::{calibrate, encode, truncate, verify};
use crate::exit::{UsageError, WordsError};
use crate::incoming::is_address;
use crate::model;
use crate::progress::Watcher;

/// Encodes a checkpoint: `impasto encode` with these words.
///
/// # Errors
/// As for the command. If it is cancelled, no file is written.
pub fn encode(words: &[OsString], watcher: &dyn Watcher) -> anyhow::Result<Value> {
    let args = parse("encode", words)?;
    let Command::Encode(command) = &args.command else { return Err(other()) };
    Ok(encode::job(&args, command, watcher)?.to_json())
}

/// Calibrates a model: `impasto calibrate` with these words.
///
/// # Errors
/// As for the command. If it is cancelled, no file is written.
pub fn calibrate(words: &[OsString], watcher: &dyn Watcher) -> anyhow::Result<Value> {
    let args = parse("calibrate", words)?;
    let Command::Calibrate(command) = &args.command else { return Err(other()) };
    Ok(calibrate::job(&args, command, watcher)?.to_json())
}

/// Truncates a file: `impasto truncate` with these words.
///
/// # Errors
/// As for the command.
pub fn truncate(words: &[OsString]) -> anyhow::Result<Value> {
    let args = parse("truncate", words)?;
    let Command::Truncate(command) = &args.command else { return Err(other()) };
    Ok(truncate::job(&args, command)?.to_json())
}

/// Verifies a file: `impasto verify` with these words. Damage is a result, not an error.
///
/// # Errors
/// If the file cannot be opened or read.
pub fn verify(words: &[OsString]) -> anyhow::Result<Value> {
    let args = parse("verify", words)?;
    let Command::Verify(command) = &args.command else { return Err(other()) };
    let (root, verdict) = verify::job(&args, command)?;
    Ok(verify::to_json(command, &root, &verdict))
}

/// Fetches a file: `impasto fetch` with these words.
///
/// # Errors
/// As for the command. If it is cancelled, what has been verified stays, and the next call continues there.
#[cfg(feature = "fetch")]
pub fn fetch(words: &[OsString], watcher: &dyn Watcher) -> anyhow::Result<Value> {
    let args = parse("fetch", words)?;
    let Command::Fetch(command) = &args.command else { return Err(other()) };
    crate::commands::fetch::job(&args, command, watcher)
}

/// Options of `impasto run` for opening a file: how much of it, its bases, limits, and how it is fetched.
const OPENING: &[&str] = &[
    "model",
    "prompt",
    "quiet",
    "budget",
    "layer",
    "bpw",
    "base",
    "memory_limit",
    "allow_expansion",
    "connections",
    "tries",
    "timeout",
    "ca_file",
    "header",
    "token_file",
];
/// Further ones for loading a model.
const LOADING: &[&str] = &["threads", "residence", "activations", "kv", "context", "cache", "cache_limit"];

/// Opens an .impasto file with its bases, with those words of `impasto run` that say how. An address is fetched first, to the cache
/// folder: as much of it as the cut needs.
///
/// # Errors
/// If it cannot be fetched or opened, or not be cut like that.
pub fn open(words: &[OsString], watcher: &dyn Watcher) -> anyhow::Result<File> {
    let args = parse_run(words, &[OPENING])?;
    let Command::Run(command) = &args.command else { return Err(other()) };
    let cut = command.cut.cut();
    model::open(&args, &here(command, cut.as_ref(), watcher)?, cut.as_ref())
}

/// Loads a model from an .impasto file or a checkpoint, with those words of `impasto run` that say how. An address is fetched as
/// [`open`] does.
///
/// # Errors
/// As for the command.
pub fn load(words: &[OsString], watcher: &dyn Watcher) -> anyhow::Result<Model> {
    let args = parse_run(words, &[OPENING, LOADING])?;
    let Command::Run(command) = &args.command else { return Err(other()) };
    let (cut, options) = (command.cut.cut(), command.running.options(&args, Residence::Packed)?);
    let path = here(command, cut.as_ref(), watcher)?;
    model::load_silently(&args, &path, cut.as_ref(), &options, &command.drafts)
}

/// Returns the path of a model, which is fetched if it is an address.
#[cfg(feature = "fetch")]
fn here(command: &Run, cut: Option<&Cut>, watcher: &dyn Watcher) -> anyhow::Result<PathBuf> {
    use impasto_fetch::{Address, Request};

    use crate::commands::fetch::{extent, fetch_told};
    use crate::incoming::cached;

    let link = &command.streaming.link;
    if !is_address(&command.model) {
        return match link.is_given() {
            true => Err(UsageError("options for fetching need an address").into()),
            false => Ok(command.model.clone()),
        };
    }
    let text = command.model.to_str().context("an address is UTF-8")?;
    let (file, extent, options) = (cached(text)?, extent(cut)?, link.options()?);
    // Of a file of the cache, only the newest is of use.
    let request = Request { extent, force: true, options, ..Request::new(Address::parse(text)?, &file) };
    fetch_told(request, watcher)?;
    Ok(file)
}

#[cfg(not(feature = "fetch"))]
fn here(command: &Run, _cut: Option<&Cut>, _watcher: &dyn Watcher) -> anyhow::Result<PathBuf> {
    match is_address(&command.model) {
        true => Err(UsageError("this program was built without the feature `fetch`, which addresses need").into()),
        false => Ok(command.model.clone()),
    }
}

/// Parses words of `impasto run` that are all among `allowed`, so that none is ignored.
fn parse_run(words: &[OsString], allowed: &[&[&str]]) -> anyhow::Result<Args> {
    // Nothing is generated; the parser wants a prompt.
    let matches = matches("run", &[&["--prompt=".into()], words].concat())?;
    let run = matches.subcommand_matches("run").ok_or_else(other)?;
    let command = Args::command();
    let groups: Vec<&ArgGroup> =
        command.find_subcommand("run").into_iter().flat_map(clap::Command::get_groups).collect();
    let is_group = |id: &&Id| groups.iter().any(|group| group.get_id() == *id);
    let is_given = |id: &&Id| run.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    for id in run.ids().filter(is_given).filter(|id| !is_group(id)) {
        if !allowed.iter().any(|ids| ids.contains(&id.as_str())) {
            return Err(WordsError(format!("--{} is not for this", id.as_str().replace('_', "-"))).into());
        }
    }
    Ok(Args::from_arg_matches(&matches)?)
}

/// Parses the words of a command.
fn parse(command: &str, words: &[OsString]) -> anyhow::Result<Args> {
    Ok(Args::from_arg_matches(&matches(command, words)?)?)
}

/// Finds the options in the words of a command.
fn matches(command: &str, words: &[OsString]) -> anyhow::Result<ArgMatches> {
    Isa::from_environment().context(Isa::VARIABLE)?; // Later readers ignore an invalid value.
    let first = ["impasto", "--quiet", command].map(OsStr::new);
    let all = first.into_iter().chain(words.iter().map(OsString::as_os_str));
    Args::command().try_get_matches_from(all).map_err(|error| {
        // The lines after an empty one say how to use the command line.
        let text = error.render().to_string();
        let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
        let line = lines.collect::<Vec<_>>().join(" ");
        WordsError(line.strip_prefix("error: ").unwrap_or(&line).to_owned()).into()
    })
}

/// The error that words named another command, which they cannot: the first word does.
fn other() -> anyhow::Error {
    UsageError("these words are for another command").into()
}

/// Returns whether an error says that something was cancelled.
pub fn is_cancelled(error: &anyhow::Error) -> bool {
    use impasto::encode::EncodeError;
    let of_fetch = |_cause: &(dyn std::error::Error + 'static)| {
        #[cfg(feature = "fetch")]
        return matches!(_cause.downcast_ref(), Some(impasto_fetch::FetchError::Cancelled));
        #[cfg(not(feature = "fetch"))]
        false
    };
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(EncodeError::Cancelled)) || of_fetch(cause))
}

/// Returns whether an error says that a file is not there.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    use impasto::{CheckpointError, FileError};
    use impasto_container::ContainerError;
    let of_container = |error: &ContainerError| match error {
        ContainerError::Io { error, .. } => Some(error.kind()),
        _ => None,
    };
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return Some(error.kind());
        }
        match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref()) {
            (Some(FileError::Container(error)), ..) | (_, Some(error), _) => of_container(error),
            (.., Some(CheckpointError::Io { error, .. })) => Some(error.kind()),
            _ => None,
        }
    };
    error.chain().any(|cause| kind(cause) == Some(std::io::ErrorKind::NotFound))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Watcher for Nobody {
        fn step(&self, _step: crate::progress::Step) -> std::ops::ControlFlow<()> {
            std::ops::ControlFlow::Continue(())
        }
    }

    fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
        words.map(OsString::from).to_vec()
    }

    #[test]
    fn words_that_do_not_parse_are_one_line_of_usage() {
        let error = open(&words(["a.impasto", "--layer=x"]), &Nobody).map(|_| ()).unwrap_err();
        assert_eq!(crate::code_of(&error), crate::Code::Usage);
        assert_eq!(
            error.to_string(),
            "invalid value 'x' for '--layer <N|KEY=N,...>': \"x\" is not a layer number; layers count from 1"
        );
        let error = open(&words(["nothing.impasto", "--layer=1", "--memory-limit=8GB", "--base=x"]), &Nobody);
        assert!(is_not_found(&error.map(|_| ()).unwrap_err()));
        let error = open(&words(["a.impasto", "--temperature=1"]), &Nobody).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "--temperature is not for this");
        let error = load(&words(["a.impasto", "--draft-layer=1"]), &Nobody).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "--draft-layer is not for this");
        let error = encode(&words(["model"]), &Nobody).unwrap_err();
        assert_eq!(error.to_string(), "the following required arguments were not provided: --output <FILE>");
    }

    #[test]
    fn a_missing_file_is_told_from_others() {
        let error = open(&words(["nothing/here.impasto"]), &Nobody).map(|_| ()).unwrap_err();
        assert!(is_not_found(&error), "{error:#}");
        let error = open(&words(["Cargo.toml"]), &Nobody).map(|_| ()).unwrap_err();
        assert!(!is_not_found(&error), "{error:#}");
    }
}
