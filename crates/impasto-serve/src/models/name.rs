//! What a request calls a model: `name`, `name:2` for a layer of its file, `name:3.5bpw` for the finest layer of at most so many
//! bits per weight.

/// The quality that a name asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// All of the file.
    Whole,
    /// The layer of this number, from 1.
    Layer(usize),
    /// The finest layer of at most so many bits per weight.
    BitsPerWeight(f64),
}

/// Returns the model and the quality that `name` asks for, if it has a quality.
pub fn split(name: &str) -> Option<(&str, Wanted)> {
    let (model, quality) = name.rsplit_once(':')?;
    if let Some(bits) = quality.strip_suffix("bpw") {
        let bits = bits.parse::<f64>().ok().filter(|bits| bits.is_finite() && *bits > 0.0)?;
        return Some((model, Wanted::BitsPerWeight(bits)));
    }
    let layer = quality.parse::<usize>().ok().filter(|&layer| layer > 0)?;
    Some((model, Wanted::Layer(layer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualities_are_told_from_names() {
        assert_eq!(split("smol:2"), Some(("smol", Wanted::Layer(2))));
        assert_eq!(split("smol:3.5bpw"), Some(("smol", Wanted::BitsPerWeight(3.5))));
        assert_eq!(split("a:b:1"), Some(("a:b", Wanted::Layer(1))));
        for name in ["smol", "smol:", "smol:0", "smol:-1", "smol:xbpw", "smol:infbpw", "smol:-2bpw", "org/smol:latest"] {
            assert_eq!(split(name), None, "{name}");
        }
    }
}
