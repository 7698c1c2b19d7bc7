//! `impasto demo`: encodes a built-in model and generates text from the result.

use anyhow::Context;
use impasto::Cut;
use impasto::encode::{Extent, Layers, Options, Target};
use impasto_core::files::TemporaryFolder;
use impasto_runtime::{GenerateOptions, Residence, RunOptions};

use super::encode::{Guide, Way, encode_to};
use super::run::stream;
use crate::args::Args;
use crate::exit::Code;
use crate::model::load;
use crate::output::print;
use crate::progress::bar;
use crate::running::Running;

/// The files of the built-in model: a Llama with 3 M weights that writes children's stories.
const TINY: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../assets/tiny/config.json")),
    ("generation_config.json", include_bytes!("../../assets/tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../../assets/tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../assets/tiny/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../assets/tiny/tokenizer_config.json")),
];
/// Number of calibration tokens: enough for a model of this size.
const TOKENS: usize = 8192;
/// Bits per weight of the lossy layers: those below the finest one, and the finest one. The exact layer is above.
const BELOW: [f64; 1] = [3.5];
const TOP: f64 = 5.0;
const PROMPT: &str = "Once upon a time";

pub fn run(args: &Args) -> anyhow::Result<Code> {
    if args.json {
        anyhow::bail!("demo does not support --json");
    }
    let place = std::env::temp_dir();
    let folder = TemporaryFolder::create_in(&place);
    let folder = folder.with_context(|| format!("{}: a temporary folder (TMPDIR moves it)", place.display()))?;
    let model = folder.path().join("tiny");
    std::fs::create_dir(&model)?;
    for (name, bytes) in TINY {
        std::fs::write(model.join(name), bytes)?;
    }
    let layers = Layers { below: BELOW.map(Extent::BitsPerWeight).to_vec(), exact: true, ..Layers::default() };
    let options = Options { threads: args.threads, layers, ..Options::new(Target::BitsPerWeight(TOP)) };
    let guide = Guide::Text { text: impasto::calibrate::TEXT.into(), tokens: TOKENS, sequential: false, given: false };
    let file = folder.path().join("tiny.impasto");
    let way = Way { model: &model, output: &file, measure: None, reorder: None, held_back: None, training: None };
    let progress = bar(args, 0);
    let encoded = encode_to(args, way, &options, &guide, &progress)?;
    progress.finish_and_clear();
    encoded.print(args)?;
    // The file goes when the demo is over.
    let running = RunOptions { packs: None, ..Running::default().options(args, Residence::Packed)? };
    for (title, cut) in [("the base", Some(Cut::Layer(1))), ("the whole file, lossless", None)] {
        let loaded = load(args, &file, cut.as_ref(), &running)?;
        let tokens = loaded.tokenizer()?.encode(PROMPT, true)?;
        print(&format!("\n== from {title}\n\n{PROMPT}"))?;
        let options = GenerateOptions { max_tokens: 60, ..loaded.generate_options() };
        let mut session = loaded.session(options.sampling)?;
        session.extend(&tokens)?;
        stream(session, &loaded, &options, None, None, false)?;
    }
    Ok(Code::Success)
}
