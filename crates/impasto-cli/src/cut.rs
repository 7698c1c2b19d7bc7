//! Options for using part of a file, shared by `truncate`, `run`, `chat`, `eval`, `bench` and `decode`.

use clap::Args;
use impasto::Cut;

use crate::args::{parse_bits, parse_size};

/// How much of a file to use.
#[derive(Args)]
#[group(id = "cut", multiple = false)]
pub struct CutArgs {
    /// Use only the first part of the file, up to this size, such as 80MB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub budget: Option<u64>,
    /// Use the file up to layer N (`inspect` lists the layers). KEY=N applies to tensors whose name contains KEY, as in
    /// attn=3,mlp=1; the first match counts. All other tensors are used whole, or up to a layer given without a key:
    /// 2,attn=3.
    #[arg(long, value_name = "N|KEY=N,...", value_parser = parse_layer)]
    pub layer: Option<Cut>,
    /// Use only the first part of the file, up to this many bits per weight.
    #[arg(long, value_name = "BITS", value_parser = parse_bits)]
    pub bpw: Option<f64>,
}

impl CutArgs {
    /// Returns the requested cut; `None` for the whole file.
    pub fn cut(&self) -> Option<Cut> {
        let budget = self.budget.map(Cut::Bytes);
        budget.or_else(|| self.layer.clone()).or_else(|| self.bpw.map(Cut::BitsPerWeight))
    }
}

/// Parses the value of `--layer`.
pub fn parse_layer(text: &str) -> Result<Cut, String> {
    let number = |text: &str| match text.trim().parse::<usize>() {
        Ok(layer) if layer > 0 => Ok(layer),
        _ => Err(format!("{text:?} is not a layer number; layers count from 1")),
    };
    if !text.contains(['=', ',']) {
        return Ok(Cut::Layer(number(text)?));
    }
    let mut parts: Vec<(String, usize)> = Vec::new();
    for part in text.split(',') {
        let (key, layer) = part.split_once('=').map_or(("", part), |(key, layer)| (key.trim(), layer));
        if part.contains('=') && key.is_empty() {
            return Err(format!("there is no key before the = in {part:?}"));
        }
        if parts.iter().any(|(other, _)| other == key) {
            let what = if key.is_empty() { "a layer for all other tensors".to_owned() } else { format!("{key:?}") };
            return Err(format!("{what} is given twice"));
        }
        parts.push((key.to_owned(), number(layer)?));
    }
    Ok(Cut::Parts(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers() {
        let parts =
            |parts: &[(&str, usize)]| Ok(Cut::Parts(parts.iter().map(|&(key, n)| (key.to_owned(), n)).collect()));
        assert_eq!(parse_layer("3"), Ok(Cut::Layer(3)));
        assert_eq!(parse_layer("attn=3,mlp=1"), parts(&[("attn", 3), ("mlp", 1)]));
        assert_eq!(parse_layer("2, attn = 3"), parts(&[("", 2), ("attn", 3)]));
        for bad in ["", "0", "-1", "x", "attn", "attn=", "attn=0", "=3", "2,3", "a=1,a=2", "attn=3,", "attn=3=4", "1.5"]
        {
            assert!(parse_layer(bad).is_err(), "{bad:?}");
        }
    }
}
