//! `impasto run`.

use std::io::Write;

use anyhow::Context;
use impasto_model::sampling::SamplingParams;
use impasto_model::speculation::Speculator;
use impasto_model::{CausalLm, Session};
use impasto_runtime::{GenerateOptions, Generation, Model, Residence, Stream};
use impasto_text::{ChatOptions, Message, TextError};
use serde_json::json;

use crate::args::{Args, Run, Sampling};
use crate::exit::Code;
use crate::incoming::name_of;
use crate::live::{Arrival, Loaded};
use crate::output::{bytes, print, print_json};

pub fn run(args: &Args, command: &Run) -> anyhow::Result<Code> {
    let options = command.running.options(args, Residence::Packed)?;
    let cut = command.cut.cut();
    let loaded = Loaded::begin(args, &command.model, cut.as_ref(), &options, &command.streaming, &command.drafts)?;
    let model = loaded.model();
    let (prompt, options) = prompt(model, command).with_context(|| name_of(&command.model))?;
    let options = with_limits(options, command.max_tokens, &command.sampling, &command.stop);
    let mut arrival = loaded.arrival();
    let mut session = loaded.session(options.sampling, prompt.len().saturating_add(options.max_tokens.min(1024)))?;
    session.extend(&prompt)?;
    let speculator = command.drafts.speculator(model, options.sampling.seed)?;
    let generation = stream(session, model, &options, arrival.as_mut(), speculator, args.json)?;
    if args.json {
        let load = json!({
            "times": model.load_times(),
            "weight_bytes": model.memory_bytes(),
            "warnings": model.warnings(),
            "notes": model.notes(),
        });
        let arrival = arrival.as_ref().map(Arrival::json);
        print_json(&json!({ "prompt_tokens": prompt, "generation": generation, "load": load, "stream": arrival }))?;
    } else if !args.quiet {
        report(&name_of(&command.model), model, &generation);
        arrival.iter().for_each(|arrival| arrival.report(&name_of(&command.model)));
    }
    drop(arrival);
    if let Some(line) = loaded.end().filter(|_| !args.quiet) {
        eprintln!("{}: {line}", name_of(&command.model));
    }
    Ok(Code::Success)
}

/// Continues the tokens of a session and writes the text to stdout as it comes, with a line break at the end, unless it is to
/// be `silent`.
pub fn stream<'m>(
    session: Session<&'m dyn CausalLm>,
    model: &'m Model,
    options: &GenerateOptions,
    arrival: Option<&mut Arrival<'_>>,
    speculator: Option<Speculator<'static>>,
    silent: bool,
) -> anyhow::Result<Generation> {
    let mut stream = Stream::new(session, model.tokenizer()?, options)?;
    if let Some(arrival) = arrival {
        stream = stream.before_each(|session| arrival.before_token(session));
    }
    if let Some(speculator) = speculator {
        stream = stream.with_speculator(speculator);
    }
    for piece in &mut stream {
        let piece = piece?;
        if !silent {
            let mut out = std::io::stdout().lock();
            out.write_all(piece.as_bytes()).and_then(|()| out.flush())?;
        }
    }
    if !silent {
        print("\n")?;
    }
    Ok(stream.finish())
}

fn report(name: &str, model: &Model, generation: &Generation) {
    let speed = generation.tokens.len().saturating_sub(1) as f64 / generation.decode_seconds.max(1e-9);
    let times = model.load_times();
    let shares = match times.threads {
        0 => String::new(),
        threads => format!(
            " ({:.2} s for assets; {:.2} s decoding and {:.2} s packing, summed over {threads} threads)",
            times.assets, times.decode, times.pack,
        ),
    };
    let memory = bytes(model.memory_bytes() as u64);
    eprintln!("{name}: loaded in {:.2} s{shares}, {memory} of weights in memory", times.seconds);
    eprintln!(
        "{name}: {} prompt tokens in {:.2} s, {} tokens at {speed:.1} per second ({:?})",
        generation.prompt_tokens,
        generation.prefill_seconds,
        generation.tokens.len(),
        generation.stop,
    );
    if let Some(counts) = &generation.speculation {
        eprintln!(
            "{name}: {} drafts, {:.2} tokens per draft and pass, {:.0}% of the guesses kept",
            counts.passes,
            counts.tokens_per_pass(),
            100.0 * counts.acceptance(),
        );
    }
}

/// The tokens of the prompt, and where its continuation ends: through the chat template, if there is one and `--raw` is
/// not given.
fn prompt(model: &Model, command: &Run) -> anyhow::Result<(Vec<u32>, GenerateOptions)> {
    let tokenizer = model.tokenizer()?;
    let template = match model.chat_template() {
        _ if command.raw => None,
        Ok(template) => Some(template),
        // A missing template is an error only if --system needs it; an invalid one always is.
        Err(TextError::MissingAsset { .. }) if command.system.is_none() => None,
        Err(error) => return Err(error.into()),
    };
    let Some(template) = template else {
        return Ok((tokenizer.encode(&command.prompt, true)?, model.generate_options()));
    };
    let system = command.system.iter().map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.chain([Message::new("user", &command.prompt)]).collect();
    let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let prompt = tokenizer.encode(&template.render(&messages, &options)?, false)?;
    Ok((prompt, model.chat_options(&template)))
}

/// Adds what the command line says to the model's options.
pub fn with_limits(
    options: GenerateOptions,
    max_tokens: usize,
    sampling: &Sampling,
    stop: &[String],
) -> GenerateOptions {
    let sampling = SamplingParams {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        seed: sampling.seed,
    };
    GenerateOptions { max_tokens, sampling, stop: stop.to_vec(), ..options }
}
