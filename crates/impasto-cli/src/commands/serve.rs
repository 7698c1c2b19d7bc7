//! `impasto serve`: models over HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use impasto::format::{Limits, Source};
use impasto::{Arriving, Live};
use impasto_runtime::{KvMemory, KvUpgrade, Residence, RunOptions};
use impasto_serve::api::App;
use impasto_serve::engine::{Engine, EngineOptions};
use impasto_serve::guard::Guard;
use impasto_serve::http::listen;
use impasto_serve::metrics::Metrics;
use impasto_serve::models::{Catalog, CatalogOptions, Loaded, Opener, Opening};
use impasto_serve::{GuardOptions, Pooling, ServeOptions};

use crate::args::serve::{LogForm, PoolingArg, Serve};
use crate::args::{Args, Streaming};
use crate::drafts::DraftLayer;
use crate::exit::{Code, UsageError};
use crate::incoming::{Incoming, is_address, name_of};
use crate::live::first_stage;
use crate::model::{bases, memory_limit};
use crate::signals::Interruptible;

/// The environment variable with an API key.
const API_KEY: &str = "IMPASTO_API_KEY";
/// How often a signal is looked for.
const POLL: Duration = Duration::from_millis(50);

pub fn run(args: &Args, command: &Serve) -> anyhow::Result<Code> {
    log(args, command.log);
    let how = command.streaming.kv_upgrade.unwrap_or(KvUpgrade::Recompute);
    if how == KvUpgrade::Residual {
        return Err(UsageError("--kv-upgrade residual is for run and chat").into());
    }
    let options = options(command)?;
    let catalog = Arc::new(catalog(args, command, how)?);
    let engine = Engine::start(EngineOptions { parallel: options.parallel, queue: options.queue })
        .context("cannot start the engine")?;
    let app = Arc::new(App { catalog, engine, options, metrics: Arc::new(Metrics::new()) });
    let guard = (app.options.guard.share > 0.0).then(|| Guard::start(app.clone())).transpose();
    let guard = guard.context("cannot start the guardrails")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let interruptible = Interruptible::by_all_signals();
    runtime.block_on(async {
        for name in &command.preload {
            app.catalog.get(Some(name)).await?;
        }
        let address = SocketAddr::new(command.host, command.port);
        let listening = listen(app.clone(), address).await.with_context(|| format!("cannot listen at {address}"))?;
        let open = app.options.api_keys.is_empty() && !command.host.is_loopback();
        if open {
            tracing::warn!("there are no API keys: everybody who reaches this address may use the server");
        }
        tracing::info!("listening at http://{}", listening.address);
        let ended = async {
            while !interruptible.is_interrupted() {
                tokio::time::sleep(POLL).await;
            }
            tracing::info!("ending; running requests may go on for {} s", command.grace);
        };
        listening.serve(ended).await;
        anyhow::Ok(())
    })?;
    drop(guard);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(Code::Success)
}

/// Starts the log.
fn log(args: &Args, form: LogForm) {
    let level = if args.quiet { tracing::Level::WARN } else { tracing::Level::INFO };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).with_ansi(false);
    // Fails only if there is a log already.
    let _ = match form {
        LogForm::Text => tracing::subscriber::set_global_default(log.with_target(false).finish()),
        LogForm::Json => tracing::subscriber::set_global_default(log.json().flatten_event(true).finish()),
    };
}

fn options(command: &Serve) -> anyhow::Result<ServeOptions> {
    Ok(ServeOptions {
        parallel: command.parallel,
        queue: command.queue,
        max_tokens: command.max_tokens.unwrap_or(usize::MAX),
        max_body: usize::try_from(command.max_body).unwrap_or(usize::MAX),
        timeout: Duration::from_secs(command.request_timeout),
        connections: command.max_connections,
        api_keys: keys(command.api_key_file.as_deref())?,
        allow_origins: command.allow_origin.clone(),
        allow_hosts: command.allow_host.clone(),
        grace: Duration::from_secs(command.grace),
        pooling: command.embeddings.map(|pooling| match pooling {
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Last => Pooling::Last,
            PoolingArg::First => Pooling::First,
        }),
        log_text: command.log_text,
        guard: GuardOptions {
            share: command.guard.unwrap_or(0.0),
            threshold: command.guard_threshold,
            window: command.guard_window,
        },
        ..ServeOptions::default()
    })
}

/// Returns the API keys of a file and of the environment.
fn keys(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let mut keys = Vec::new();
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        keys.extend(
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned),
        );
        if keys.is_empty() {
            bail!("{}: no API key in it", file.display());
        }
    }
    keys.extend(std::env::var(API_KEY).ok().filter(|key| !key.trim().is_empty()).map(|key| key.trim().to_owned()));
    Ok(keys)
}

/// Opens all models.
fn catalog(args: &Args, command: &Serve, how: KvUpgrade) -> anyhow::Result<Catalog> {
    let memory = memory_limit(args);
    let kv = command.kv_memory.unwrap_or(memory / 4);
    if kv >= memory {
        return Err(UsageError("--kv-memory must be below --memory-limit: weights need the rest").into());
    }
    let limits = Limits { allow_expansion: args.allow_expansion, ..Limits::within(memory) };
    let opener =
        Opener { bases: bases(args, args.allow_expansion, vec![]), limits: limits.clone(), memory_limit: memory };
    let run = command.running.options(args, Residence::Packed)?;
    if run.residence == Residence::Float && command.guard.is_some() {
        return Err(UsageError("--guard is for --residence packed and coded").into());
    }
    if command.streaming.stream && command.drafts.draft_layer.is_some() {
        return Err(UsageError("--draft-layer is for files that are there, so not with --stream").into());
    }
    let options = CatalogOptions {
        opener,
        run: run.clone(),
        memory_limit: memory.saturating_sub(kv),
        kv_memory: KvMemory::new(usize::try_from(kv).unwrap_or(usize::MAX)),
        drafts: command.drafts.of_server(),
        watched: command.guard.unwrap_or(0.0),
    };
    let models = command.models.iter().map(|model| named(model)).collect::<anyhow::Result<Vec<_>>>()?;
    let arrives = |path: &Path| command.streaming.stream || is_address(path);
    let (arriving, there): (Vec<_>, Vec<_>) = models.into_iter().partition(|(_, path)| arrives(path));
    let kv_memory = options.kv_memory.clone();
    let mut catalog = Catalog::new(there, options)?;
    if let Some(DraftLayer::Layer(layer)) = command.drafts.draft_layer {
        let most = catalog.summaries().iter().map(|summary| summary.layers.len()).max().unwrap_or(0);
        if layer >= most {
            return Err(UsageError("--draft-layer: no file has this layer and a finer one").into());
        }
    }
    for (id, path) in arriving {
        let left = memory.saturating_sub(kv).saturating_sub(catalog.memory_bytes());
        let run = RunOptions { memory_limit: Some(left), kv_memory: Some(kv_memory.clone()), ..run.clone() };
        let (file, opening, loaded) = arrive(args, &command.streaming, id, &path, limits.clone(), &run, how)?;
        catalog.add_live(file, opening, Arc::new(loaded))?;
    }
    Ok(catalog)
}

/// Begins to serve a model as soon as the first layer of its file is there.
fn arrive(
    args: &Args,
    streaming: &Streaming,
    id: String,
    path: &Path,
    limits: Limits,
    run: &RunOptions,
    how: KvUpgrade,
) -> anyhow::Result<(PathBuf, Opening, Loaded)> {
    let (begun, name) = (Instant::now(), name_of(path));
    let mut incoming = Incoming::begin(args, path, streaming)?;
    let arriving = Arriving::new(incoming.source.clone(), name.clone(), limits);
    let stage = first_stage(args, &arriving, &mut incoming, &name)?;
    let mut opening = Opening::of(&arriving.open(&stage)?, stage.bytes_of);
    if opening.layers.len() < stage.of {
        opening.layers.push((stage.bytes_of, None, false));
    }
    let file = incoming.file.clone();
    let live = Live::start(arriving, stage, run).with_context(|| name)?;
    tracing::info!(
        model = id,
        layer = stage.number,
        layers = stage.of,
        seconds = begun.elapsed().as_secs_f64(),
        "serving while the file arrives"
    );
    let bits = opening.bits();
    Ok((file, opening, Loaded::live(id, bits, live, Box::new(Arrived(incoming)), how)))
}

/// A file that arrives.
struct Arrived(Incoming);

impl impasto_serve::models::Incoming for Arrived {
    fn arrived(&self) -> u64 {
        self.0.source.len()
    }
}

/// Returns the name and the path of a model: as given, or that of its file.
fn named(model: &str) -> anyhow::Result<(String, PathBuf)> {
    let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '\\', ':']);
    if !Path::new(model).exists()
        && let Some((name, path)) = model.split_once('=').filter(|(name, _)| is_name(name))
    {
        return Ok((name.to_owned(), PathBuf::from(path)));
    }
    let path = PathBuf::from(model);
    let last = name_of(&path);
    let last = last.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    let name = [".impasto", ".gguf", ".safetensors"].iter().find_map(|end| last.strip_suffix(end)).unwrap_or(last);
    let name = name.split('@').next().unwrap_or(name);
    let is_good = is_name(name) && name != "." && name != "..";
    if !is_good {
        bail!("{model}: name the model, as in NAME={model}");
    }
    Ok((name.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_by_their_files() {
        let name = |model| named(model).map(|(name, path)| (name, path.display().to_string())).ok();
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(name("/x/smol.impasto"), pair("smol", "/x/smol.impasto"));
        assert_eq!(name("a/model-Q4.gguf"), pair("model-Q4", "a/model-Q4.gguf"));
        assert_eq!(name("folder/"), pair("folder", "folder/"));
        assert_eq!(name("me=/x/smol.impasto"), pair("me", "/x/smol.impasto"));
        assert_eq!(name("https://a.example/m.impasto?key=1"), pair("m", "https://a.example/m.impasto?key=1"));
        assert_eq!(name("x=https://a.example/m.impasto"), pair("x", "https://a.example/m.impasto"));
        assert_eq!(name(".."), None);
    }
}
