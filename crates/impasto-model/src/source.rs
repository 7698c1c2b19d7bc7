//! Where a model comes from.

/// Where a model's weights and assets come from: a checkpoint, an `.impasto` file, a test.
pub trait WeightSource {
    /// Shape of the tensor `name`, outermost dimension first, or `None` when there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<u64>>;

    /// Values of the tensor `name` in row-major order, widened or rounded to binary32.
    ///
    /// # Errors
    /// Whatever keeps the source from giving the tensor: absent, damaged, unreadable.
    fn load_f32(&self, name: &str) -> std::result::Result<Vec<f32>, Box<dyn std::error::Error + Send + Sync>>;

    /// Bytes of an asset that rides along with the weights, or `None`. The names asked for are `config.json`,
    /// `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.
    fn asset(&self, name: &str) -> Option<Vec<u8>>;
}
