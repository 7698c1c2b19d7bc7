//! Running a model: definition, float reference forward, tokenizer, sampling, evaluation.
