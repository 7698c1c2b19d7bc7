//! `impasto chat`: a conversation with a model that has a chat template.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::Context;
use impasto::Cut;
use impasto_model::speculation::Speculator;
use impasto_model::{CausalLm, ModelError, Session};
use impasto_runtime::{GenerateOptions, Generation, Model, Residence, RuntimeError, StopReason, Stream};
use impasto_text::{ChatOptions, ChatTemplate, Message};
use serde_json::json;

use super::run::with_limits;
use crate::args::{Args, Chat};
use crate::cut::parse_layer;
use crate::drafts::DraftArgs;
use crate::exit::{Code, UsageError};
use crate::incoming::name_of;
use crate::live::{Arrival, Loaded};
use crate::output::{print, print_json};
use crate::signals::Interruptible;

const HELP: &str = "\
/system TEXT  set the system message (remove it without TEXT) and start over
/reset        clear the conversation
/undo         remove the last question and its answer
/layer N      use another layer for all that follows, or KEY=N,... as for --layer (with --keep-layers)
/exit         quit, like the end of the input
Ctrl-C        stop the answer; quit if there is none
A line that ends with \\ continues on the next line. Lines between two lines of \"\"\" are one message.
";

/// A message or command from the input.
enum Input {
    Message(String),
    Command(String),
    End,
}

/// The conversation so far.
struct Talk<'a> {
    model: &'a Model,
    template: ChatTemplate,
    options: GenerateOptions,
    system: Option<String>,
    messages: Vec<Message>,
    session: Session<&'a dyn CausalLm>,
    arrival: Option<Arrival<'a>>,
    speculator: Option<Speculator<'static>>,
}

pub fn run(args: &Args, command: &Chat) -> anyhow::Result<Code> {
    let options = command.running.options(args, Residence::Packed)?;
    let cut = command.cut.cut();
    let drafts = DraftArgs { keep_layers: command.keep_layers, ..command.drafts.clone() };
    let of_file = cut.as_ref().filter(|_| !command.keep_layers);
    let loaded = Loaded::begin(args, &command.model, of_file, &options, &command.streaming, &drafts)?;
    let model = loaded.model();
    if let Some(cut) = cut.filter(|_| command.keep_layers) {
        choose_layers(model, &cut)?;
    }
    let name = || name_of(&command.model);
    model.tokenizer().with_context(name)?;
    let template = model.chat_template().with_context(name)?;
    let options = with_limits(model.chat_options(&template), command.max_tokens, &command.sampling, &command.stop);
    let mut talk = Talk {
        template,
        session: loaded.session(options.sampling, 0)?,
        arrival: loaded.arrival(),
        speculator: drafts.speculator(model, options.sampling.seed)?,
        options,
        system: command.system.clone(),
        messages: Vec::new(),
        model,
    };
    let (stdin, quiet) = (std::io::stdin(), args.quiet || args.json || !std::io::stdin().is_terminal());
    if !quiet {
        eprintln!("{}: type a message, or /help for the commands.", name());
    }
    let mut lines = stdin.lock();
    loop {
        match read(&mut lines, quiet)? {
            Input::End => return Ok(Code::Success),
            Input::Command(line) if line == "/exit" => return Ok(Code::Success),
            Input::Command(line) => talk.command(&line),
            Input::Message(text) => {
                let generation = match talk.answer(text, args.json) {
                    // An interactive user can make room.
                    Err(error)
                        if !quiet
                            && matches!(
                                error.downcast_ref(),
                                Some(RuntimeError::Model(ModelError::ContextOverflow { .. }))
                            ) =>
                    {
                        eprintln!("{error}; use /undo or /reset to make room.");
                        continue;
                    }
                    result => result?,
                };
                let stream = talk.arrival.as_ref().map(Arrival::json);
                let news = talk.arrival.as_mut().and_then(Arrival::answered);
                if args.json {
                    let cached = talk.session.cache().len();
                    print_json(&json!({ "generation": generation, "cached_tokens": cached, "stream": stream }))?;
                } else if !args.quiet {
                    news.iter().for_each(|line| eprintln!("{line}"));
                    if generation.stop == StopReason::ContextFull {
                        eprintln!("The context is full; use /undo or /reset to make room.");
                    }
                }
            }
        }
    }
}

impl Talk<'_> {
    /// Generates an answer and appends it to the conversation.
    fn answer(&mut self, text: String, silent: bool) -> anyhow::Result<Generation> {
        self.messages.push(Message::new("user", text));
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let prompt = self.model.tokenizer()?.encode(&self.template.render(&messages, &options)?, false)?;
        let generation = self.write(&prompt, silent);
        let generation = generation.inspect_err(|error| {
            if error.downcast_ref().is_some_and(is_full) {
                self.messages.pop();
            }
        })?;
        if !silent {
            print("\n")?;
        }
        self.messages.push(Message::new("assistant", &generation.text));
        Ok(generation)
    }

    /// Continues the prompt until it ends or is interrupted. Tokens that the session already has are not evaluated
    /// again.
    fn write(&mut self, prompt: &[u32], silent: bool) -> anyhow::Result<Generation> {
        let interruptible = Interruptible::begin();
        let interrupted = || interruptible.is_interrupted();
        self.session.restart(prompt).map_err(RuntimeError::from)?;
        let mut stream = Stream::new(&mut self.session, self.model.tokenizer()?, &self.options)?;
        if let Some(arrival) = &mut self.arrival {
            stream = stream.before_each(|session| arrival.before_token(session));
        }
        if let Some(speculator) = &mut self.speculator {
            stream = stream.with_speculator(speculator);
        }
        stream.prefill(&mut |_| if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })?;
        while let Some(piece) = stream.next() {
            let piece = piece?;
            if !silent {
                let mut out = std::io::stdout().lock();
                out.write_all(piece.as_bytes()).and_then(|()| out.flush())?;
            }
            if interrupted() {
                stream.cancel();
            }
        }
        Ok(stream.finish())
    }

    fn command(&mut self, line: &str) {
        match line.split_once(char::is_whitespace).unwrap_or((line, "")) {
            ("/reset", "") => self.messages.clear(),
            ("/undo", "") => self.messages.truncate(self.messages.len().saturating_sub(2)),
            ("/system", text) => {
                self.system = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
                self.messages.clear();
            }
            ("/layer", text) => {
                let chosen = parse_layer(text).map_err(anyhow::Error::msg);
                match chosen.and_then(|cut| choose_layers(self.model, &cut)) {
                    // What was said is evaluated again, so that an answer depends on the layer in use only.
                    Ok(()) => self.session.truncate(0),
                    Err(error) => eprintln!("{error:#}"),
                }
            }
            ("/help", "") => eprint!("{HELP}"),
            _ => eprintln!("Unknown command {line:?}; /help lists the commands."),
        }
    }
}

/// Uses layers that are in memory.
fn choose_layers(model: &Model, cut: &Cut) -> anyhow::Result<()> {
    let runtime = model.runtime().filter(|runtime| runtime.layers() > 1);
    let runtime = runtime.ok_or(UsageError("one layer is in memory; --keep-layers keeps all of them"))?;
    let finest = runtime.layers();
    match cut {
        Cut::Layer(layer) => runtime.set_layers(|_| layer - 1)?,
        Cut::Parts(parts) => {
            let of = |name: &str| parts.iter().find(|(key, _)| !key.is_empty() && name.contains(key.as_str()));
            let other = parts.iter().find(|(key, _)| key.is_empty());
            runtime.set_layers(|name| of(name).or(other).map_or(finest, |(_, layer)| *layer) - 1)?;
        }
        Cut::Bytes(_) | Cut::BitsPerWeight(_) => {
            return Err(UsageError("--keep-layers is with --layer, not with --budget or --bpw").into());
        }
    }
    Ok(())
}

/// Whether the error means that the conversation does not fit.
fn is_full(error: &RuntimeError) -> bool {
    let RuntimeError::Model(error) = error else { return false };
    matches!(error, ModelError::ContextOverflow { .. } | ModelError::Cache(_) | ModelError::Memory { .. })
}

/// Reads the next message or command.
fn read(lines: &mut impl BufRead, quiet: bool) -> anyhow::Result<Input> {
    let prompt = |text: &str| {
        if !quiet {
            eprint!("{text}");
        }
    };
    let mut line = |text: &str| -> anyhow::Result<Option<String>> {
        prompt(text);
        let mut line = String::new();
        let read = lines.read_line(&mut line).context("cannot read standard input")?;
        Ok((read > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned()))
    };
    loop {
        let Some(first) = line("> ")? else { return Ok(Input::End) };
        let mut text = String::new();
        if first.trim() == "\"\"\"" {
            while let Some(next) = line(". ")?.filter(|next| next.trim() != "\"\"\"") {
                text.push_str(&next);
                text.push('\n');
            }
            text.truncate(text.trim_end_matches('\n').len());
        } else if first.starts_with('/') {
            return Ok(Input::Command(first.trim_end().to_owned()));
        } else {
            let mut part = first;
            while let Some(kept) = part.strip_suffix('\\') {
                text.push_str(kept);
                text.push('\n');
                part = line(". ")?.unwrap_or_default();
            }
            text.push_str(&part);
        }
        if !text.trim().is_empty() {
            return Ok(Input::Message(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_messages() {
        let mut input = "\n  \nhello\na \\\nb\\\nc\n\"\"\"\n/x\n\ny\n\"\"\"\n/system be kind \nlast\\".as_bytes();
        let mut seen = Vec::new();
        loop {
            match read(&mut input, true).unwrap() {
                Input::Message(text) => seen.push(text),
                Input::Command(line) => seen.push(format!("command {line}")),
                Input::End => break,
            }
        }
        assert_eq!(seen, ["hello", "a \nb\nc", "/x\n\ny", "command /system be kind", "last\n"]);
    }
}
