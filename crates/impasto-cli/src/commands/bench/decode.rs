//! `impasto bench decode`: measures decoding speed.

use std::path::Path;
use std::time::Instant;

use impasto::FileError;
use rayon::prelude::*;
use serde_json::json;

use crate::args::Args;
use crate::commands::with_threads;
use crate::exit::Code;
use crate::model::{memory_limit, open};
use crate::output::{bytes, print, print_json};

pub fn run(args: &Args, path: &Path, repeat: u32) -> anyhow::Result<Code> {
    let file = open(args, path, None)?;
    let names: Vec<&str> = file
        .tensor_names()
        .filter(|name| file.reader().find_tensor(name).is_some_and(|t| file.reader().resolve(t) == t))
        .collect();
    let reader = file.reader();
    let own = |name: &&str| {
        let object = reader.find_tensor(name)?;
        Some(reader.matrix(object)?.elements() * reader.objects().get(object as usize)?.dtype()?.size() as u64)
    };
    let (needed, limit) = (names.iter().filter_map(own).fold(0, u64::saturating_add), memory_limit(args));
    if needed > limit {
        let (file, name) = (path.display().to_string(), "all tensors".to_owned());
        return Err(FileError::MemoryLimit { file, name, bytes: needed, limit }.into());
    }
    let mut memory: Vec<Vec<u8>> = Vec::new();
    for name in &names {
        memory.push(with_threads(args, || file.tensor(name)?.bytes())??);
    }
    let size: u64 = memory.iter().map(|m| m.len() as u64).sum();
    let mut decode = || {
        let begun = Instant::now();
        let all = names.par_iter().zip(&mut memory).with_max_len(1);
        all.try_for_each(|(name, out)| file.tensor(name)?.read_into(out)).map(|()| begun.elapsed().as_secs_f64())
    };
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..=repeat {
        seconds.push(with_threads(args, &mut decode)??);
    }
    // The first run warms up the caches and the mapping.
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let rate = size as f64 / median / 1e9;
    if args.json {
        print_json(&json!({
            "file": path.display().to_string(), "bytes": size, "seconds": median, "gb_per_s": rate, "memory": "warm",
            "threads": with_threads(args, rayon::current_num_threads)?, "rounds": repeat,
        }))?;
    } else {
        let spread = (seconds[0], seconds[seconds.len() - 1]);
        print(&format!(
            "{}: {} of tensors decoded in {median:.3} s (median of {repeat}; {:.3} to {:.3}): {rate:.2} GB/s\n",
            path.display(),
            bytes(size),
            spread.0,
            spread.1,
        ))?;
    }
    Ok(Code::Success)
}
