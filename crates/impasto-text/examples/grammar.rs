//! Time of grammars: reading the vocabulary, compiling a schema, and masks along a text.
//!
//! ```sh
//! cargo run --release -p impasto-text --features grammar --example grammar -- MODEL/tokenizer.json '<|im_end|>'
//! ```

use std::error::Error;
use std::time::Instant;

use impasto_text::Tokenizer;
use impasto_text::grammar::{Constraint, Grammars};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (path, eos) = arguments.next().zip(arguments.next()).ok_or("usage: grammar tokenizer.json EOS")?;
    let tokenizer = Tokenizer::from_json(&std::fs::read(path)?)?;
    let eos = tokenizer.token_to_id(&eos).ok_or("no such end-of-sequence token")?;
    let milliseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let grammars = Grammars::new(&tokenizer, &[eos])?;
    println!("vocabulary of {}: {:.0} ms", tokenizer.vocab_size(), milliseconds(begun));
    let schema = json!({
        "type": "object", "required": ["name", "tags"],
        "properties": {
            "name": {"type": "string", "maxLength": 80},
            "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 4},
            "size": {"type": "number"},
        },
    });
    let text =
        r#"{"name": "A fairly long name with many words, and a comma", "tags": ["red", "green"], "size": 12.75}"#;
    for (name, constraint) in [("JSON object", Constraint::JsonObject), ("JSON schema", Constraint::JsonSchema(schema))]
    {
        let begun = Instant::now();
        let mut matcher = grammars.compile(&constraint)?;
        let compiled = milliseconds(begun);
        let (begun, mut longest, ids) = (Instant::now(), 0.0, tokenizer.encode(text, false)?);
        for &id in &ids {
            let begun = Instant::now();
            matcher.mask()?;
            longest = milliseconds(begun).max(longest);
            matcher.commit(id)?;
        }
        let mean = milliseconds(begun) / ids.len() as f64;
        println!("{name}: compiled in {compiled:.2} ms; a token {mean:.2} ms, at most {longest:.2} ms");
    }
    Ok(())
}
