//! Tensor names in both formats, and how the tensors differ.

use crate::change::Change;
use crate::gguf::Metadata;

use super::Architecture::{self, *};
use super::keys::Keys;
use super::{config, to_gguf};

/// The name of a tensor in the other format, and its change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The name in the other format.
    pub name: String,
    /// The difference in rows or values.
    pub change: Change,
}

/// The tensor names of one model. Unknown names are the same in both formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameMap {
    architecture: Architecture,
    head_dim: u64,
}

/// Tensors outside the blocks: GGUF, Hugging Face.
const MODEL: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of each block whose names are the same in all architectures that have them.
const BLOCK: [(&str, &str); 10] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The norm before the MLP, in architectures with none after it.
const PLAIN_NORM: [(&str, &str); 1] = [("ffn_norm", "post_attention_layernorm")];

/// The norms of Gemma 2 and 3.
const SANDWICH_NORMS: [(&str, &str); 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// The fused projections of Phi 3. They take precedence over [`BLOCK`], where `ffn_up` is a different tensor.
const FUSED: [(&str, &str); 2] = [("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")];

/// Rotary factors, which are tensors in GGUF and lists in `config.json`.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";
pub(super) const ROPE_LONG: &str = "rope_factors_long.weight";
pub(super) const ROPE_SHORT: &str = "rope_factors_short.weight";

impl NameMap {
    /// Returns the names of a model with this architecture and head dimension, or `None` if the head dimension is
    /// invalid: zero, or odd for interleaved heads.
    pub fn new(architecture: Architecture, head_dim: u64) -> Option<NameMap> {
        let sound = head_dim > 0 && (head_dim.is_multiple_of(2) || !architecture.interleaves_heads());
        sound.then_some(NameMap { architecture, head_dim })
    }

    /// Returns the names of a GGUF file's model, or `None` if [`assets`](super::assets) has no `config.json` for it.
    pub fn of_gguf(metadata: &Metadata) -> Option<NameMap> {
        let keys = Keys::new(metadata);
        let heads = config::Heads::read(&keys).ok()?;
        NameMap::new(keys.architecture().ok()?, heads.dim)
    }

    /// Returns the names of the model that a `config.json` describes, or `None` if [`metadata`](super::metadata) cannot
    /// translate it.
    pub fn of_config(config: &[u8]) -> Option<NameMap> {
        let (architecture, head_dim) = to_gguf::head_dim(config).ok()?;
        NameMap::new(architecture, head_dim)
    }

    /// Returns the architecture.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Returns the Hugging Face name of a GGUF tensor.
    pub fn to_hf(&self, gguf: &str) -> Option<Mapped> {
        let (stem, kind) = split_kind(gguf)?;
        let name = match block_and_rest(stem, "blk.") {
            Some((block, rest)) => format!("model.layers.{block}.{}.{kind}", self.block_row(|row| row.0 == rest)?.1),
            None => format!("{}.{kind}", MODEL.iter().find(|row| row.0 == stem)?.1),
        };
        Some(Mapped { change: self.change(gguf), name })
    }

    /// Returns the GGUF name of a Hugging Face tensor.
    pub fn to_gguf(&self, hf: &str) -> Option<Mapped> {
        let (stem, kind) = split_kind(hf)?;
        let name = match block_and_rest(stem, "model.layers.") {
            Some((block, rest)) => format!("blk.{block}.{}.{kind}", self.block_row(|row| row.1 == rest)?.0),
            // llama.cpp has no output projection for Gemma 1 and 2.
            None if stem == "lm_head" && matches!(self.architecture, Gemma | Gemma2) => return None,
            None => format!("{}.{kind}", MODEL.iter().find(|row| row.1 == stem)?.0),
        };
        Some(Mapped { change: self.change(&name), name })
    }

    /// Returns the Hugging Face name and the change of a GGUF tensor with this shape; an unknown tensor keeps its name.
    /// Returns `None` if a Hugging Face folder stores its values in `config.json`.
    pub fn hf_tensor(&self, gguf: &str, shape: &[u64]) -> Option<Mapped> {
        if NameMap::is_in_config(gguf) {
            return None;
        }
        let mapped = self.to_hf(gguf).filter(|mapped| mapped.change.fits(shape));
        Some(mapped.unwrap_or_else(|| Mapped { name: gguf.to_owned(), change: Change::None }))
    }

    /// Returns whether a GGUF tensor has no counterpart because `config.json` contains its values (rotary factors).
    pub fn is_in_config(gguf: &str) -> bool {
        [ROPE_FREQS, ROPE_LONG, ROPE_SHORT].contains(&gguf)
    }

    fn block_row(&self, is_it: impl Fn(&(&'static str, &'static str)) -> bool) -> Option<(&'static str, &'static str)> {
        let (own, norms): (&[_], &[_]) = match self.architecture {
            Llama | SmolLm3 | Qwen2 | Qwen3 | Gemma => (&[], &PLAIN_NORM),
            Gemma2 | Gemma3 => (&[], &SANDWICH_NORMS),
            Phi3 => (&FUSED, &PLAIN_NORM),
        };
        // An architecture-specific name for a GGUF tensor overrides the common one.
        let hidden = |row: &&(&'static str, _)| !own.iter().any(|mine: &(&str, &str)| mine.0 == row.0);
        own.iter().chain(norms).chain(BLOCK.iter().filter(hidden)).copied().find(|row| is_it(row))
    }

    fn change(&self, gguf: &str) -> Change {
        let (stem, kind) = split_kind(gguf).unwrap_or((gguf, ""));
        let (last, head_dim) = (stem.rsplit('.').next().unwrap_or(stem), self.head_dim);
        match last {
            "attn_q" | "attn_k" if self.architecture.interleaves_heads() => match kind {
                "bias" => Change::HeadElements { head_dim },
                _ => Change::HeadRows { head_dim },
            },
            _ if self.architecture.is_gemma() && last.ends_with("norm") => Change::PlusOne,
            _ => Change::None,
        }
    }
}

/// Splits `blk.3.attn_q.weight` into `blk.3.attn_q` and `weight`.
fn split_kind(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))
}

/// Splits off the block index, which must be in canonical decimal form, from the name within the block.
fn block_and_rest<'a>(stem: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let (block, rest) = stem.strip_prefix(prefix)?.split_once('.')?;
    let plain = block.parse::<u32>().is_ok_and(|n| n.to_string() == block);
    plain.then_some((block, rest))
}
