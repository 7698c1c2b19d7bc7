//! Writes the seed corpora of the fuzz targets: `cargo run --example seeds -- corpus`.

use std::error::Error;
use std::fs;
use std::path::Path;

use impasto::Checkpoint;
use impasto::encode::{Options, Portion, Target, encode, encode_portion};
use impasto_checkpoint::gguf::{Array, Metadata, Value};
use impasto_checkpoint::{Opaque, TensorSpec, write_gguf, write_safetensors};
use impasto_codec::digits;
use impasto_codec::low_rank::{LowRank, Term};
use impasto_codec::rans::encode_segment;
use impasto_codec::tables::parametric;
use impasto_codec::tile::{TileDecoder, TileEncoder, Unit, encode_bytes};
use impasto_codec::transform::Reference;
use impasto_codec::{Body, Groups, IndexArray, Kind, Refinement, Shape, Steps, TensorHeader};
use impasto_container::{Header, Limits, Manifest};
use impasto_core::{DType, Format, Isa, Mode, Place};
use impasto_encode::transform::{Request, code};
use impasto_fuzz::bodies::{entropy_input, layers_input, layers_over, tile_input, tile_over, transform_input};

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let folder = std::env::args().nth(1).ok_or("usage: seeds FOLDER")?;
    let folder = Path::new(&folder);
    safetensors(&folder.join("safetensors"))?;
    gguf(&folder.join("gguf"))?;
    config(&folder.join("config"))?;
    files(folder)?;
    deltas(folder)?;
    tiles(&folder.join("tile"))?;
    layers(&folder.join("layers"))?;
    entropy(&folder.join("entropy"))?;
    transforms(&folder.join("transform"))?;
    tokenizers(&folder.join("tokenizer"))?;
    templates(&folder.join("template"))?;
    calls(&folder.join("calls"))?;
    messages(&folder.join("message"))
}

/// A text with calls in each form; the first byte is the form and whether there is reasoning, the second the length of pieces.
fn calls(folder: &Path) -> Done {
    let seeds = [
        (
            "hermes",
            "\u{0}\u{3}Hm.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1]}}\n</tool_call>\n<tool_call>x",
        ),
        (
            "llama",
            "\u{1}\u{1}<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": \"}\\\"\"}}; {\"name\": \"g\", \"parameters\": {}}",
        ),
        ("mistral", "\u{2}\u{5}a[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}][TOOL_CALLS]g[ARGS]{\"b\": 2}"),
        ("xml", "\u{3}\u{2}<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"),
        ("reasoning", "\u{10}\u{4}<think>\nWell.\n</think>\n\n<tool_call>{\"name\": \"f\"}</tool_call>"),
        ("open", "\u{8}\u{4}Well.</think>{"),
    ];
    seeds.into_iter().try_for_each(|(name, text)| put(folder, name, text.as_bytes()))
}

/// Messages of each role, a function and choices.
fn messages(folder: &Path) -> Done {
    let seeds = [
        (
            "parts",
            r#"{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}"#,
        ),
        (
            "calls",
            r#"{"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}"#,
        ),
        ("result", r#"{"role": "tool", "tool_call_id": "1", "name": "f", "content": "4"}"#),
        ("image", r#"{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}"#),
        ("function", r#"{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}"#),
        ("required", r#""required""#),
    ];
    seeds.into_iter().try_for_each(|(name, text)| put(folder, name, text.as_bytes()))
}

/// Chat templates with the tags, filters, methods and operators that are checked or rewritten.
fn templates(folder: &Path) -> Done {
    let seeds = [
        (
            "loop",
            "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m.content | trim }}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
        ),
        ("branches", "{%- if n > 3 -%}a{%- elif x is defined and not list -%}b{%- else -%}c{%- endif -%}"),
        ("percent", "{{ '%5.2f and %-4s|%03d %x %%' % (x, list[1], n, n) }}{{ '%(a)r' % map }}"),
        ("tojson", "{{ map | tojson(indent=2, sort_keys=true) }}{{ list | tojson(separators=(',', ':')) }}"),
        (
            "methods",
            "{{ messages[0].content.split(' ')[1:] }}{{ ' a '.strip().upper().replace('A', 'bb') }}{{ map.items() }}",
        ),
        (
            "tags",
            "{% generation %}{% set y = n ~ 1 %}{{ y }}{% endgeneration %}{% raw %}{{ x % y }}{% endraw %}{# note #}",
        ),
        ("functions", "{{ strftime_now('%d %b %Y') }}{{ raise_exception('no ' + messages[1]['role']) }}"),
        (
            "filters",
            "{{ list | join(', ') | title }}{{ map | dictsort }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
        ),
        ("macro", "{% macro f(a, b=1) %}{{ a }}{% if b %}{{ f(a, 0) }}{% endif %}{% endmacro %}{{ f('x') }}"),
        (
            "namespace",
            "{% set ns = namespace(i=0) %}{% for m in messages %}{% set ns.i = ns.i + 1 %}{% endfor %}{{ ns.i }}",
        ),
        ("unclosed", "{% raw %}{{ 'a"),
    ];
    for (name, text) in seeds {
        put(folder, name, text.as_bytes())?;
    }
    Ok(())
}

/// One tokenizer for each kind of model and of step, and compiled forms of two of them.
fn tokenizers(folder: &Path) -> Done {
    let bytes = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
    let bpe = r#""model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3,"Ġa":4},"merges":["a b",["Ġ","a"]]}"#;
    let fallback = r#""model":{"type":"BPE","unk_token":"?","fuse_unk":true,"byte_fallback":true,
        "vocab":{"?":0,"a":1,"▁":2,"▁a":3,"<0xC3>":4,"<0xA9>":5},"merges":["▁ a"]}"#;
    let added = r#""added_tokens":[{"id":7,"content":"<s>","single_word":false,"lstrip":true,"rstrip":false,"normalized":false,"special":true},
        {"id":8,"content":"É","single_word":true,"lstrip":false,"rstrip":true,"normalized":true,"special":false}]"#;
    let replace = r#"{"type":"Replace","pattern":{"String":" "},"content":"▁"}"#;
    let seeds = [
        ("bytes", format!(r#"{{{bpe},"pre_tokenizer":{bytes},"decoder":{bytes},"post_processor":{bytes}}}"#)),
        (
            "split",
            format!(
                r#"{{{bpe},{added},"normalizer":{{"type":"NFC"}},"pre_tokenizer":{{"type":"Sequence","pretokenizers":[
                {{"type":"Split","pattern":{{"Regex":"\\s+(?!\\S)|\\s+|\\p{{L}}+"}},"behavior":"Isolated","invert":false}},
                {{"type":"Digits","individual_digits":true}},{bytes}]}}}}"#
            ),
        ),
        (
            "fallback",
            format!(
                r#"{{{fallback},{added},"normalizer":{{"type":"Sequence","normalizers":[{{"type":"Prepend","prepend":"▁"}},{replace}]}},
                "decoder":{{"type":"Sequence","decoders":[{{"type":"ByteFallback"}},{{"type":"Fuse"}},
                {{"type":"Strip","content":" ","start":1,"stop":0}}]}},"post_processor":{{"type":"TemplateProcessing",
                "single":[{{"SpecialToken":{{"id":"<s>","type_id":0}}}},{{"Sequence":{{"id":"A","type_id":0}}}}],
                "pair":[{{"Sequence":{{"id":"A","type_id":0}}}}],"special_tokens":{{"<s>":{{"id":"<s>","ids":[7],"tokens":["<s>"]}}}}}}}}"#
            ),
        ),
        (
            "metaspace",
            format!(
                r#"{{{fallback},"pre_tokenizer":{{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false}},
                "decoder":{{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false}}}}"#
            ),
        ),
        (
            "words",
            r###"{"model":{"type":"WordPiece","unk_token":"?","continuing_subword_prefix":"##","max_input_chars_per_word":9,
            "vocab":{"?":0,"a":1,"##a":2}},"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,
            "strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},
            "decoder":{"type":"WordPiece","prefix":"##","cleanup":true}}"###.into(),
        ),
        (
            "unigram",
            r#"{"model":{"type":"Unigram","unk_id":0,"vocab":[["?",0.0],["a",-1.5],["ab",-2.0]]},
            "normalizer":{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAABhAA=="}}"#.into(),
        ),
    ];
    for (name, json) in &seeds {
        put(folder, name, &[json.as_bytes(), b"\xFF a<s>b ab \xC3\xA9 12\n\n a"].concat())?;
    }
    let forms: [(&str, &str, &[u8]); 2] = [
        ("compiled", r#"{"model":{}}"#, &[5, 3, 4, 2, 1, 1, 0, 1, 2, b'a', b'b', b'a', b'b', 8, 1]),
        ("compiled_fallback", r#"{"model":{"byte_fallback":true,"unk_token":"a"}}"#, &[2, 2, 0, 1, 1, b'a', b'b']),
    ];
    for (name, settings, tables) in forms {
        let (counts, tables) = tables.split_at(3);
        let form = [&[1, settings.len() as u8], counts, settings.as_bytes(), tables, b"\xFFab"].concat();
        put(folder, name, &form)?;
    }
    Ok(())
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Done {
    fs::create_dir_all(folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

/// Deterministic bytes that resemble weights: the exponent varies little, the mantissa is noise.
fn noise(n: usize) -> Vec<u8> {
    let mut seed = 7u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    (0..n / 2).flat_map(|_| [next() as u8, 0x3B | (next() as u8 & 0x81)]).chain((n % 2 == 1).then_some(0)).collect()
}

fn safetensors(folder: &Path) -> Done {
    let headers = [
        ("empty", "{}"),
        ("scalar", r#"{"a":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}"#),
        ("metadata", r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#),
        (
            "two",
            r#"{"b":{"dtype":"I8","shape":[3],"data_offsets":[0,3]},"a":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}}  "#,
        ),
        (
            "void",
            r#"{"a":{"dtype":"U8","shape":[0,9],"data_offsets":[0,0]},"b":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#,
        ),
        ("escapes", r#"{"\u00e9\n\"":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
        ),
        ("terabytes", r#"{"a":{"dtype":"U8","shape":[99999999999999],"data_offsets":[0,99999999999999]}}"#),
        ("overflow", r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#),
        (
            "opaque",
            r#"{"a":{"dtype":"F4","shape":[2,16],"data_offsets":[0,16]},"b":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[16,19]}}"#,
        ),
        ("deep", r#"{"a":{"dtype":"U8","shape":[[[[[[[1]]]]]]],"data_offsets":[0,1]}}"#),
    ];
    for (name, json) in headers {
        put(folder, name, json.as_bytes())?;
        let file = [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &[0; 12]].concat();
        put(folder, &format!("{name}.file"), &file)?;
    }
    Ok(())
}

/// Configurations of models of several families, with their options.
fn config(folder: &Path) -> Done {
    let sizes =
        r#""hidden_size":64,"intermediate_size":96,"num_attention_heads":4,"num_hidden_layers":2,"vocab_size":3"#;
    let families = [
        (
            "llama",
            r#""model_type":"llama","num_key_value_heads":2,"attention_bias":true,"rms_norm_eps":1e-5,
            "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
            "original_max_position_embeddings":8192},"rope_theta":500000.0,"tie_word_embeddings":true"#,
        ),
        ("linear", r#""model_type":"llama","rope_scaling":{"type":"linear","factor":2},"mlp_bias":true"#),
        ("mistral", r#""model_type":"mistral","sliding_window":16,"head_dim":16,"num_key_value_heads":1"#),
        (
            "qwen2",
            r#""model_type":"qwen2","use_sliding_window":true,"sliding_window":8,"max_window_layers":1,
            "rope_parameters":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32,"rope_theta":1e6}"#,
        ),
        ("qwen3", r#""model_type":"qwen3","head_dim":32,"layer_types":["full_attention","full_attention"]"#),
        (
            "phi3",
            r#""model_type":"phi3","partial_rotary_factor":0.75,"original_max_position_embeddings":32,
            "max_position_embeddings":64,"rope_scaling":{"type":"longrope","short_factor":[1,1,1,1,1,1],
            "long_factor":[1,2,3,4,5,6]}"#,
        ),
        ("smollm3", r#""model_type":"smollm3","no_rope_layers":[1,0],"no_rope_layer_interval":4"#),
        ("gemma", r#""model_type":"gemma","head_dim":16,"hidden_activation":"gelu_pytorch_tanh""#),
        (
            "gemma2",
            r#""model_type":"gemma2","attn_logit_softcapping":50.0,"final_logit_softcapping":30.0,
            "query_pre_attn_scalar":16,"sliding_window":8,"head_dim":16"#,
        ),
        (
            "gemma3",
            r#""model_type":"gemma3_text","sliding_window_pattern":2,"rope_local_base_freq":10000.0,
            "rope_theta":1000000.0,"query_pre_attn_scalar":16,"head_dim":16,"sliding_window":8"#,
        ),
        ("unknown", r#""model_type":"mamba","dtype":"bfloat16","quantization_config":{"bits":4}"#),
    ];
    let generation = r#"{"eos_token_id":[1,2],"bos_token_id":0,"temperature":0.5,"top_p":Infinity}"#;
    let tokenizer = r#"{"bos_token":"a","eos_token":{"content":"b","special":true},"add_bos_token":true,
        "extra_special_tokens":{"image_token":"ab"},"additional_special_tokens":["ab"],"chat_template":
        [{"name":"default","template":"{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"},
        {"name":"tool_use","template":"{{ tools | tojson }}"}]}"#;
    for (name, options) in families {
        put(folder, name, format!("{{{sizes},{options}}}\0{generation}\0{tokenizer}").as_bytes())?;
        put(folder, &format!("{name}.alone"), format!("{{{sizes},{options}}}").as_bytes())?;
        let text = format!(r#"{{"model_type":"wrapped","text_config":{{{sizes},{options}}},"eos_token_id":1}}"#);
        put(folder, &format!("{name}.text"), text.as_bytes())?;
    }
    Ok(())
}

/// Values and tensors of every type, models with both kinds of tokenizers, one part of a split file, and malformed
/// files.
fn gguf(folder: &Path) -> Done {
    let temporary = tempfile::tempdir()?;
    let path = temporary.path().join("x.gguf");
    let write = |metadata: &Metadata, specs: &[TensorSpec]| -> Result<Vec<u8>, Box<dyn Error>> {
        let data: Vec<Vec<u8>> = specs.iter().map(|s| noise(s.byte_len().unwrap_or(0) as usize)).collect();
        let tensors: Vec<_> = specs.iter().cloned().zip(data.iter().map(Vec::as_slice)).collect();
        write_gguf(&path, metadata, &tensors)?;
        Ok(fs::read(&path)?)
    };
    let array = Array::Array(vec![Array::U8(vec![1]), Array::Array(vec![Array::String(vec![b"x".to_vec()])])]);
    let values: Metadata = [
        ("u8", Value::U8(1)),
        ("i8", (-1i8).into()),
        ("u16", 1u16.into()),
        ("i16", (-1i16).into()),
        ("u32", 1u32.into()),
        ("i32", (-1i32).into()),
        ("f32", 0.5f32.into()),
        ("bool", true.into()),
        ("string", "text".into()),
        ("array", Value::Array(array)),
        ("u64", 1u64.into()),
        ("i64", (-1i64).into()),
        ("f64", 0.5f64.into()),
        ("general.alignment", 64u32.into()),
    ]
    .into_iter()
    .collect();
    let lists: Metadata = [
        ("u16", Value::from(vec![1u16])),
        ("i32", vec![-1i32, 2].into()),
        ("f32", vec![0.5f32].into()),
        ("bool", vec![true, false].into()),
        ("u64", vec![1u64].into()),
        ("f64", Vec::<f64>::new().into()),
        ("string", vec!["a".to_owned(), String::new()].into()),
    ]
    .into_iter()
    .collect();
    let plain = [DType::F32, DType::F16, DType::Bf16, DType::F64, DType::I8, DType::I16, DType::I32, DType::I64];
    let plain = plain.map(|dtype| TensorSpec::new(dtype.name(), dtype, [2, 3]));
    let blocks = DType::BLOCKS.map(|dtype| TensorSpec::new(dtype.name(), dtype, [2, dtype.weights() as u64]));
    let opaque = |name: &str, bytes| TensorSpec::opaque(name, [256], Opaque { name: name.into(), bytes });
    let opaque = [opaque("Q8_K", 292), opaque("GGML_99", 64), opaque("GGML_5", 10)];
    let split: Metadata = [("split.no", 1u16), ("split.count", 3), ("split.tensors.count", 4)].into_iter().collect();
    let whole = write(&values, &plain)?;
    put(folder, "lists", &write(&lists, &blocks)?)?;
    put(folder, "opaque", &write(&Metadata::new(), &opaque)?)?;
    put(folder, "split", &write(&split, &[])?)?;
    put(folder, "empty", &write(&Metadata::new(), &[])?)?;
    for (name, metadata) in [("llama.bpe", llama("gpt2")), ("llama.spm", llama("llama")), ("unknown", llama("bert"))] {
        let specs = [
            TensorSpec::new("token_embd.weight", DType::F16, [8, 32]),
            TensorSpec::new("blk.0.attn_q.weight", DType::Q4_0, [32, 32]),
        ];
        put(folder, name, &write(&metadata, &specs)?)?;
        let mut specs = specs.to_vec();
        specs.push(TensorSpec::new("rope_freqs.weight", DType::F32, [4]));
        put(folder, &format!("{name}.factors"), &write(&metadata, &specs)?)?;
    }
    for (name, at, value) in
        [("version2", 4, 2u8), ("version1", 4, 1), ("tensors", 12, 1), ("pairs", 20, 1), ("key", 28, 1)]
    {
        let mut file = whole.clone();
        file[at] = value;
        put(folder, name, &file)?;
    }
    put(folder, "values", &whole)
}

/// Metadata of a small model with a tokenizer.
fn llama(tokenizer: &str) -> Metadata {
    let key = |name: &str| format!("llama.{name}");
    let mut metadata: Metadata = [("general.architecture", "llama"), ("general.name", "seed")].into_iter().collect();
    for (name, value) in [
        ("block_count", 1u32),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 8),
        ("vocab_size", 8),
    ] {
        metadata.insert(key(name), value);
    }
    metadata.insert(key("attention.layer_norm_rms_epsilon"), 1e-5f32);
    metadata.insert(key("rope.freq_base"), 10000f32);
    metadata.insert("tokenizer.ggml.model", tokenizer);
    metadata.insert("tokenizer.ggml.pre", "smollm");
    let tokens = match tokenizer {
        "llama" => ["<unk>", "<s>", "</s>", "<0x0A>", "\u{2581}", "a", "b", "ab"],
        _ => ["<|endoftext|>", "a", "b", "ab", "c", "abc", "\u{0120}", "d"],
    };
    metadata.insert("tokenizer.ggml.tokens", tokens.map(String::from).to_vec());
    metadata.insert("tokenizer.ggml.token_type", vec![3i32, 3, 3, 6, 1, 1, 1, 1]);
    metadata.insert("tokenizer.ggml.scores", vec![0f32, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0]);
    metadata.insert("tokenizer.ggml.merges", vec!["a b".to_owned(), "ab c".to_owned()]);
    metadata.insert("tokenizer.ggml.bos_token_id", 1u32);
    metadata.insert("tokenizer.ggml.eos_token_id", 2u32);
    metadata.insert("tokenizer.ggml.add_bos_token", true);
    metadata.insert("tokenizer.chat_template", "{{ messages }}");
    metadata
}

/// Small checkpoints as lossless and lossy files, and their manifests.
fn files(folder: &Path) -> Done {
    let temporary = tempfile::tempdir()?;
    let spec = |name: &str, dtype, shape: &[u64]| TensorSpec::new(name, dtype, shape);
    let checkpoints = [
        ("floats", vec![spec("w", DType::Bf16, &[64, 64]), spec("w.again", DType::Bf16, &[64, 64])]),
        ("halves", vec![spec("conv", DType::F16, &[32, 43, 3]), spec("norm", DType::F16, &[32])]),
        ("bytes", vec![spec("i", DType::I64, &[5, 3]), spec("none", DType::U8, &[0, 4]), spec("x", DType::Bool, &[])]),
        ("eights", vec![spec("f8", DType::F8E4M3, &[130, 32])]),
    ];
    for (name, specs) in checkpoints {
        let model = temporary.path().join(name);
        fs::create_dir_all(&model)?;
        let data: Vec<Vec<u8>> =
            specs.iter().map(|s| noise(s.shape.iter().product::<u64>() as usize * s.dtype.size())).collect();
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let tensors: Vec<(TensorSpec, &[u8])> = specs.into_iter().zip(data).collect();
        write_safetensors(&model.join("model.safetensors"), None, &tensors)?;
        fs::write(model.join("config.json"), "{}")?;
        let checkpoint = Checkpoint::open(&model)?;
        let (out, shards) = (temporary.path().join("s.impasto"), temporary.path().join("s.impasto.shards"));
        let options = Options { threads: 1, ..Options::new(Target::Lossless) };
        let only = (Portion::new(1, 1).ok_or("a portion")?, std::time::Duration::ZERO);
        encode_portion(&checkpoint, &out, &options, None, only, &|_| std::ops::ControlFlow::Continue(()))?;
        put(&folder.join("portion"), name, &fs::read(shards.join("1-of-1.units0-0"))?)?;
        fs::remove_dir_all(shards)?;
        for (how, target) in [("exact", Target::Lossless), ("lossy", Target::BitsPerWeight(5.0))] {
            let path = temporary.path().join("out.impasto");
            let options = Options { threads: 1, segments: 2, ..Options::new(target) };
            if encode(&checkpoint, &path, &options, &|_| std::ops::ControlFlow::Continue(())).is_err() {
                continue; // Too small for this target, or no tensors to code with loss.
            }
            let bytes = fs::read(&path)?;
            let header = Header::read(&bytes)?;
            let manifest = &bytes[Header::SIZE..header.manifest_end() as usize];
            Manifest::parse(manifest, &Limits::default())?;
            put(&folder.join("file"), &format!("{name}.{how}"), &bytes)?;
            put(&folder.join("container"), &format!("{name}.{how}"), &bytes[..bytes.len().min(1500)])?;
            put(&folder.join("container"), &format!("{name}.{how}.manifest"), manifest)?;
        }
    }
    Ok(())
}

/// Deltas of the conformance set, of the base that the target `file` reads them with.
fn deltas(folder: &Path) -> Done {
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/files");
    for name in ["21.6-small-delta", "21.7-small-delta", "21.2-another-root"] {
        let bytes = fs::read(set.join(format!("{name}.impasto")))?;
        let header = Header::read(&bytes)?;
        put(&folder.join("file"), name, &bytes)?;
        put(&folder.join("container"), name, &bytes)?;
        let manifest = &bytes[Header::SIZE..header.manifest_end() as usize];
        put(&folder.join("container"), &format!("{name}.manifest"), manifest)?;
    }
    Ok(())
}

fn tiles(folder: &Path) -> Done {
    let place = Place { rows: 3..9, columns: 5..75 };
    let rows: Vec<i16> = (0..9).map(|r| 30 + r % 4).collect();
    let columns: Vec<i16> = (0..75).map(|c| c % 5).collect();
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
        let elements = noise(place.elements() * dtype.size());
        let layout = dtype.float_layout().ok_or("a float")?;
        let bias = 4 * ((1 << (layout.exponent - 1)) - 6);
        let header = TensorHeader {
            shape: Shape::Parametric(1),
            plane: layout.raw_bits() as u8,
            row_classes: IndexArray::new(rows.iter().map(|r| r + bias).collect()),
            column_classes: IndexArray::new(columns.clone()),
            body: Body::Float,
        };
        for segments in [1, 3] {
            let unit = TileEncoder::new(&header, segments).float(dtype, &place, &elements).ok_or("no code")?;
            let input = tile_input(dtype, Mode::FLOAT, &place, &header.to_bytes(), &unit);
            put(folder, &format!("float.{}.{segments}", dtype.name()), &input)?;
        }
        let (coded, unit) = encode_bytes(&elements, dtype, 3)?;
        put(folder, &format!("bytes.{}", dtype.name()), &tile_input(dtype, coded, &place, &[], &unit))?;
    }
    for dtype in [DType::U8, DType::I32, DType::Bf16, DType::Q4_0] {
        // All, a mask, one value.
        for (name, zeros) in [("all", 0), ("mask", 2), ("constant", 4)] {
            let mut elements = noise(place.elements() * dtype.size());
            for four in elements.chunks_mut(4 * dtype.size()) {
                let end = four.len().min(zeros * dtype.size());
                four[..end].fill(0);
            }
            let unit = digits::encode(&elements, dtype.size()).ok_or("no elements")?;
            put(
                folder,
                &format!("digits.{name}.{}", dtype.name()),
                &tile_input(dtype, Mode::DIGITS, &place, &[], &unit),
            )?;
        }
    }
    for dtype in [DType::Q4_0, DType::Q6K, DType::I64] {
        let (coded, unit) = encode_bytes(&noise(place.elements() * dtype.size()), dtype, 3)?;
        put(folder, &format!("bytes.{}", dtype.name()), &tile_input(dtype, coded, &place, &[], &unit))?;
    }
    for (name, dtype, plane, explicit) in
        [("plain", DType::Bf16, 0, false), ("plane", DType::F32, 5, false), ("explicit", DType::F16, 0, true)]
    {
        // Two terms, one of them constant, beside explicit tables.
        let factors = |n: usize| IndexArray::new(noise(n).iter().map(|&b| i16::from(b) - 128).collect());
        let (of_rows, of_columns) = (factors(rows.len()), factors(columns.len()));
        let constant = Term { scale: 0.5, rows: IndexArray::Constant(3), columns: of_columns.clone() };
        let terms = vec![constant, Term { scale: 1e-4, rows: of_rows, columns: of_columns }];
        let low_rank = explicit.then_some(LowRank { terms });
        let shape = Shape::Parametric(0);
        let explicit_tables = || parametric(Kind::Lattice, 2).map(Shape::Explicit);
        let header = TensorHeader {
            shape: if explicit { explicit_tables().ok_or("shape")? } else { shape },
            plane,
            row_classes: IndexArray::new(rows.iter().map(|r| r - 15).collect()),
            column_classes: IndexArray::new(columns.clone()),
            body: Body::Lattice(Steps {
                rows: Some(IndexArray::new(rows.clone())),
                columns: explicit.then(|| IndexArray::new(columns.clone())),
                low_rank,
                ..Steps::new(0.01)
            }),
        };
        let z: Vec<i32> = noise(place.elements()).iter().map(|&b| i32::from(b as i8) << plane >> 3).collect();
        let unit = TileEncoder::new(&header, 2).lattice(&place, &z).ok_or("no code")?;
        let input = tile_input(dtype, Mode::LATTICE, &place, &header.to_bytes(), &unit);
        put(folder, &format!("lattice.{name}"), &input)?;
        put(folder, &format!("lattice.{name}.over"), &tile_over(input))?;
    }
    put(folder, "same", &tile_over(tile_input(DType::I32, Mode::SAME, &place, &[], &[])))?;
    for format in Format::ALL {
        let width = format.group().unwrap_or(8);
        let across = (columns.len() as u64).div_ceil(width);
        let scales = noise(rows.len() * across as usize).iter().map(|&b| i16::from(b) % 120).collect();
        let groups = Groups::new(format, 1.0, width, columns.len() as u64, IndexArray::new(scales));
        let header = TensorHeader {
            shape: Shape::Parametric(0),
            plane: 0,
            row_classes: IndexArray::Constant(15),
            column_classes: IndexArray::Constant(0),
            body: Body::Format(groups),
        };
        let z: Vec<i32> = noise(place.elements()).iter().map(|&b| i32::from(b as i8) >> 3).collect();
        let unit = TileEncoder::new(&header, 1).lattice(&place, &z).ok_or("no code")?;
        let input = tile_input(DType::Bf16, Mode::LATTICE, &place, &header.to_bytes(), &unit);
        put(folder, &format!("format.{}", format.name()), &input)?;
    }
    Ok(())
}

/// Units of a lattice, a refinement and an exact layer.
fn layers(folder: &Path) -> Done {
    let place = Place { rows: 1..6, columns: 2..43 };
    let (width, n) = (place.columns.len(), place.elements());
    for (dtype, planes, first) in [(DType::Bf16, [0, 0], 4 * 127), (DType::F16, [2, 3], 60), (DType::F32, [0, 16], 500)]
    {
        let header = |body, shape, plane, row_class: i16| TensorHeader {
            shape,
            plane,
            row_classes: IndexArray::new((0..6).map(|r| row_class + r).collect()),
            column_classes: IndexArray::new((0..43).map(|c| c % 3).collect()),
            body,
        };
        // Lattice tables work for every kind; they are repeated where more are needed.
        let tables = |kind: Kind| {
            let tables = parametric(Kind::Lattice, 2).unwrap_or_default();
            Shape::Explicit(tables.into_iter().cycle().take(kind.tables()).collect())
        };
        let steps = Steps { offset: 7, rows: Some(IndexArray::Constant(5)), ..Steps::new(0.25) };
        let base = header(Body::Lattice(steps), Shape::Parametric(1), planes[0], 9);
        let z: Vec<i32> = noise(n).iter().map(|&b| i32::from(b as i8) >> 4).collect();
        let finer = header(Body::Refinement(Refinement::new(5, 0.05)), tables(Kind::Refinement), 0, 1);
        let fine: Vec<i32> = z.iter().zip(noise(n)).map(|(z, b)| 5 * z + i32::from(b % 5) - 2).collect();
        let exact = header(Body::Exact, tables(Kind::Exact), planes[1], first);
        let units = vec![
            (Mode::LATTICE, &base, TileEncoder::new(&base, 2).lattice(&place, &z)),
            (Mode::REFINEMENT, &finer, TileEncoder::new(&finer, 1).refinement(&place, &z, &fine)),
        ];
        let units = units.into_iter().map(|(mode, header, unit)| Some((mode, header.to_bytes(), unit?)));
        let mut units: Vec<_> = units.collect::<Option<_>>().ok_or("no code")?;
        let decoder = TileDecoder::new(dtype, vec![base, finer], Isa::Scalar)?;
        let mut predicted = vec![0; n * dtype.size()];
        let below: Vec<Unit> = units.iter().map(|(mode, _, bytes)| Unit { mode: *mode, bytes }).collect();
        decoder.decode(&below, &place, &mut predicted, width * dtype.size())?;
        let mut elements = predicted.clone();
        elements.iter_mut().step_by(dtype.size()).zip(noise(n)).for_each(|(byte, b)| *byte ^= b & 15);
        let unit = TileEncoder::new(&exact, 3).exact(dtype, &place, &fine, &predicted, &elements).ok_or("no code")?;
        units.push((Mode::EXACT, exact.to_bytes(), unit));
        let input = layers_input(dtype, &place, &units);
        put(folder, dtype.name(), &input)?;
        put(folder, &format!("{}.over", dtype.name()), &layers_over(input))?;
        // The exact layer alone, over a base.
        let exact = layers_input(dtype, &place, &units[2..]);
        put(folder, &format!("{}.exact", dtype.name()), &layers_over(exact))?;
    }
    for blocks in [DType::Q4_1, DType::Q5_0, DType::Iq4Nl] {
        blocks_over_a_lattice(folder, blocks)?;
    }
    Ok(())
}

/// A tile of blocks.
fn blocks_over_a_lattice(folder: &Path, dtype: DType) -> Done {
    let place = Place { rows: 1..4, columns: 32..96 };
    let n = place.elements();
    let header = |body, shape, class| TensorHeader {
        shape,
        plane: 0,
        row_classes: IndexArray::Constant(class),
        column_classes: IndexArray::Constant(3),
        body,
    };
    let steps = Steps { offset: 7, ..Steps::new(0.25) };
    let base = header(Body::Lattice(steps), Shape::Parametric(1), 9);
    let tables = parametric(Kind::Lattice, 2).unwrap_or_default().into_iter().cycle();
    let tables = Shape::Explicit(tables.take(Kind::Exact.tables()).collect());
    let top = header(Body::Blocks(dtype), tables, 4 * 127);
    let z: Vec<i32> = noise(n).iter().map(|&b| i32::from(b as i8) >> 4).collect();
    let blocks: Vec<u8> = noise(n / dtype.weights() * dtype.size()).iter().map(|b| b & 0xBB).collect();
    let base_unit = TileEncoder::new(&base, 2).lattice(&place, &z).ok_or("no code")?;
    let below: Vec<f32> = z.iter().map(|&z| 0.25 * z as f32).collect();
    let unit = TileEncoder::new(&top, 1).blocks(&place, &below, &blocks, 1)?.ok_or("no code")?;
    let units = [(Mode::LATTICE, base.to_bytes(), base_unit), (Mode::BLOCKS, top.to_bytes(), unit)];
    put(folder, dtype.name(), &layers_input(DType::F32, &place, &units))
}

/// Smooth tiles, coded with all tools, without dependent quantization, and by run lengths; and one whose rows are shuffled.
fn transforms(folder: &Path) -> Done {
    let tiles = [
        (64u8, 64u8, "all", 1),
        (30, 100, "-trellis", 1),
        (9, 5, "all", 1),
        (60, 40, "none,+dct,+runs", 1),
        (96, 90, "all", 37),
        (50, 33, "none,+cdf97", 1),
        (31, 70, "none,+cdf53", 1),
        (1, 90, "none,+cdf97", 1),
    ];
    for (n, (height, width, set, shuffle)) in tiles.into_iter().enumerate() {
        let waves = (0..u32::from(height) * u32::from(width)).map(|i| {
            let (r, c) = (i / u32::from(width) * shuffle % u32::from(height), i % u32::from(width));
            (r as f32 / 7.0).sin() * 9.0 + (r * c % 5) as f32 + if c > 40 { 20.0 } else { 0.0 }
        });
        let values: Vec<f32> = waves.collect();
        let coded = code(&Request { as_jpeg: n == 3, ..Request::new(&values, width.into(), set.parse()?) })?;
        put(folder, &format!("{n}"), &transform_input(height, width, n as u8, &coded.unit))?;
    }
    // Blocks that are predicted from another tile. What is decoded does not depend on it, so a seed needs none of its own.
    let (height, width, steps) = (33, 50, Steps::new(1.0));
    let other: Vec<f32> = noise(height * width).iter().map(|&b| f32::from(b) / 8.0).collect();
    let elements: Vec<u8> = other.iter().flat_map(|x| x.to_le_bytes()).collect();
    let place = Place { rows: 0..height, columns: 0..width };
    let reference = Some(Reference { elements: &elements, dtype: DType::F32, steps: &steps, place: &place });
    let values: Vec<f32> = other.iter().enumerate().map(|(i, x)| x + (i % 7) as f32 / 4.0).collect();
    let coded = code(&Request { reference, ..Request::new(&values, width, "all".parse()?) })?;
    put(folder, "reference", &transform_input(33, 50, 128, &coded.unit))
}

fn entropy(folder: &Path) -> Done {
    for kind in [Kind::Float, Kind::Lattice] {
        for (shape, low, width) in [(0u8, 0i16, 32usize), (1, 8, 33), (3, 20, 7), (4, 34, 130)] {
            let rows: Vec<i16> = (0..4).map(|r| low + r).collect();
            let columns: Vec<i16> = (0..width as i16).map(|c| c % 7).collect();
            let wide = |classes: &[i16]| classes.iter().map(|&c| i32::from(c)).collect::<Vec<_>>();
            let values: Vec<i32> = noise(4 * width).iter().map(|&b| i32::from(b) % 60 - 4).collect();
            let values: Vec<i32> = match kind {
                Kind::Float => values.iter().map(|v| v & 0x3FF).collect(),
                _ => values,
            };
            let tables = parametric(kind, shape).ok_or("shape")?;
            let coded = encode_segment(kind, &wide(&rows), &wide(&columns), &values, &tables).ok_or("no code")?;
            let input = entropy_input(kind, shape, &rows, &columns, &coded.states, &coded.words);
            put(folder, &format!("{}.{shape}", kind.mode()), &input)?;
        }
    }
    Ok(())
}
