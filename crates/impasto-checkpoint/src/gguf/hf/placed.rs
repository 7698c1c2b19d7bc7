//! The tensors of a Hugging Face folder as those of a GGUF.

use std::collections::HashSet;

use super::rules::TranslationRule;
use super::{Mapped, NameMap};

/// The output matrix, which may be the embedding instead.
pub const OUTPUT: &str = "lm_head.weight";

/// A tensor of a Hugging Face folder.
#[derive(Clone, Copy, Debug)]
pub struct Folded<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Its dimensions.
    pub dims: &'a [u64],
    /// Whether it is the same as another tensor.
    pub is_tied: bool,
}

/// The tensors of a folder that a GGUF gets.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// The tensors, each with its name in the GGUF and its change.
    pub tensors: Vec<(Folded<'a>, Mapped)>,
    /// A note about tensors that the GGUF does not get, if there are any.
    pub left_out: Option<String>,
}

/// Returns the tensors that a GGUF gets.
///
/// `used` are the names of the tensors that a model with this configuration has, besides an output matrix; `None` if that is not
/// known. Others are left out, since llama.cpp would use biases that are too many, or refuse the file.
///
/// # Errors
/// If the model is of an architecture that is not translated, or a tensor is missing, unknown or of another shape.
pub fn place<'a>(
    config: &[u8],
    used: Option<&HashSet<String>>,
    tensors: &[Folded<'a>],
) -> Result<Placed<'a>, TranslationRule> {
    let names = NameMap::of_config(config)
        .ok_or_else(|| TranslationRule::unsupported("its tensor names in GGUF are not known"))?;
    let known: HashSet<&str> = tensors.iter().map(|tensor| tensor.name).collect();
    let lacks = |name: &&String| !known.contains(name.as_str()) && *name != OUTPUT;
    if let Some(missing) = used.into_iter().flatten().filter(lacks).min() {
        let rule = format!("config.json asks for tensor {missing:?}, which is missing");
        return Err(TranslationRule::unsupported(rule));
    }
    let (mut placed, mut unused) = (Vec::new(), Vec::new());
    for tensor in tensors {
        let Folded { name, dims, is_tied } = *tensor;
        if is_tied && name == OUTPUT {
            // llama.cpp uses the embedding if there is no output matrix.
            continue;
        }
        if used.is_some_and(|used| !used.contains(name) && name != OUTPUT) {
            unused.push(name);
            continue;
        }
        let Some(mapped) = names.to_gguf(name) else {
            let rule = format!("tensor {name:?} has no equivalent in a GGUF of this architecture");
            return Err(TranslationRule::unsupported(rule));
        };
        if !mapped.change.fits(dims) {
            let rule = format!("tensor {name:?}: its shape {dims:?} is not that of whole attention heads");
            return Err(TranslationRule::unsupported(rule));
        }
        placed.push((*tensor, mapped));
    }
    Ok(Placed { tensors: placed, left_out: left_out(&unused) })
}

/// Returns a note about tensors that are not in the GGUF, if there are any.
fn left_out(unused: &[&str]) -> Option<String> {
    let (first, others) = unused.split_first()?;
    Some(match others.len() {
        0 => format!("left out, because config.json does not use it: {first}"),
        more => format!("left out, because config.json does not use them: {first} and {more} more"),
    })
}
