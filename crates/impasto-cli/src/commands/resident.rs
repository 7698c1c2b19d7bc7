//! The memory that the weights of a file take while it runs.

use std::path::Path;

use anyhow::Context;
use impasto::weights_of;
use impasto_runtime::{Model, Packing, Residence, RunOptions};
use serde_json::{Value, json};

use crate::args::Args;
use crate::model::{give_back, open};
use crate::output::{bytes, table};
use crate::running::Running;

/// Bytes of an outlier in memory.
const OUTLIER: usize = 4;

/// The weights of a model in memory, under residence packed, which is the default.
pub struct Resident {
    /// Bytes of all weights.
    bytes: usize,
    /// Weights of the file, tied ones once.
    weights: usize,
    /// Its packed matrices.
    packing: Packing,
}

impl Resident {
    /// Loads a file as `impasto run` does, and looks how much memory its weights take.
    ///
    /// # Errors
    /// If the model cannot run, or takes more memory than it may.
    pub fn of(args: &Args, path: &Path) -> anyhow::Result<Resident> {
        let options = RunOptions { packs: None, ..Running::default().options(args, Residence::Packed)? };
        let file = open(args, path, None)?;
        let weights = file.weights();
        let model = Model::load(&*weights_of(file)?, &options).with_context(|| path.display().to_string())?;
        let packing = model.runtime().map(|runtime| runtime.packing()).unwrap_or_default();
        let bytes = model.memory_bytes();
        drop(model);
        give_back();
        Ok(Resident { bytes, weights: weights as usize, packing })
    }

    fn bits(&self, bytes: usize, weights: usize) -> f64 {
        bytes as f64 * 8.0 / weights.max(1) as f64
    }

    /// Returns a line with the bytes.
    pub fn to_line(&self) -> String {
        let bits = self.bits(self.bytes, self.weights);
        format!("in memory, packed: {}, {bits:.3} bits per weight\n", bytes(self.bytes as u64))
    }

    /// Returns what takes these bytes.
    fn parts(&self) -> [(&'static str, usize); 6] {
        let Packing { cell_bits, places, weights, outliers, head_bytes, column_bytes, bytes } = self.packing;
        let cells = cell_bits / 8;
        let padding = (cells as f64 * (1.0 - weights as f64 / places.max(1) as f64)) as usize;
        let rest = bytes.saturating_sub(cells + outliers * OUTLIER + head_bytes + column_bytes);
        [
            ("integers", cells - padding),
            ("padding of rows and columns", padding),
            ("outliers", outliers * OUTLIER),
            ("widths, rows and their steps", head_bytes + rest),
            ("columns and their steps", column_bytes),
            ("low-rank parts, floats", self.bytes.saturating_sub(bytes)),
        ]
    }

    /// Returns a line, and a table of what takes these bytes.
    pub fn to_text(&self) -> String {
        let mut rows = vec![["in memory", "bytes", "bits per packed weight"].map(String::from).to_vec()];
        let bits = |bytes| format!("{:.3}", self.bits(bytes, self.packing.weights));
        rows.extend(self.parts().map(|(name, part)| vec![name.to_owned(), bytes(part as u64), bits(part)]));
        match self.packing.weights {
            0 => self.to_line(),
            _ => format!("{}{}", self.to_line(), table(&rows)),
        }
    }

    /// Returns the same for programs.
    pub fn to_json(&self) -> Value {
        let parts: serde_json::Map<_, _> =
            self.parts().into_iter().map(|(name, part)| (name.to_owned(), json!(part))).collect();
        json!({
            "residence": "packed", "bytes": self.bytes, "bits_per_weight": self.bits(self.bytes, self.weights),
            "packed_weights": self.packing.weights, "outliers": self.packing.outliers, "parts": parts,
        })
    }
}
