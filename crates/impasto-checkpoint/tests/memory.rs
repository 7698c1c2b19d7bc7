//! Resident memory of a pass over a checkpoint. This test has its own process, so that nothing else maps files.
#![cfg(target_os = "linux")]

#[allow(dead_code)] // Other tests use the rest.
#[path = "it/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::path::Path;

use impasto_checkpoint::Checkpoint;

/// Returns the resident bytes of this process that belong to mapped files.
fn resident_file_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssFile:")).expect("RssFile in the status");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}

const TENSOR: u64 = 8 << 20;
const TENSORS: u64 = 8;

/// Writes a file that starts with `header`, followed by zeros for all tensors.
fn large(path: &Path, header: &[u8]) {
    fs::write(path, header).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(header.len() as u64 + TENSOR * TENSORS).unwrap();
}

fn passes(path: &Path) {
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(checkpoint.tensors().len() as u64, TENSORS);
    let touch = |t| checkpoint.bytes(t).iter().map(|&b| u64::from(b)).sum::<u64>();
    let before = resident_file_bytes();
    let mut peak = 0;
    for tensor in checkpoint.tensors() {
        assert_eq!(touch(tensor), 0);
        peak = peak.max(resident_file_bytes() - before);
        checkpoint.release(tensor);
    }
    assert!((TENSOR..2 * TENSOR).contains(&peak), "peak of {peak} bytes");
    // For comparison: without the advice, everything stays resident.
    for tensor in checkpoint.tensors() {
        touch(tensor);
    }
    assert!(resident_file_bytes() - before >= TENSORS * TENSOR);
}

// One test, so that the two passes do not run in parallel.
#[test]
fn released_tensors_leave_memory() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<String> =
        (0..TENSORS).map(|i| common::entry(&format!("t{i}"), i * TENSOR, (i + 1) * TENSOR)).collect();
    let safetensors = dir.path().join("large.safetensors");
    large(&safetensors, &common::file_of(&format!("{{{}}}", entries.join(",")), &[]));
    passes(&safetensors);

    let entries: Vec<Vec<u8>> =
        (0..TENSORS).map(|i| common::gguf::entry(&format!("t{i}"), &[TENSOR], 24, i * TENSOR)).collect();
    let gguf = dir.path().join("large.gguf");
    large(&gguf, &common::gguf::file_of(&[], &entries, &[]));
    passes(&gguf);
}
