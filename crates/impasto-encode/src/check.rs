//! Which options exclude each other.

use crate::error::EncodeError;
use crate::options::{Options, Preset, Target};

/// What a lossy encoding is guided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuideKind {
    /// Nothing: all errors count the same.
    None,
    /// Statistics of the original.
    Statistics,
    /// Statistics, in which inputs of blocks are those that coded blocks give.
    Sequential,
}

/// Checks that the options agree with each other and with what guides the encoding. Encoding does so first; before a long
/// calibration, so may a caller.
///
/// # Errors
/// The first contradiction.
pub fn check(options: &Options, guide: GuideKind) -> Result<(), EncodeError> {
    if let Target::Kld(most) = options.target {
        let refused = [
            (!(most.is_finite() && most > 0.0), "to be a positive number"),
            (options.layers.any(), "for files without layers"),
            (options.base.is_some(), "for files without a base"),
            (options.preset != Preset::Best, "not for the preset jpeg"),
            (guide == GuideKind::Sequential, "not for calibration on coded blocks (--sequential)"),
        ];
        if let Some((_, what)) = refused.into_iter().find(|(is_so, _)| *is_so) {
            return Err(EncodeError::Quality(what));
        }
    }
    if options.reordering.is_some() && options.is_exact() {
        return Err(EncodeError::ReorderExact);
    }
    let is_jpeg = options.preset == Preset::Jpeg;
    if let Some(pruning) = &options.pruning {
        if options.is_exact() || is_jpeg {
            return Err(EncodeError::PruneExact);
        }
        if pruning.criterion.needs_calibration() && guide == GuideKind::None {
            return Err(EncodeError::PruneUnmeasured { criterion: pruning.criterion.name() });
        }
    }
    if is_jpeg && (options.target == Target::Lossless || options.layers.any() || guide != GuideKind::None) {
        return Err(EncodeError::Preset);
    }
    if options.residual.rank().is_some() && (options.target == Target::Lossless || options.layers.any() || is_jpeg) {
        return Err(EncodeError::Residual);
    }
    let has_lattice = !matches!(options.target, Target::Lossless | Target::Formats) && !is_jpeg;
    if options.trellis.is_some() && (!has_lattice || options.pruning.is_some()) {
        return Err(EncodeError::Trellis);
    }
    if options.fit_widths && (!has_lattice || options.layers.any() || options.trellis.is_some()) {
        return Err(EncodeError::Widths);
    }
    if !options.formats.is_empty() && (is_jpeg || options.target == Target::Lossless) {
        return Err(EncodeError::FormatsLossless);
    }
    if !options.formats.is_empty() && options.pruning.is_some() {
        return Err(EncodeError::PrunedFormats);
    }
    if options.target == Target::Formats {
        if options.formats.is_empty() {
            return Err(EncodeError::NoFormats);
        }
        if !options.layers.below.is_empty() {
            return Err(EncodeError::FormatsBelow);
        }
    }
    if options.base.is_some() {
        let refused = [
            (!options.formats.is_empty(), "formats of engines (--format, --policy)"),
            (is_jpeg, "--preset jpeg"),
            (options.reordering.is_some(), "--reorder"),
            (guide == GuideKind::Sequential, "--sequential"),
        ];
        if let Some((_, what)) = refused.into_iter().find(|(is_so, _)| *is_so) {
            return Err(EncodeError::OverBase(what));
        }
    }
    Ok(())
}
