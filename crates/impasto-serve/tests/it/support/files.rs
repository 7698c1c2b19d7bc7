//! Models: the tiny one in layers, with a chat template; and a fine-tune of it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use impasto::encode::{EncodeBase, Extent, Layers, Options, Target, encode};
use impasto::{Bases, Checkpoint};
use tempfile::TempDir;

/// A template in the style of Qwen 2.5, with the same marks around tools and calls.
pub const TEMPLATE: &str = r#"{%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}
{%- for tool in tools %}{{- '\n' ~ (tool | tojson) }}{%- endfor %}
{{- '\n</tools>\nFor each call: <tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call><|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'angry' %}{{- raise_exception('nobody is angry here: ' ~ message.content) }}{%- endif %}
{{- '<|im_start|>' ~ message.role ~ '\n' ~ (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) ~ '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"#;

/// The folder of the tiny model.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny")
}

/// A copy of the tiny model with a chat template.
pub fn with_template(folder: &Path, template: &str) {
    std::fs::create_dir_all(folder).expect("a folder");
    for entry in std::fs::read_dir(tiny()).expect("the tiny model") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copies");
    }
    std::fs::write(folder.join("chat_template.jinja"), template).expect("writes");
}

/// The folder of all files, which the next run of the tests makes again.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve");
        // What an earlier run has left.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    })
}

fn encoded(model: &Path, name: &str, options: &Options) -> PathBuf {
    let path = folder().join(name);
    let checkpoint = Checkpoint::open(model).expect("a checkpoint");
    encode(&checkpoint, &path, options, &|_| ControlFlow::Continue(())).expect("encodes");
    path
}

/// The tiny model with a chat template in three layers, of which the last is exact.
pub fn layered() -> PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let model = folder().join("tiny");
        with_template(&model, TEMPLATE);
        let layers = Layers { below: vec![Extent::BitsPerWeight(2.5)], exact: true, ..Layers::default() };
        encoded(&model, "layered.impasto", &Options { layers, ..Options::new(Target::BitsPerWeight(4.0)) })
    })
    .clone()
}

/// The tiny model without loss, and a fine-tune of it as a delta.
pub fn base_and_delta() -> [PathBuf; 2] {
    static FILES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    FILES
        .get_or_init(|| {
            let base = encoded(&tiny(), "base.impasto", &Options::new(Target::Lossless));
            let tuned = folder().join("tuned");
            with_template(&tuned, TEMPLATE);
            tune(&tuned.join("model.safetensors"));
            let file = Bases::default().open(&base).expect("opens");
            let name = file.model_name();
            let over = EncodeBase::new(Arc::new(file), name, "mit".into(), vec![]).expect("complete");
            let options = Options { base: Some(Arc::new(over) as _), ..Options::new(Target::Lossless) };
            let delta = encoded(&tuned, "delta.impasto", &options);
            [base, delta]
        })
        .clone()
}

/// Changes some weights of the first block.
fn tune(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    for (name, tensor) in header.as_object().expect("tensors") {
        if !name.contains("layers.0.mlp") {
            continue;
        }
        let place = |index: usize| 8 + length + tensor["data_offsets"][index].as_u64().expect("an offset") as usize;
        // The low byte of a bfloat16 is its last mantissa bits.
        for weight in bytes[place(0)..place(1)].chunks_exact_mut(2).step_by(3) {
            weight[0] ^= 0x30;
        }
    }
    std::fs::write(path, bytes).expect("writes");
}

/// A folder of a test.
pub fn temporary() -> TempDir {
    tempfile::tempdir().expect("a folder")
}
