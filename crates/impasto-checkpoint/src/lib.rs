//! Checkpoints in and out: safetensors files and Hugging Face folders.
