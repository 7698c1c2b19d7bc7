//! `impasto demo`: the main job on the model that this program carries.

use anyhow::Context;
use impasto::{Options, Target};

use super::encode::{Guide, encode_to};
use super::run::stream;
use crate::args::Args;
use crate::exit::Code;
use crate::model::load;
use crate::output::print;

/// The files of the embedded model, a Llama of 3 M weights that tells childish stories.
const TINY: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../../assets/tiny/config.json")),
    ("generation_config.json", include_bytes!("../../../../assets/tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../../assets/tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../../assets/tiny/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../../assets/tiny/tokenizer_config.json")),
];
/// Tokens that it is calibrated on: enough for inputs of its size.
const TOKENS: usize = 8192;
const PROMPT: &str = "Once upon a time";

pub fn run(args: &Args) -> anyhow::Result<Code> {
    if args.json {
        anyhow::bail!("demo shows text: it has no --json");
    }
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let model = folder.path().join("tiny");
    std::fs::create_dir(&model)?;
    for (name, bytes) in TINY {
        std::fs::write(model.join(name), bytes)?;
    }
    let files = [("lossless", Target::Lossless), ("5 bits per weight", Target::BitsPerWeight(5.0))];
    let guide = Guide::Text { text: impasto::TEXT.into(), tokens: TOKENS, sequential: false, given: false };
    for (i, (title, target)) in files.into_iter().enumerate() {
        print(&format!("{}== {title}\n", if i > 0 { "\n" } else { "" }))?;
        let file = folder.path().join(format!("tiny-{i}.impasto"));
        encode_to(args, &model, &file, &Options { threads: args.threads, ..Options::new(target) }, &guide)?;
        let loaded = load(args, &file)?;
        let tokens = loaded.tokenizer()?.encode(PROMPT, true)?;
        print(&format!("\n{PROMPT}"))?;
        let options = impasto_model::generate::GenerateOptions { max_tokens: 60, ..loaded.generate_options() };
        stream(&loaded, &tokens, &options)?;
    }
    Ok(Code::Success)
}
