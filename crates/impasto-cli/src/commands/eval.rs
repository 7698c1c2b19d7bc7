//! `impasto eval`.

use std::path::Path;

use anyhow::Context;
use impasto_model::Model;
use impasto_model::eval::{
    Estimate, EvalOptions, EvalText, Kld, Perplexity, Progress, Score as Scored, kld, perplexity,
};
use serde_json::json;

use crate::args::{Args, Eval, Score, Text};
use crate::exit::Code;
use crate::model::load;
use crate::output::{print, print_json};
use crate::progress::bar;

pub fn run(args: &Args, what: &Eval) -> anyhow::Result<Code> {
    match what {
        Eval::Ppl { model, text } => {
            let loaded = load(args, model)?;
            let (tokens, options) = prepare(args, &loaded, text)?;
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
        Eval::Kld { model, reference, text } => {
            let original = load(args, reference)?;
            let loaded = load(args, model)?;
            let (tokens, options) = prepare(args, &original, text)?;
            let progress = bar(args, 0);
            let mut on_progress = |p: Progress| progress.set_message(message(p));
            let result = kld(original.network(), loaded.network(), &tokens, &options, &mut on_progress);
            let result = result.with_context(|| name_of(text))?;
            progress.finish_and_clear();
            if args.json {
                let (model, reference) = (model.display().to_string(), reference.display().to_string());
                print_json(&json!({ "model": model, "reference": reference, "kld": result }))?;
            } else {
                print(&kld_text(model, reference, &result))?;
            }
        }
    }
    Ok(Code::Success)
}

fn name_of(text: &Text) -> String {
    text.text.display().to_string()
}

fn prepare(args: &Args, model: &Model, text: &Text) -> anyhow::Result<(EvalText, EvalOptions)> {
    let name = || name_of(text);
    let content = std::fs::read_to_string(&text.text).with_context(name)?;
    let score = match text.score {
        Score::All => Scored::All,
        Score::SecondHalf => Scored::SecondHalf,
    };
    let options = EvalOptions { ctx: text.ctx, score, windows: text.windows, threads: args.threads };
    Ok((EvalText::new(model.tokenizer()?, &content).with_context(name)?, options))
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
