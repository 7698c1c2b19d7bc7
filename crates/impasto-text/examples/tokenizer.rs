//! Measures how a tokenizer loads, and compares its tokens with those of the library `tokenizers`.
//!
//! ```sh
//! cargo run --release -p impasto-text --example tokenizer -- compile tokenizer.json FORM
//! cargo run --release -p impasto-text --example tokenizer -- load library|json|compiled FILE
//! cargo run --release -p impasto-text --example tokenizer -- compare tokenizer.json FORM TEXT...
//! ```

use std::error::Error;
use std::time::Instant;

use impasto_text::{Tokenizer, tokenizer};

/// Random strings that are compared.
const STRINGS: usize = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["compile", json, form] => {
            let made = tokenizer::compile(&std::fs::read(json)?, &[]).map_err(|why| format!("{why:?}"))?;
            Ok(std::fs::write(form, made)?)
        }
        ["load", way, file] => load(way, &std::fs::read(file)?),
        ["compare", json, form, ref texts @ ..] => compare(&std::fs::read(json)?, &std::fs::read(form)?, texts),
        _ => Err("see the head of this example".into()),
    }
}

/// Prints the time of a load, and how much it raises the peak of the memory.
fn load(way: &str, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let (before, begun) = (peak()?, Instant::now());
    let (tokens, seconds) = match way {
        "library" => {
            let loaded = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
            (loaded.get_vocab_size(true), begun.elapsed().as_secs_f64())
        }
        "json" => (Tokenizer::from_json(bytes)?.vocab_size(), begun.elapsed().as_secs_f64()),
        _ => (Tokenizer::from_compiled(bytes)?.vocab_size(), begun.elapsed().as_secs_f64()),
    };
    println!("{way}: {tokens} tokens, {seconds:.3} s, {:.1} MB", (peak()? - before) as f64 / 1e3);
    Ok(())
}

/// The peak of resident memory in kB.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Compares tokens and decoded text on random strings and on each line of the texts.
fn compare(json: &[u8], form: &[u8], texts: &[&str]) -> Result<(), Box<dyn Error>> {
    let library = tokenizers::Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
    let ours = [("json", Tokenizer::from_json(json)?), ("compiled", Tokenizer::from_compiled(form)?)];
    let (mut strings, mut tokens, mut different) = (0, 0, 0);
    let mut check = |text: &str| -> Result<(), Box<dyn Error>> {
        let encoding = library.encode_fast(text, true).map_err(|error| error.to_string())?;
        let decoded = library.decode(encoding.get_ids(), false).map_err(|error| error.to_string())?;
        (strings, tokens) = (strings + 1, tokens + encoding.len());
        for (way, tokenizer) in &ours {
            let ids = tokenizer.encode(text, true)?;
            if ids != encoding.get_ids() || tokenizer.decode(&ids, false)? != decoded {
                different += 1;
                println!("{way} differs on {text:?}");
            }
        }
        Ok(())
    };
    let mut random = Random(1);
    for _ in 0..STRINGS {
        check(&random.text())?;
    }
    for path in texts {
        let text = std::fs::read_to_string(path)?;
        check(&text)?;
        text.split_inclusive('\n').try_for_each(&mut check)?;
    }
    println!("{strings} strings, {tokens} tokens, {different} different");
    Ok(())
}

/// A generator of random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % n
    }

    /// Characters of one block of Unicode, of all blocks, or mostly letters and spaces.
    fn text(&mut self) -> String {
        let (kind, base) = (self.below(3), self.below(0x1100) << 8);
        let character = |random: &mut Self| match kind {
            0 => char::from_u32((base + random.below(256)) as u32),
            1 => char::from_u32(random.below(0x11_0000) as u32),
            _ => b"  \n\teaionrst0'.,<>_AE".get(random.below(24) as usize).map(|&byte| byte as char),
        };
        (0..self.below(40)).filter_map(|_| character(self)).collect()
    }
}
