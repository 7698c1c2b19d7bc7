//! Compares drafts on the keys and values of the model that verifies with drafts on those of the draft's own layer.
//!
//! ```sh
//! cargo run --release -p impasto --example draft_cache -- layered.impasto DATA/valid.txt
//! ```
//!
//! For each pair of layers, greedy generation of 64 tokens after each of 5 contexts, with drafts of 4 tokens. Printed is the
//! acceptance of both ways.

use std::path::Path;

use impasto::{Cut, File, FileWeights};
use impasto_core::rng::SplitMix64;
use impasto_model::sampling::{SamplingParams, argmax};
use impasto_model::speculation::{Draft, DraftLength, DraftModel, Known, Proposer, Speculator};
use impasto_model::{CausalLm, KvCache, Result, Session, WeightSource};
use impasto_runtime::{Model, RunOptions};

const TOKENS: usize = 64;
const LENGTH: usize = 4;

/// Drafts greedily, with a cache that only this layer fills.
struct OwnCache<'m> {
    model: &'m dyn CausalLm,
    cache: KvCache,
}

impl Proposer for OwnCache<'_> {
    fn propose(&mut self, known: &[Known<'_>], _: &mut SplitMix64) -> Result<Vec<Draft>> {
        let mut drafts = Vec::new();
        for known in known {
            let common = self.cache.tokens().iter().zip(known.tokens).take_while(|(a, b)| a == b).count();
            self.cache.truncate(common.min(known.tokens.len() - 1));
            let mut tokens = known.tokens.to_vec();
            while tokens.len() < known.tokens.len() + known.most {
                let mut logits = Vec::new();
                let from = self.cache.len();
                self.model.next_logits(&mut self.cache, &tokens[from..], &mut logits)?;
                tokens.push(argmax(&logits).unwrap_or(0));
            }
            drafts.push(Draft { tokens: tokens.split_off(known.tokens.len()), from: vec![] });
        }
        Ok(drafts)
    }
}

fn acceptance(model: &Model, contexts: &[Vec<u32>], proposer: Box<dyn Proposer + '_>) -> Result<f64> {
    let mut speculator = Speculator::new(vec![proposer], DraftLength::Fixed(LENGTH), 0);
    for context in contexts {
        let mut session = Session::new(model.network(), SamplingParams::default())?;
        session.extend(context)?;
        while session.tokens().len() < context.len() + TOKENS {
            let left = context.len() + TOKENS - session.tokens().len();
            speculator.step(&mut session, left)?;
        }
    }
    Ok(speculator.counts().acceptance())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().collect();
    let [_, path, text] = &words[..] else { return Err("give a layered file and a text".into()) };
    let layers = File::open(Path::new(path))?.layers().len();
    let open = |layer: usize| -> std::result::Result<_, Box<dyn std::error::Error>> {
        let mut file = File::open(Path::new(path))?;
        file.cut(&Cut::Layer(layer))?;
        Ok(FileWeights::new(file)?)
    };
    let text = std::fs::read_to_string(text)?;
    println!("| layer | drafted by | acceptance on its keys and values | on those of the draft |");
    println!("|---|---|---:|---:|");
    for top in 2..=layers {
        let sources = (1..=top).map(open).collect::<std::result::Result<Vec<_>, _>>()?;
        let sources: Vec<&dyn WeightSource> = sources.iter().map(|source| source as _).collect();
        let model = Model::load_layers(&sources, &RunOptions::default())?;
        let tokens = model.tokenizer()?.encode(&text, true)?;
        let contexts: Vec<Vec<u32>> = tokens.chunks_exact(150).take(5).map(<[u32]>::to_vec).collect();
        let Some(runtime) = model.runtime() else { return Err("no layers".into()) };
        for layer in 1..top {
            let view = runtime.at(layer - 1)?;
            let shared = acceptance(&model, &contexts, Box::new(DraftModel::new(&view)))?;
            let own = OwnCache { model: &view, cache: view.new_cache(0)? };
            let own = acceptance(&model, &contexts, Box::new(own))?;
            println!("| {top} | {layer} | {shared:.3} | {own:.3} |");
        }
    }
    Ok(())
}
