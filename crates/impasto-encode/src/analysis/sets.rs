//! The sets of tools that are compared.

use crate::transform::{Tools, TransformTool};

/// The set that is called *none*, as far as it is within `all`: RDOQ alone, which the lattice has, too.
pub fn none(all: Tools) -> Tools {
    within(all, &[TransformTool::Rdoq])
}

/// Returns the tools without which a tool would mean nothing, as far as they are within `all`: a prediction or a transform
/// needs blocks of a size that suits it, and a partition needs something that differs from block to block. Others are
/// looked at next to the least that a picture codec has: quarters and the cosine transform.
pub fn company(tool: TransformTool, all: Tools) -> Tools {
    use TransformTool::{CoLocated, Dc, Dct, Dst, Hadamard, Left, Linear, Planar, Quarters, Rdoq, Sum, Top, Trellis};
    let needed: &[TransformTool] = match tool {
        Rdoq => &[],
        Trellis => &[Rdoq],
        Quarters => &[Rdoq, Dct],
        Dc | Top | Left | Planar | Sum | Linear | CoLocated | Dct | Dst | Hadamard => &[Rdoq, Quarters],
        _ => &[Rdoq, Quarters, Dct],
    };
    within(all, needed)
}

fn within(all: Tools, tools: &[TransformTool]) -> Tools {
    tools.iter().filter(|&&tool| all.has(tool)).fold(Tools::NONE, |set, &tool| set.with(tool, true))
}

/// The sets of tools that one tool is looked at with.
pub struct Trials {
    pub name: &'static str,
    /// All tools but this one.
    pub left_out: Tools,
    pub company: Tools,
    /// The company and this tool.
    pub alone: Tools,
}

/// Returns the sets for each tool of `all`, in the order of [`TransformTool::ALL`].
pub fn trials(all: Tools) -> Vec<Trials> {
    let trials = |(tool, name): (TransformTool, &'static str)| {
        let company = company(tool, all);
        Trials { name, left_out: all.with(tool, false), company, alone: company.with(tool, true) }
    };
    TransformTool::ALL.into_iter().filter(|(tool, _)| all.has(*tool)).map(trials).collect()
}

/// Returns the names of the tools of a set.
pub fn names(tools: Tools) -> Vec<&'static str> {
    TransformTool::ALL.into_iter().filter(|(tool, _)| tools.has(*tool)).map(|(_, name)| name).collect()
}
