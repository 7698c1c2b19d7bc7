//! Switches of the tools in mode transform.

use std::fmt;
use std::str::FromStr;

/// A tool of mode transform that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TransformTool {
    /// Splits into four quarters.
    Quarters,
    /// Splits into two halves.
    Halves,
    /// Prediction by the mean of the neighbours.
    Dc,
    /// Prediction by the samples above.
    Top,
    /// Prediction by the samples to the left.
    Left,
    /// Prediction by interpolation.
    Planar,
    /// Prediction by the sum of the samples above and to the left.
    Sum,
    /// Prediction by the samples above and to the left, with factors fitted to the block.
    Linear,
    /// Discrete cosine transform.
    Dct,
    /// Discrete sine transform.
    Dst,
    /// Walsh-Hadamard transform.
    Hadamard,
    /// Levels chosen by error and cost, not to the nearest.
    Rdoq,
    /// Dependent quantization: points that depend on the levels before, chosen by a trellis.
    Trellis,
    /// Levels coded by run lengths along the scan.
    Runs,
    /// Rows of a tile in another order.
    RowOrder,
    /// Columns of a tile in another order.
    ColumnOrder,
    /// Transforms learned from a tile (Karhunen-Loève).
    Klt,
    /// Wavelet transform of the whole tile with the filter 5/3, in planes with zerotrees, instead of blocks.
    Cdf53,
    /// Likewise, with the filter 9/7.
    Cdf97,
    /// Prediction by the samples at the same place of another tensor, with a factor fitted to the block.
    CoLocated,
}

impl TransformTool {
    /// All tools with their names.
    pub const ALL: [(TransformTool, &'static str); 20] = [
        (TransformTool::Quarters, "quarters"),
        (TransformTool::Halves, "halves"),
        (TransformTool::Dc, "dc"),
        (TransformTool::Top, "top"),
        (TransformTool::Left, "left"),
        (TransformTool::Planar, "planar"),
        (TransformTool::Sum, "sum"),
        (TransformTool::Linear, "linear"),
        (TransformTool::Dct, "dct"),
        (TransformTool::Dst, "dst"),
        (TransformTool::Hadamard, "hadamard"),
        (TransformTool::Rdoq, "rdoq"),
        (TransformTool::Trellis, "trellis"),
        (TransformTool::Runs, "runs"),
        (TransformTool::RowOrder, "row-order"),
        (TransformTool::ColumnOrder, "column-order"),
        (TransformTool::Klt, "klt"),
        (TransformTool::Cdf53, "cdf53"),
        (TransformTool::Cdf97, "cdf97"),
        (TransformTool::CoLocated, "co-located"),
    ];
}

/// A set of tools: `all`, `none`, or changes to `all` such as `-dct,-halves`, or to `none` such as `none,+dct`.
///
/// Without any tool, mode transform is not tried at all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tools(u32);

impl Tools {
    /// Every tool.
    pub const ALL: Tools = Tools((1 << TransformTool::ALL.len()) - 1);
    /// No tool.
    pub const NONE: Tools = Tools(0);

    /// Those of the preset of JPEG.
    pub const JPEG: Tools = {
        use TransformTool::{ColumnOrder, Dc, Dct, Rdoq, RowOrder, Runs};
        Tools(
            1 << Dc as u32
                | 1 << Dct as u32
                | 1 << Rdoq as u32
                | 1 << Runs as u32
                | 1 << RowOrder as u32
                | 1 << ColumnOrder as u32,
        )
    };
    /// The tools that make variants of a whole tile: other orders, learned transforms, run lengths.
    pub const VARIANTS: Tools = {
        use TransformTool::{ColumnOrder, Klt, RowOrder, Runs};
        Tools(1 << Runs as u32 | 1 << RowOrder as u32 | 1 << ColumnOrder as u32 | 1 << Klt as u32)
    };

    /// The tools that code a whole tile in planes, instead of blocks.
    pub const PLANES: Tools = Tools(1 << TransformTool::Cdf53 as u8 | 1 << TransformTool::Cdf97 as u8);

    /// Returns the tools that are in both sets.
    #[must_use]
    pub fn and(self, other: Tools) -> Tools {
        Tools(self.0 & other.0)
    }

    /// Returns the tools that are in this set only.
    #[must_use]
    pub fn without(self, other: Tools) -> Tools {
        Tools(self.0 & !other.0)
    }

    /// Returns whether a tool is in the set.
    pub fn has(self, tool: TransformTool) -> bool {
        self.0 >> tool as u8 & 1 == 1
    }

    /// Returns the set with a tool, or without it.
    #[must_use]
    pub fn with(self, tool: TransformTool, on: bool) -> Tools {
        let bit = 1 << tool as u8;
        Tools(if on { self.0 | bit } else { self.0 & !bit })
    }
}

impl Default for Tools {
    fn default() -> Self {
        Tools::ALL
    }
}

impl FromStr for Tools {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut tools = Tools::ALL;
        for (i, part) in text.split(',').enumerate() {
            tools = match part {
                "all" if i == 0 => Tools::ALL,
                "none" if i == 0 => Tools::NONE,
                _ => {
                    let named = |name: &str| TransformTool::ALL.into_iter().find(|(_, of)| *of == name);
                    let sign = part.chars().next().filter(|sign| matches!(sign, '+' | '-'));
                    let names = || TransformTool::ALL.map(|(_, name)| name).join(", ");
                    let change = sign.and_then(|sign| Some((named(&part[1..])?.0, sign == '+')));
                    let (tool, on) = change.ok_or_else(|| {
                        format!("`{part}` is neither `all` nor `none` nor + or - before one of: {}", names())
                    })?;
                    tools.with(tool, on)
                }
            };
        }
        Ok(tools)
    }
}

/// `all`, `none`, or `none` with what is in the set.
impl fmt::Display for Tools {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if *self == Tools::ALL {
            return f.write_str("all");
        }
        f.write_str("none")?;
        let on = TransformTool::ALL.into_iter().filter(|(tool, _)| self.has(*tool));
        on.into_iter().try_for_each(|(_, name)| write!(f, ",+{name}"))
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Tools({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_parsed_and_shown() {
        let parsed = |text: &str| text.parse::<Tools>();
        assert_eq!(parsed("all"), Ok(Tools::ALL));
        assert_eq!(parsed("none"), Ok(Tools::NONE));
        assert_eq!(
            parsed("-dct,-halves").map(|t| (t.has(TransformTool::Dct), t.has(TransformTool::Top))),
            Ok((false, true))
        );
        assert_eq!(parsed("-row-order").map(|t| t.has(TransformTool::RowOrder)), Ok(false));
        assert_eq!(parsed("none,+dct").map(|t| t.to_string()).as_deref(), Ok("none,+dct"));
        assert_eq!(parsed("all,-dct,+dct").map(|t| t.to_string()).as_deref(), Ok("all"));
        for text in ["", "dct", "+dtc", "-dct,all", "é", "+é", "none,"] {
            assert!(parsed(text).expect_err(text).contains("quarters"), "{text}");
        }
        for (i, (tool, _)) in TransformTool::ALL.into_iter().enumerate() {
            assert_eq!(tool as usize, i);
        }
    }
}
