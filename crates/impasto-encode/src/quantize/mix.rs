//! The types that llama.cpp gives to the tensors of a GGUF: those that its `llama-quantize` picks under the same name, so that files
//! have the same size and run on the same kernels.

use std::fmt;
use std::str::FromStr;

use impasto_checkpoint::gguf::Metadata;
use impasto_core::DType;

/// A mix of types, under the name that llama.cpp gives it. In those that end in `_S` (small) nearly all matrices have the type in
/// the name; in those that end in `_M` or `_L`, some of the matrices that matter most have a finer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum GgufMix {
    Q2K,
    Q3KS,
    Q3KM,
    Q3KL,
    Iq4Xs,
    Iq4Nl,
    Q4_0,
    Q4_1,
    Q4KS,
    Q4KM,
    Q5_0,
    Q5_1,
    Q5KS,
    Q5KM,
    Q6K,
    Q8_0,
}

use GgufMix::{Iq4Nl, Iq4Xs, Q2K, Q3KL, Q3KM, Q3KS, Q4_0, Q4_1, Q4KM, Q4KS, Q5_0, Q5_1, Q5KM, Q5KS, Q6K, Q8_0};

impl GgufMix {
    /// All mixes, from the smallest to the largest.
    pub const ALL: [GgufMix; 16] =
        [Q2K, Q3KS, Q3KM, Q3KL, Iq4Xs, Iq4Nl, Q4_0, Q4KS, Q4KM, Q4_1, Q5_0, Q5KS, Q5KM, Q5_1, Q6K, Q8_0];

    /// Returns its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Q2K => "q2_k",
            Q3KS => "q3_k_s",
            Q3KM => "q3_k_m",
            Q3KL => "q3_k_l",
            Iq4Xs => "iq4_xs",
            Iq4Nl => "iq4_nl",
            Q4_0 => "q4_0",
            Q4_1 => "q4_1",
            Q4KS => "q4_k_s",
            Q4KM => "q4_k_m",
            Q5_0 => "q5_0",
            Q5_1 => "q5_1",
            Q5KS => "q5_k_s",
            Q5KM => "q5_k_m",
            Q6K => "q6_k",
            Q8_0 => "q8_0",
        }
    }

    /// Returns llama.cpp's number for a file of this mix (`llama_ftype`).
    pub fn file_type(self) -> u32 {
        match self {
            Q4_0 => 2,
            Q4_1 => 3,
            Q8_0 => 7,
            Q5_0 => 8,
            Q5_1 => 9,
            Q2K => 10,
            Q3KS => 11,
            Q3KM => 12,
            Q3KL => 13,
            Q4KS => 14,
            Q4KM => 15,
            Q5KS => 16,
            Q5KM => 17,
            Q6K => 18,
            Iq4Nl => 25,
            Iq4Xs => 30,
        }
    }

    /// The type of most matrices.
    fn usual(self) -> DType {
        match self {
            Q2K => DType::Q2K,
            Q3KS | Q3KM | Q3KL => DType::Q3K,
            Iq4Xs => DType::Iq4Xs,
            Iq4Nl => DType::Iq4Nl,
            Q4_0 => DType::Q4_0,
            Q4_1 => DType::Q4_1,
            Q4KS | Q4KM => DType::Q4K,
            Q5_0 => DType::Q5_0,
            Q5_1 => DType::Q5_1,
            Q5KS | Q5KM => DType::Q5K,
            Q6K => DType::Q6K,
            Q8_0 => DType::Q8_0,
        }
    }
}

impl fmt::Display for GgufMix {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GgufMix {
    type Err = String;

    fn from_str(text: &str) -> Result<GgufMix, String> {
        let found = GgufMix::ALL.into_iter().find(|mix| mix.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("the types are {}", GgufMix::ALL.map(GgufMix::name).join(", ")))
    }
}

/// Parts of the names of matrices that llama.cpp keeps as they are.
const KEPT: [&str; 28] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd",
    "token_types",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    "sam.pos_embd",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
];

/// What the choice depends on, besides names and shapes.
#[derive(Clone, Copy, Debug)]
struct Model {
    /// Blocks of the network.
    blocks: usize,
    experts: u64,
    /// Heads of queries for each head of keys.
    heads_per_key: u64,
    /// A model of 80 blocks that shares keys and values, of which llama.cpp makes an exception.
    is_70b: bool,
    /// Matrices of values.
    values: usize,
    has_output: bool,
    is_calibrated: bool,
}

impl Model {
    fn new(metadata: &Metadata, tensors: &[(&str, &[u64])], is_calibrated: bool) -> Model {
        let architecture = metadata.str("general.architecture").unwrap_or_default();
        let number = |key: &str| metadata.u64(&format!("{architecture}.{key}"));
        let heads = number("attention.head_count").unwrap_or(1);
        let keys = number("attention.head_count_kv").unwrap_or(heads).max(1);
        let blocks = number("block_count").unwrap_or(0);
        let shares = architecture != "llama" || heads != keys;
        Model {
            blocks: usize::try_from(blocks).unwrap_or(usize::MAX),
            experts: number("expert_count").unwrap_or(0),
            heads_per_key: heads / keys,
            is_70b: blocks == 80 && shares && matches!(architecture, "llama" | "qwen2"),
            values: tensors.iter().filter(|(name, _)| is_value(name)).count(),
            has_output: tensors.iter().any(|(name, _)| *name == "output.weight"),
            is_calibrated,
        }
    }
}

/// Returns the type of each tensor, given by its name in the GGUF and its dimensions, slowest first; `None` for one that is not
/// quantized.
pub fn types(mix: GgufMix, metadata: &Metadata, tensors: &[(&str, &[u64])], is_calibrated: bool) -> Vec<Option<DType>> {
    let model = Model::new(metadata, tensors, is_calibrated);
    // llama.cpp counts matrices of a kind in this order.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (block_of(tensors[i].0), tensors[i].0));
    let (mut types, mut values, mut downs) = (vec![None; tensors.len()], 0, 0);
    for i in order {
        let (name, dims) = tensors[i];
        let (false, Some(&columns)) = (is_kept(name, dims), dims.last()) else { continue };
        let at = At { values, downs };
        types[i] = Some(fitting(chosen(mix, &model, name, columns, at), columns));
        values += usize::from(is_value(name));
        downs += usize::from(name.contains("ffn_down"));
    }
    types
}

/// How many matrices of a kind came before.
#[derive(Clone, Copy)]
struct At {
    values: usize,
    downs: usize,
}

fn is_value(name: &str) -> bool {
    ["attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"].iter().any(|part| name.contains(part))
}

fn is_kept(name: &str, dims: &[u64]) -> bool {
    // ggml knows no dimension of 1 after the last one that is larger.
    let is_matrix = dims.iter().rev().skip(1).any(|&dim| dim > 1);
    !is_matrix || !name.ends_with("weight") || KEPT.iter().any(|part| name.contains(part))
}

fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// The first and the last eighth of the blocks, and each third one between them.
fn matters_more(block: usize, blocks: usize) -> bool {
    let eighth = blocks / 8;
    block < eighth || block >= blocks.saturating_mul(7) / 8 || (block - eighth) % 3 == 2
}

/// The type of a matrix whose rows are whole blocks of it.
fn chosen(mix: GgufMix, model: &Model, name: &str, columns: u64, at: At) -> DType {
    let usual = mix.usual();
    let is_embedding = ["token_embd.weight", "per_layer_token_embd.weight"].contains(&name);
    if name == "output.weight" || (is_embedding && !model.has_output) {
        return match usual {
            DType::Q8_0 => DType::Q8_0,
            _ if !columns.is_multiple_of(usual.weights() as u64) => DType::Q8_0,
            _ => DType::Q6K,
        };
    }
    if is_embedding {
        return usual;
    }
    let is_eight = model.experts == 8;
    if is_value(name) {
        let is_shared = model.heads_per_key >= 4;
        let found = match mix {
            Q2K if is_shared => DType::Q4K,
            Q2K => DType::Q3K,
            Q3KM if at.values < 2 => DType::Q5K,
            Q3KM => DType::Q4K,
            Q3KL => DType::Q5K,
            Iq4Nl | Iq4Xs if is_shared => DType::Q5K,
            Q4KM | Q5KM if matters_more(at.values, model.values) => DType::Q6K,
            Q4KS if at.values < 4 => DType::Q5K,
            _ => usual,
        };
        return match found {
            _ if is_eight => DType::Q8_0,
            DType::Q3K | DType::Q4K if model.is_70b => DType::Q5K,
            found => found,
        };
    }
    if name.contains("attn_k.weight") && is_eight {
        return DType::Q8_0;
    }
    if name.contains("ffn_down") {
        let block = if model.experts > 1 { block_of(name).unwrap_or(at.downs) } else { at.downs };
        let is_early = block < model.blocks / 8;
        return match mix {
            Q2K => DType::Q3K,
            Q3KM if block < model.blocks / 16 => DType::Q5K,
            Q3KM => DType::Q4K,
            Q3KL => DType::Q5K,
            Q4KM | Q5KM if matters_more(block, model.blocks) => DType::Q6K,
            Q4KS if is_early => DType::Q5K,
            Iq4Nl | Iq4Xs if is_early && !model.is_calibrated => DType::Q5K,
            Q4_0 if is_early && model.is_calibrated => DType::Q4_1,
            Q5_0 if is_early && model.is_calibrated => DType::Q5_1,
            _ => usual,
        };
    }
    if name.contains("attn_output.weight") {
        return match mix {
            Q2K | Q3KS | Q3KM | Iq4Nl | Iq4Xs | Q4KS | Q4KM if is_eight => DType::Q5K,
            _ if is_eight => usual,
            Q2K => DType::Q3K,
            Q3KM => DType::Q4K,
            Q3KL => DType::Q5K,
            _ => usual,
        };
    }
    usual
}

/// The type itself or, if rows of so many columns are not whole blocks of it, another one for which they are.
fn fitting(dtype: DType, columns: u64) -> DType {
    let fits = |dtype: DType| columns.is_multiple_of(dtype.weights() as u64);
    let other = match dtype {
        dtype if fits(dtype) => dtype,
        DType::Iq4Xs => DType::Iq4Nl,
        DType::Q2K | DType::Q3K => DType::Q4_0,
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        dtype => dtype,
    };
    if fits(other) { other } else { DType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(blocks: u32, heads: u32, keys: u32) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "llama");
        metadata.insert("llama.block_count", blocks);
        metadata.insert("llama.attention.head_count", heads);
        metadata.insert("llama.attention.head_count_kv", keys);
        metadata
    }

    fn kinds(mix: GgufMix, columns: u64, keys: u32) -> Vec<(String, Option<DType>)> {
        let mut tensors = vec![("token_embd.weight".to_owned(), vec![320, columns])];
        for block in 0..16 {
            for (part, dims) in [
                ("attn_norm.weight", vec![columns]),
                ("attn_q.weight", vec![64, columns]),
                ("attn_k.weight", vec![64, columns]),
                ("attn_v.weight", vec![64, columns]),
                ("attn_output.weight", vec![64, columns]),
                ("ffn_down.weight", vec![64, columns]),
            ] {
                tensors.push((format!("blk.{block}.{part}"), dims));
            }
        }
        let given: Vec<(&str, &[u64])> = tensors.iter().map(|(name, dims)| (name.as_str(), &dims[..])).collect();
        let types = types(mix, &metadata(16, 8, keys), &given, true);
        tensors.iter().map(|(name, _)| name.clone()).zip(types).collect()
    }

    fn blocks(found: &[(String, Option<DType>)], part: &str, dtype: DType) -> Vec<usize> {
        let is_it = |(name, found): &&(String, Option<DType>)| name.contains(part) && *found == Some(dtype);
        found.iter().filter(is_it).filter_map(|(name, _)| block_of(name)).collect()
    }

    #[test]
    fn finer_types_go_where_llama_cpp_puts_them() {
        let found = kinds(Q4KM, 256, 8);
        let finer = [0, 1, 4, 7, 10, 13, 14, 15];
        assert_eq!(blocks(&found, "attn_v", DType::Q6K), finer);
        assert_eq!(blocks(&found, "ffn_down", DType::Q6K), finer);
        assert_eq!(blocks(&found, "attn_q.", DType::Q4K).len(), 16);
        assert_eq!(found[0].1, Some(DType::Q6K), "the embedding is the output, too");
        assert_eq!(found[1].1, None, "a norm");
        let found = kinds(Q4KS, 256, 8);
        assert_eq!(blocks(&found, "attn_v", DType::Q5K), [0, 1, 2, 3]);
        assert_eq!(blocks(&found, "ffn_down", DType::Q5K), [0, 1]);
        assert_eq!(blocks(&kinds(Iq4Nl, 256, 2), "attn_v", DType::Q5K).len(), 16, "four heads share values");
        assert_eq!(blocks(&kinds(Q8_0, 256, 8), "", DType::Q8_0).len(), 80);
        assert_eq!(blocks(&kinds(Q4_0, 256, 8), "ffn_down", DType::Q4_1), [0, 1]);
        assert_eq!(blocks(&kinds(Q3KM, 256, 8), "attn_v", DType::Q5K), [0, 1]);
        assert_eq!(blocks(&kinds(Q2K, 256, 8), "ffn_down", DType::Q3K).len(), 16);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_other_types() {
        let found = kinds(Q4KM, 96, 8);
        assert_eq!(found[0].1, Some(DType::Q8_0));
        assert_eq!(blocks(&found, "attn_v", DType::Q8_0).len(), 8);
        assert_eq!(blocks(&found, "attn_q", DType::Q5_0).len(), 16);
        assert_eq!(blocks(&kinds(Q5KS, 96, 8), "attn_q", DType::Q5_1).len(), 16);
        assert_eq!(blocks(&kinds(Iq4Xs, 96, 8), "attn_q", DType::Iq4Nl).len(), 16);
        assert_eq!(blocks(&kinds(Q2K, 96, 8), "attn_q", DType::Q4_0).len(), 16);
        assert_eq!(blocks(&kinds(Q6K, 40, 8), "attn_q", DType::F16).len(), 16);
    }

    #[test]
    fn names_are_read_back() {
        for mix in GgufMix::ALL {
            assert_eq!(mix.name().to_uppercase().parse(), Ok(mix));
        }
        assert!("q4_k".parse::<GgufMix>().is_err_and(|error| error.contains("q4_k_m")));
        let mut numbers: Vec<u32> = GgufMix::ALL.map(GgufMix::file_type).into();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 16);
    }
}
