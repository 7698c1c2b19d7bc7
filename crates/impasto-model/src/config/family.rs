//! The families of models that run, each written as its differences from Llama.
//!
//! A family says how its blocks are built and what its `config.json` may leave out (the defaults of the configuration
//! classes of transformers 5). A checkpoint of another family, or an option that its family does not have, is refused.

use super::Activation;

/// How the blocks of a family are built, apart from sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    /// Queries, keys and values come from one matrix, `qkv_proj`, and the MLP's gate and up from `gate_up_proj`.
    pub fused: bool,
    /// Each head of the queries and of the keys goes through an RMSNorm before it gets its position.
    pub qk_norms: bool,
    /// What attention and MLP return goes through an RMSNorm before it is added, beside the norm of their input.
    pub post_norms: bool,
    /// Norms multiply by 1 + weight.
    pub norms_plus_one: bool,
    /// Embeddings are multiplied by the square root of the hidden size.
    pub scaled_embedding: bool,
}

/// Biases of the projections of attention.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AttentionBias {
    Never,
    /// On queries, keys and values.
    Qkv,
    /// On these and the output when `attention_bias` says so.
    Configured,
}

/// Which blocks attend to a sliding window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    None,
    /// Every block when `sliding_window` is a number.
    All,
    /// With `use_sliding_window`, those from `max_window_layers` on; or `layer_types`.
    Upper,
    /// All but every n-th; n is `sliding_window_pattern`. Or `layer_types`.
    Pattern(u64),
    /// With `use_sliding_window`, those without rotary positions; or `layer_types`.
    WithoutRope,
}

/// Which blocks have which rotary positions.
#[derive(Clone, Copy)]
pub(super) enum Positions {
    /// The same in all blocks.
    Same,
    /// One set for blocks that see everything, one, with this base, for those with a window.
    ByWindow(f64),
    /// None where `no_rope_layers` says so, else in every n-th block, n being `no_rope_layer_interval`.
    SomeWithout(u64),
}

/// A cap on scores or logits, x to c tanh(x / c).
#[derive(Clone, Copy)]
pub(super) enum Cap {
    Never,
    /// As the configuration says, which may leave it out for this.
    Configured(Option<f64>),
}

/// What `config.json` may leave out.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub(super) vocab_size: Option<u64>,
    pub(super) num_heads: Option<u64>,
    pub(super) num_kv_heads: Option<u64>,
    pub(super) head_dim: Option<u64>,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    pub(super) positions: u64,
    /// Context trained on, where frequencies are stretched for a longer one.
    pub(super) original_positions: Option<u64>,
    pub(super) window: Option<u64>,
    pub(super) activation: Activation,
    pub(super) tied: bool,
}

/// One family.
pub(super) struct Family {
    /// `model_type` in config.json.
    pub(super) model_type: &'static str,
    /// What `architectures` in config.json must hold.
    pub(super) architecture: &'static str,
    pub(super) structure: Structure,
    pub(super) attention_bias: AttentionBias,
    /// Whether `mlp_bias` may ask for biases in the MLP.
    pub(super) mlp_bias: bool,
    pub(super) windows: Windows,
    pub(super) positions: Positions,
    /// Whether `partial_rotary_factor` may leave a part of each head without positions.
    pub(super) partial_rotary: bool,
    /// Scores are divided by the root of `query_pre_attn_scalar`, by default this, and not of the width of a head.
    pub(super) query_scalar: Option<f64>,
    pub(super) attention_softcap: Cap,
    pub(super) logit_softcap: Cap,
    /// Whether the sizes stand in `text_config`, beside those of an image encoder that does not run.
    pub(super) multimodal: bool,
    /// What tensor names begin with, and the name of the output projection: the first pair that a checkpoint fits.
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
    names: &[("model.", "lm_head.weight")],
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

/// SmolLM and SmolLM2 are Llama.
const SMOLLM3: Family = Family {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    windows: Windows::WithoutRope,
    positions: Positions::SomeWithout(4),
    defaults: Defaults { rope_theta: 2e6, positions: 32_768, tied: true, ..LLAMA.defaults },
    ..LLAMA
};

/// Abdin et al., arXiv 2404.14219; Phi-4-mini is of this family, too.
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

/// Gemma Team, arXiv 2503.19786. Its configuration has a cap on scores, too, which transformers does not apply.
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

/// The text part of a Gemma 3 that also sees.
const GEMMA3: Family = Family {
    model_type: "gemma3",
    architecture: "Gemma3ForConditionalGeneration",
    multimodal: true,
    names: &[("language_model.model.", "language_model.lm_head.weight"), ("model.language_model.", "lm_head.weight")],
    ..GEMMA3_TEXT
};

/// All families that run.
pub(super) static FAMILIES: [Family; 10] =
    [LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, PHI3, GEMMA, GEMMA2, GEMMA3_TEXT, GEMMA3];
