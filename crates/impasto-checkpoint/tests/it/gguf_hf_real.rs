//! Translation of real files. IMPASTO_MODELS is a folder with `smollm2-135m-q4_1.gguf` and the folder
//! `smollm2-135m-continuous` that it was converted from. IMPASTO_TEXT is a text (wikitext-2 valid). IMPASTO_VOCABS is
//! the folder `models` of llama.cpp's sources, whose `ggml-vocab-*.gguf` come with texts and the ids of the original
//! tokenizers. Tests whose variable is not set are skipped with a message.

use std::path::{Path, PathBuf};

use crate::common::hf::{Table, ids, tokenizer};
use impasto_checkpoint::gguf::{Metadata, hf};
use impasto_checkpoint::{Asset, Checkpoint};
use serde_json::{Value, json};

const GGUF: &str = "smollm2-135m-q4_1.gguf";
const FOLDER: &str = "smollm2-135m-continuous";

const ODD: [&str; 14] = [
    "",
    " ",
    "   three spaces, then\ttab\n\n\nand  lines \r\n",
    "1234567890 3.14159 ⅷ ½ ٣٤٥",
    "emoji 🚀 😶\u{200d}🌫️ 🦙🦙 👩‍👩‍👧‍👦",
    "中文字符，日本語のテキスト、한국어 텍스트",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>a<|endoftext|>  <|im_end|>",
    "I'll we've they'd IT'S don'T",
    "e\u{301} and é, ﬁ ligature, Å \u{212b}",
    "\u{0}\u{1}\u{7f}\u{fffd}\u{feff}",
    "fn main() { println!(\"{:?}\", x); }  // ==> <=>",
    "مرحبا بالعالم नमस्ते สวัสดี",
    "averylongwordwithoutanyspacesatallwhichgoesonandonandonandonandon",
];

fn path_of(variable: &str, name: &str) -> Option<PathBuf> {
    match std::env::var_os(variable).map(|folder| Path::new(&folder).join(name)) {
        Some(path) if path.exists() => Some(path),
        _ => {
            println!("SKIPPED: set {variable} to the folder that holds {name}");
            None
        }
    }
}

fn asset<'a>(checkpoint: &'a Checkpoint, name: &str) -> &'a [u8] {
    &checkpoint.assets().iter().find(|asset| asset.name == name).unwrap_or_else(|| panic!("{name}")).bytes
}

/// Returns the metadata of a model with this tokenizer. All sizes except that of the vocabulary are arbitrary.
fn metadata_of(tokenizer: &[u8], rows: usize) -> Metadata {
    let config = json!({
        "model_type": "llama", "vocab_size": rows, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 1, "max_position_embeddings": 4096
    });
    let assets = [
        Asset { name: "config.json".into(), bytes: config.to_string().into_bytes() },
        Asset { name: "tokenizer.json".into(), bytes: tokenizer.to_vec() },
    ];
    hf::metadata(&assets, &Table::default(), "made up", 1).unwrap().metadata
}

#[test]
fn a_real_gguf_has_the_config_and_the_tokens_of_the_folder_it_was_made_from() {
    let (Some(gguf), Some(folder)) = (path_of("IMPASTO_MODELS", GGUF), path_of("IMPASTO_MODELS", FOLDER)) else {
        return;
    };
    let checkpoint = Checkpoint::open(&gguf).unwrap();

    let made: Value = serde_json::from_slice(asset(&checkpoint, "config.json")).unwrap();
    let original: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    for (key, value) in original.as_object().unwrap() {
        if key != "torch_dtype" {
            assert_eq!(made[key], *value, "{key}");
        }
    }
    let generation: Value = serde_json::from_slice(asset(&checkpoint, "generation_config.json")).unwrap();
    assert_eq!(generation["eos_token_id"], serde_json::json!([2, 0]));
    let config: Value = serde_json::from_slice(asset(&checkpoint, "tokenizer_config.json")).unwrap();
    let original: Value =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizer_config.json")).unwrap()).unwrap();
    for key in ["bos_token", "eos_token", "pad_token", "chat_template"] {
        assert_eq!(config[key], original[key], "{key}");
    }

    let ours = tokenizer(asset(&checkpoint, "tokenizer.json"));
    let theirs = tokenizer(&std::fs::read(folder.join("tokenizer.json")).unwrap());
    for text in ODD {
        for special in [false, true] {
            let tokens = ids(&theirs, text, special);
            assert_eq!(ids(&ours, text, special), tokens, "{text:?}");
            for skip in [false, true] {
                assert_eq!(ours.decode(&tokens, skip).unwrap(), theirs.decode(&tokens, skip).unwrap(), "{text:?}");
            }
        }
    }
    // The folder also gives the vocabulary of the GGUF.
    let made = metadata_of(&std::fs::read(folder.join("tokenizer.json")).unwrap(), 49152);
    let metadata = checkpoint.metadata().unwrap();
    for key in ["model", "pre", "tokens", "token_type", "merges", "add_bos_token"] {
        let key = format!("tokenizer.ggml.{key}");
        assert!(made.get(&key) == metadata.get(&key), "{key}");
    }
    match std::env::var_os("IMPASTO_TEXT").map(std::fs::read_to_string) {
        Some(text) => {
            let text = text.unwrap();
            let tokens = ids(&theirs, &text, false);
            assert_eq!(ids(&ours, &text, false), tokens);
            println!("{} tokens of {} bytes of text are the same", tokens.len(), text.len());
        }
        None => println!("SKIPPED: set IMPASTO_TEXT to a text"),
    }
}

/// llama.cpp's own test files: texts, and their ids by transformers, without special tokens.
#[test]
fn real_vocabularies_give_the_ids_that_their_original_tokenizers_gave() {
    const NAMES: [&str; 7] = ["llama-spm", "phi-3", "llama-bpe", "qwen2", "gpt-2", "starcoder", "refact"];
    const BETWEEN: &str = "\n__ggml_vocab_test__\n";
    for name in NAMES {
        let Some(path) = path_of("IMPASTO_VOCABS", &format!("ggml-vocab-{name}.gguf")) else { continue };
        let beside = |ending: &str| {
            let file = std::fs::read_to_string(format!("{}.{ending}", path.display())).unwrap();
            file.replace("\r\n", "\n")
        };
        let (texts, expected) = (beside("inp"), beside("out"));
        let checkpoint = Checkpoint::open(&path).unwrap();
        let ours = tokenizer(asset(&checkpoint, "tokenizer.json"));
        let texts: Vec<&str> = texts.split(BETWEEN).collect();
        let expected: Vec<&str> = expected.lines().collect();
        let mut wrong = Vec::new();
        for (text, expected) in texts.iter().zip(&expected) {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let made = ids(&ours, text, false);
            if made != expected {
                wrong.push(format!("{text:?}\n  {made:?}\n  {expected:?}"));
            }
        }
        assert!(wrong.is_empty(), "{name}: {}", wrong.join("\n"));

        // A round trip through GGUF metadata preserves the tokenizer.
        let metadata = checkpoint.metadata().unwrap();
        let json = asset(&checkpoint, "tokenizer.json");
        let made = metadata_of(json, metadata.strings("tokenizer.ggml.tokens").unwrap().len());
        let back = hf::assets(&made, &Table::default());
        let back: Value = serde_json::from_slice(back.get("tokenizer.json").unwrap()).unwrap();
        let json: Value = serde_json::from_slice(json).unwrap();
        for part in ["normalizer", "pre_tokenizer", "model"] {
            assert!(back[part] == json[part], "{name}: {part}");
        }
        println!("{name}: {} texts", expected.len());
    }
}
