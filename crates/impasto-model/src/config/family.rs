//! The supported model families, each written as its differences from Llama.
//!
//! A family defines how its blocks are built, and the defaults for what `config.json` leaves out (those of the
//! configuration classes of transformers 5). Other families, and options that a family does not have, are errors.

use super::Activation;

/// The structure of a family's blocks, apart from sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    /// One matrix, `qkv_proj`, computes queries, keys and values; another, `gate_up_proj`, computes the gate and up
    /// projections of the MLP.
    pub fused: bool,
    /// Each query and key head passes through an RMSNorm before its rotation.
    pub qk_norms: bool,
    /// The outputs of attention and MLP also pass through an RMSNorm before they are added to the residual stream.
    pub post_norms: bool,
    /// Norms multiply by 1 + weight.
    pub norms_plus_one: bool,
    /// Embeddings are multiplied by the square root of the hidden size.
    pub scaled_embedding: bool,
}

/// Biases of the attention projections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AttentionBias {
    Never,
    /// On queries, keys and values.
    Qkv,
    /// On queries, keys, values and the output, if `attention_bias` is true.
    Configured,
}

/// Which blocks use a sliding window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    None,
    /// Every block, if `sliding_window` is a number.
    All,
    /// With `use_sliding_window`, the blocks from `max_window_layers` on; `layer_types` overrides this.
    Upper,
    /// All but every n-th block; n is `sliding_window_pattern`. `layer_types` overrides this.
    Pattern(u64),
    /// With `use_sliding_window`, the blocks without rotary positions; `layer_types` overrides this.
    WithoutRope,
}

/// Which blocks have which rotary positions.
#[derive(Clone, Copy)]
pub(super) enum Positions {
    /// The same in all blocks.
    Same,
    /// One set for blocks with full attention; another, by default with this base, for blocks with a sliding window.
    ByWindow(f64),
    /// As `no_rope_layers` says; without it, every n-th block has none. n is `no_rope_layer_interval`, by default this
    /// value.
    SomeWithout(u64),
}

/// A soft cap on scores or logits: c tanh(x / c).
#[derive(Clone, Copy)]
pub(super) enum Cap {
    Never,
    /// From the configuration; the value is the family's default.
    Configured(Option<f64>),
}

/// Defaults for what `config.json` leaves out.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub(super) vocab_size: Option<u64>,
    pub(super) num_heads: Option<u64>,
    pub(super) num_kv_heads: Option<u64>,
    pub(super) head_dim: Option<u64>,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    pub(super) positions: u64,
    /// The context length used in training, for families that stretch frequencies for longer contexts.
    pub(super) original_positions: Option<u64>,
    pub(super) window: Option<u64>,
    pub(super) activation: Activation,
    pub(super) tied: bool,
}

/// A model family.
pub(super) struct Family {
    /// `model_type` in config.json.
    pub(super) model_type: &'static str,
    /// The name that `architectures` in config.json must contain.
    pub(super) architecture: &'static str,
    pub(super) structure: Structure,
    pub(super) attention_bias: AttentionBias,
    /// Whether the family supports `mlp_bias`.
    pub(super) mlp_bias: bool,
    pub(super) windows: Windows,
    pub(super) positions: Positions,
    /// Whether the family supports `partial_rotary_factor`, which leaves part of each head without rotary positions.
    pub(super) partial_rotary: bool,
    /// The default of `query_pre_attn_scalar`, if scores are divided by its square root and not by that of the head
    /// width.
    pub(super) query_scalar: Option<f64>,
    pub(super) attention_softcap: Cap,
    pub(super) logit_softcap: Cap,
    /// Whether the text model is described in `text_config`. Its image encoder is not supported.
    pub(super) multimodal: bool,
    /// Candidate pairs of tensor name prefix and output projection name. The first pair that fits the checkpoint is
    /// used.
    pub(super) names: &'static [(&'static str, &'static str)],
    pub(super) defaults: Defaults,
}

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    structure: Structure {
        fused: false,
        qk_norms: false,
        post_norms: false,
        norms_plus_one: false,
        scaled_embedding: false,
    },
    attention_bias: AttentionBias::Configured,
    mlp_bias: true,
    windows: Windows::None,
    positions: Positions::Same,
    partial_rotary: false,
    query_scalar: None,
    attention_softcap: Cap::Never,
    logit_softcap: Cap::Never,
    multimodal: false,
    // A checkpoint of the base class has no prefix.
    names: &[("model.", "lm_head.weight"), ("", "lm_head.weight")],
    defaults: Defaults {
        vocab_size: None,
        num_heads: None,
        num_kv_heads: None,
        head_dim: None,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        positions: 2048,
        original_positions: None,
        window: None,
        activation: Activation::Silu,
        tied: false,
    },
};

const MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    attention_bias: AttentionBias::Never,
    mlp_bias: false,
    windows: Windows::All,
    defaults: Defaults { positions: 131_072, window: Some(4096), ..LLAMA.defaults },
    ..LLAMA
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    attention_bias: AttentionBias::Qkv,
    mlp_bias: false,
    windows: Windows::Upper,
    defaults: Defaults { positions: 32_768, window: Some(4096), ..LLAMA.defaults },
    ..LLAMA
};

const QWEN3: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    structure: Structure { qk_norms: true, ..LLAMA.structure },
    attention_bias: AttentionBias::Configured,
    defaults: Defaults { head_dim: Some(128), ..QWEN2.defaults },
    ..QWEN2
};

/// SmolLM and SmolLM2 use the Llama family.
const SMOLLM3: Family = Family {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    windows: Windows::WithoutRope,
    positions: Positions::SomeWithout(4),
    defaults: Defaults { rope_theta: 2e6, positions: 32_768, tied: true, ..LLAMA.defaults },
    ..LLAMA
};

/// Abdin et al., arXiv 2404.14219. Phi-4-mini belongs to this family too.
const PHI3: Family = Family {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    structure: Structure { fused: true, ..LLAMA.structure },
    attention_bias: AttentionBias::Never,
    mlp_bias: false,
    windows: Windows::All,
    partial_rotary: true,
    defaults: Defaults { rms_norm_eps: 1e-5, positions: 4096, original_positions: Some(4096), ..LLAMA.defaults },
    ..LLAMA
};

/// Gemma Team, arXiv 2403.08295.
const GEMMA: Family = Family {
    model_type: "gemma",
    architecture: "GemmaForCausalLM",
    structure: Structure { norms_plus_one: true, scaled_embedding: true, ..LLAMA.structure },
    mlp_bias: false,
    defaults: Defaults {
        head_dim: Some(256),
        positions: 8192,
        activation: Activation::GeluTanh,
        tied: true,
        ..LLAMA.defaults
    },
    ..LLAMA
};

/// Gemma Team, arXiv 2408.00118.
const GEMMA2: Family = Family {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    structure: Structure { post_norms: true, ..GEMMA.structure },
    windows: Windows::Pattern(2),
    query_scalar: Some(256.0),
    attention_softcap: Cap::Configured(Some(50.0)),
    logit_softcap: Cap::Configured(Some(30.0)),
    defaults: Defaults { window: Some(4096), ..GEMMA.defaults },
    ..GEMMA
};

/// Gemma Team, arXiv 2503.19786. Its configuration also has a cap on scores, which transformers ignores.
const GEMMA3_TEXT: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    structure: Structure { qk_norms: true, ..GEMMA2.structure },
    windows: Windows::Pattern(6),
    positions: Positions::ByWindow(1e4),
    attention_softcap: Cap::Never,
    logit_softcap: Cap::Configured(None),
    defaults: Defaults {
        vocab_size: Some(262_208),
        num_heads: Some(8),
        num_kv_heads: Some(4),
        rope_theta: 1e6,
        positions: 131_072,
        ..GEMMA2.defaults
    },
    ..GEMMA2
};

/// The text part of a multimodal Gemma 3.
const GEMMA3: Family = Family {
    model_type: "gemma3",
    architecture: "Gemma3ForConditionalGeneration",
    multimodal: true,
    names: &[
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("language_model.", "lm_head.weight"),
    ],
    ..GEMMA3_TEXT
};

/// All supported families.
pub(super) static FAMILIES: [Family; 10] =
    [LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, PHI3, GEMMA, GEMMA2, GEMMA3_TEXT, GEMMA3];
