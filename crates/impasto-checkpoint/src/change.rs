//! What a tensor goes through between a Hugging Face folder and a GGUF.

/// What differs, besides its name, between a tensor in a Hugging Face folder and the same tensor in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Nothing.
    None,
    /// The rows of each head lie in another order.
    ///
    /// transformers rotates row `j` of a head with row `j + head_dim/2`; ggml, for Llama and SmolLM 3, row `2j`
    /// with row `2j + 1`. So row `s * head_dim/2 + j` of a head in a Hugging Face folder (`s` is 0 or 1) is row
    /// `2j + s` of the head in GGUF. (llama.cpp, `LlamaModel.permute` of its converter: reshape to heads x 2 x
    /// head_dim/2, swap the last two; transformers, `rotate_half` in `modeling_llama.py`.) A bias is permuted as if
    /// its elements were rows.
    HeadRows {
        /// Rows of a head; even.
        head_dim: u64,
    },
    /// The values in GGUF are larger by 1: Gemma multiplies by `1 + weight`, ggml by the weight alone.
    PlusOne,
}

impl Change {
    /// Where the row `row` of the Hugging Face tensor lies in the GGUF tensor.
    pub fn gguf_row(self, row: u64) -> u64 {
        let Change::HeadRows { head_dim } = self else { return row };
        let (half, within) = (head_dim / 2, row % head_dim);
        row - within + 2 * (within % half) + within / half
    }

    /// Where the row `row` of the GGUF tensor lies in the Hugging Face tensor.
    pub fn hf_row(self, row: u64) -> u64 {
        let Change::HeadRows { head_dim } = self else { return row };
        let (half, within) = (head_dim / 2, row % head_dim);
        row - within + (within % 2) * half + within / 2
    }

    /// Whether a tensor of so many rows can go through it: whole heads only.
    pub fn fits(self, rows: u64) -> bool {
        match self {
            Change::HeadRows { head_dim } => rows.is_multiple_of(head_dim),
            Change::None | Change::PlusOne => true,
        }
    }

    /// The values of the GGUF tensor, made into those of the Hugging Face tensor (rows are not moved).
    pub fn values_to_hf(self, values: &mut [f32]) {
        if self == Change::PlusOne {
            values.iter_mut().for_each(|v| *v -= 1.0);
        }
    }

    /// The values of the Hugging Face tensor, made into those of the GGUF tensor (rows are not moved).
    pub fn values_to_gguf(self, values: &mut [f32]) {
        if self == Change::PlusOne {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
    }
}
