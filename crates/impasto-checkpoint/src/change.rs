//! Differences between a tensor in a Hugging Face folder and in a GGUF.

/// The difference, besides the name, between a tensor in a Hugging Face folder and the same tensor in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// None.
    None,
    /// The rows of each attention head are in a different order.
    ///
    /// transformers rotates row `j` of a head together with row `j + head_dim/2`; ggml, for Llama and SmolLM 3, row
    /// `2j` with row `2j + 1`. So row `s * head_dim/2 + j` of a head in a Hugging Face folder (`s` is 0 or 1) is row
    /// `2j + s` of the head in GGUF. (`LlamaModel.permute` in llama.cpp's converter: reshape to heads x 2 x head_dim/2,
    /// swap the last two; `rotate_half` in transformers' `modeling_llama.py`.)
    HeadRows {
        /// Rows of a head; even.
        head_dim: u64,
    },
    /// The elements of each attention head of a vector, a bias, are in a different order: that of
    /// [`HeadRows`](Change::HeadRows).
    HeadElements {
        /// Elements of a head; even.
        head_dim: u64,
    },
    /// The values in GGUF are larger by 1: Gemma multiplies by `1 + weight`, ggml by the weight itself.
    PlusOne,
}

impl Change {
    /// Returns the index in the GGUF tensor of row `row` of the Hugging Face tensor.
    pub fn gguf_row(self, row: u64) -> u64 {
        let Change::HeadRows { head_dim } = self else { return row };
        let (half, within) = (head_dim / 2, row % head_dim);
        row - within + 2 * (within % half) + within / half
    }

    /// Returns the index in the Hugging Face tensor of row `row` of the GGUF tensor.
    pub fn hf_row(self, row: u64) -> u64 {
        let Change::HeadRows { head_dim } = self else { return row };
        let (half, within) = (head_dim / 2, row % head_dim);
        row - within + (within % 2) * half + within / 2
    }

    /// Returns whether the change applies to a tensor with this shape. Attention heads must be whole.
    pub fn fits(self, shape: &[u64]) -> bool {
        match (self, shape) {
            (Change::HeadRows { head_dim }, [rows, _]) => rows.is_multiple_of(head_dim),
            (Change::HeadElements { head_dim }, [elements]) => elements.is_multiple_of(head_dim),
            (Change::HeadRows { .. } | Change::HeadElements { .. }, _) => false,
            (Change::None | Change::PlusOne, _) => true,
        }
    }

    /// Returns whether rows differ within, not only in their order.
    pub fn is_within_rows(self) -> bool {
        matches!(self, Change::HeadElements { .. } | Change::PlusOne)
    }

    /// Converts whole rows of the GGUF tensor to those of the Hugging Face tensor, in place. Rows are not moved.
    pub fn values_to_hf(self, values: &mut [f32]) {
        match self {
            Change::None | Change::HeadRows { .. } => {}
            Change::HeadElements { head_dim } => reorder(values, |i| Change::HeadRows { head_dim }.gguf_row(i)),
            Change::PlusOne => values.iter_mut().for_each(|v| *v -= 1.0),
        }
    }

    /// Converts whole rows of the Hugging Face tensor to those of the GGUF tensor, in place. Rows are not moved.
    pub fn values_to_gguf(self, values: &mut [f32]) {
        match self {
            Change::None | Change::HeadRows { .. } => {}
            Change::HeadElements { head_dim } => reorder(values, |i| Change::HeadRows { head_dim }.hf_row(i)),
            Change::PlusOne => values.iter_mut().for_each(|v| *v += 1.0),
        }
    }
}

/// Replaces each value by the one at index `source` of its own.
fn reorder(values: &mut [f32], source: impl Fn(u64) -> u64) {
    let before = values.to_vec();
    values.iter_mut().zip(0..).for_each(|(value, i)| *value = before[source(i) as usize]);
}
