//! Models that run.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use impasto::run::{ChatOptions, GenerateOptions, Generation, Message, SamplingParams, StopReason, TextError};
use impasto_cli::library;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::de::DeserializeOwned;

use crate::errors::{exception, usage};
use crate::pool;
use crate::work::{self, watched};

/// A model in memory.
#[pyclass(frozen, module = "impasto._impasto")]
pub struct Model {
    model: Arc<impasto::run::Model>,
}

/// Takes how tokens are drawn, the options of `impasto run`, from a dictionary.
fn options_of(given: &Bound<'_, PyDict>, usual: GenerateOptions) -> PyResult<GenerateOptions> {
    let sampling = SamplingParams {
        temperature: value(given, "temperature")?,
        top_k: value(given, "top_k")?,
        top_p: value(given, "top_p")?,
        min_p: value(given, "min_p")?,
        repetition_penalty: value(given, "repetition_penalty")?,
        presence_penalty: value(given, "presence_penalty")?,
        frequency_penalty: value(given, "frequency_penalty")?,
        seed: value(given, "seed")?,
    };
    Ok(GenerateOptions { max_tokens: value(given, "max_tokens")?, sampling, stop: value(given, "stop")?, ..usual })
}

fn value<T: for<'a> FromPyObjectOwned<'a>>(given: &Bound<'_, PyDict>, name: &str) -> PyResult<T> {
    let value: PyResult<T> = given.as_any().get_item(name)?.extract().map_err(Into::into);
    value.map_err(|error| usage(format!("{name}: {}", error.value(given.py()))))
}

fn parsed<T: DeserializeOwned>(json: &str, what: &str) -> PyResult<T> {
    serde_json::from_str(json).map_err(|error| usage(format!("{what}: {error}")))
}

/// A prompt: text, or tokens.
#[derive(FromPyObject)]
enum Prompt {
    #[pyo3(transparent)]
    Text(String),
    #[pyo3(transparent)]
    Tokens(Vec<u32>),
}

#[pymethods]
impl Model {
    /// Loads a model with the words of `impasto run`; an address is fetched.
    #[new]
    #[pyo3(signature = (words, progress=None))]
    fn new(py: Python<'_>, words: Vec<OsString>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<Model> {
        let model = watched(py, progress, |watcher| pool::install(|| library::load(&words, watcher)))?;
        Ok(Model { model: Arc::new(model) })
    }

    /// Continues a prompt.
    fn generate(&self, py: Python<'_>, prompt: Prompt, options: &Bound<'_, PyDict>) -> PyResult<Pieces> {
        let options = options_of(options, self.model.generate_options())?;
        let tokens = match prompt {
            Prompt::Tokens(tokens) => tokens,
            Prompt::Text(text) => self.tokenize(py, &text, true)?,
        };
        Pieces::start(self.model.clone(), tokens, options)
    }

    /// Answers a conversation: messages, descriptions of functions and variables of the template, in JSON.
    fn chat(
        &self,
        py: Python<'_>,
        messages: &str,
        tools: &str,
        variables: &str,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<Pieces> {
        let messages: Vec<Message> = parsed(messages, "messages")?;
        let (tools, variables) = (parsed(tools, "tools")?, parsed(variables, "template_variables")?);
        let chat = ChatOptions { add_generation_prompt: true, tools, variables, ..ChatOptions::default() };
        let render = || {
            let template = self.model.chat_template()?;
            let tokens = self.model.tokenizer()?.encode(&template.render(&messages, &chat)?, false)?;
            Ok::<_, TextError>((tokens, self.model.chat_options(&template)))
        };
        let (tokens, usual) = py.detach(render).map_err(exception)?;
        Pieces::start(self.model.clone(), tokens, options_of(options, usual)?)
    }

    /// The tokens of a text, with special tokens at its ends if `special`.
    #[pyo3(signature = (text, special=true))]
    fn tokenize(&self, py: Python<'_>, text: &str, special: bool) -> PyResult<Vec<u32>> {
        let tokens = || self.model.tokenizer()?.encode(text, special);
        py.detach(tokens).map_err(exception)
    }

    /// The text of tokens, without special ones.
    fn detokenize(&self, py: Python<'_>, tokens: Vec<u32>) -> PyResult<String> {
        let text = || self.model.tokenizer()?.decode(&tokens, true);
        py.detach(text).map_err(exception)
    }

    /// Bytes of the weights in memory.
    #[getter]
    fn memory_bytes(&self) -> usize {
        self.model.memory_bytes()
    }

    /// Most tokens of a text.
    #[getter]
    fn max_context(&self) -> usize {
        self.model.network().max_context()
    }

    /// Number of threads.
    #[getter]
    fn threads(&self) -> usize {
        self.model.threads()
    }

    /// What the model does other than its configuration says.
    #[getter]
    fn notes(&self) -> Vec<String> {
        let warnings = self.model.warnings().iter().map(ToString::to_string);
        self.model.notes().iter().cloned().chain(warnings).collect()
    }
}

/// What the thread that generates sends.
enum Sent {
    Piece(String),
    End(anyhow::Result<Generation>),
}

/// Pieces that are generated ahead of their reader.
const AHEAD: usize = 1;

/// A text that is generated in a thread of its own, piece by piece.
#[pyclass(frozen, module = "impasto._impasto")]
pub struct Pieces {
    sent: Mutex<Receiver<Sent>>,
    is_unwanted: Arc<AtomicBool>,
    generation: Mutex<Option<Generation>>,
}

impl Pieces {
    fn start(model: Arc<impasto::run::Model>, prompt: Vec<u32>, options: GenerateOptions) -> PyResult<Pieces> {
        let (sender, sent) = mpsc::sync_channel(AHEAD);
        let is_unwanted = Arc::new(AtomicBool::new(false));
        let stop = is_unwanted.clone();
        let work = move || {
            let done = generate(&model, &prompt, &options, &sender, &stop);
            // Without a reader, nobody would take it.
            if !stop.load(Ordering::Relaxed) {
                let _ = sender.send(Sent::End(done));
            }
        };
        let spawned = thread::Builder::new().name("generate".to_owned()).spawn(work);
        spawned.context("cannot start threads").map_err(exception)?;
        Ok(Pieces { sent: Mutex::new(sent), is_unwanted, generation: Mutex::new(None) })
    }

    fn of<T>(&self, take: impl FnOnce(&Generation) -> T) -> Option<T> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(take)
    }
}

/// Generates until the text ends, or nobody wants it.
fn generate(
    model: &impasto::run::Model,
    prompt: &[u32],
    options: &GenerateOptions,
    sender: &SyncSender<Sent>,
    is_unwanted: &AtomicBool,
) -> anyhow::Result<Generation> {
    let mut stream = model.stream(prompt, options)?;
    let is_unwanted = || is_unwanted.load(Ordering::Relaxed);
    stream.prefill(&mut |_| if is_unwanted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })?;
    while let Some(piece) = stream.next() {
        if sender.send(Sent::Piece(piece?)).is_err() || is_unwanted() {
            stream.cancel();
        }
    }
    Ok(stream.finish())
}

#[pymethods]
impl Pieces {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        if self.is_unwanted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match work::next(py, &self.sent)? {
            Some(Sent::Piece(piece)) => Ok(Some(piece)),
            Some(Sent::End(done)) => {
                let done = done.map_err(exception)?;
                *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Stops the generation.
    fn close(&self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
        // The thread may wait for somebody to take a piece. Who holds the lock takes it.
        if let Ok(sent) = self.sent.try_lock() {
            while sent.try_recv().is_ok() {}
        }
    }

    /// All of the text, once it has ended.
    #[getter]
    fn text(&self) -> Option<String> {
        self.of(|generation| generation.text.clone())
    }

    /// The generated tokens, once the text has ended.
    #[getter]
    fn tokens(&self) -> Option<Vec<u32>> {
        self.of(|generation| generation.tokens.clone())
    }

    /// Number of tokens of the prompt, once the text has ended.
    #[getter]
    fn prompt_tokens(&self) -> Option<usize> {
        self.of(|generation| generation.prompt_tokens)
    }

    /// Why the text ended, once it has: "eos", "stop_string", "max_tokens", "context_full" or "cancelled".
    #[getter]
    fn stop_reason(&self) -> Option<&'static str> {
        self.of(|generation| match generation.stop {
            StopReason::Eos(_) => "eos",
            StopReason::StopString(_) => "stop_string",
            StopReason::MaxTokens => "max_tokens",
            StopReason::ContextFull => "context_full",
            StopReason::Cancelled => "cancelled",
        })
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
    }
}
