//! Per-block configuration: sliding windows and rotary positions.

use super::family::{Family, Positions, Windows};
use super::raw::{CONFIG, Raw, RawRope};
use super::rope::{Around, Rope};
use super::{BlockConfig, MAX_DIMENSION, dimension, unsupported_unless};
use crate::{ModelError, Result};

/// Returns, for each block, whether it has rotary positions.
fn rotated(family: &Family, raw: &Raw, count: usize) -> Result<Vec<bool>> {
    let Positions::SomeWithout(interval) = family.positions else {
        return Ok(vec![true; count]);
    };
    match &raw.no_rope_layers {
        Some(list) if list.len() >= count => Ok(list.iter().take(count).map(|&x| x != 0).collect()),
        Some(list) => {
            let reason = format!("no_rope_layers has {} entries for {count} blocks", list.len());
            Err(ModelError::asset(CONFIG, reason))
        }
        None => {
            let every = raw.no_rope_layer_interval.unwrap_or(interval);
            let every = dimension("no_rope_layer_interval", every, MAX_DIMENSION)?;
            Ok((1..=count).map(|n| !n.is_multiple_of(every)).collect())
        }
    }
}

/// The sliding window of each block, in tokens; `None` for full attention.
fn windows(family: &Family, raw: &Raw, rotated: &[bool]) -> Result<Vec<Option<usize>>> {
    let size = match raw.sliding_window.unwrap_or(family.defaults.window) {
        Some(n) => Some(dimension("sliding_window", n, MAX_DIMENSION)?),
        None => None,
    };
    let asked = raw.use_sliding_window.unwrap_or(false);
    let count = rotated.len();
    let (size, sliding): (_, Vec<bool>) = match family.windows {
        Windows::None => (None, vec![false; count]),
        Windows::All => (size, vec![size.is_some(); count]),
        Windows::Upper => {
            let size = size.filter(|_| asked);
            let first = raw.max_window_layers.unwrap_or(28);
            (size, (0..count as u64).map(|i| size.is_some() && i >= first).collect())
        }
        Windows::Pattern(every) => {
            let every =
                dimension("sliding_window_pattern", raw.sliding_window_pattern.unwrap_or(every), MAX_DIMENSION)?;
            (size, (1..=count).map(|n| !n.is_multiple_of(every)).collect())
        }
        Windows::WithoutRope => {
            let size = size.filter(|_| asked);
            (size, rotated.iter().map(|rotated| size.is_some() && !rotated).collect())
        }
    };
    let sliding = match &raw.layer_types {
        None => sliding,
        Some(types) => {
            let listed = listed(types, count)?;
            // Some families ignore `layer_types`. The list must then agree with what they do.
            let read = !matches!(family.windows, Windows::None | Windows::All);
            unsupported_unless(read || listed == sliding, || format!("layer_types in {}", family.model_type))?;
            listed
        }
    };
    let no_size = || ModelError::asset(CONFIG, "blocks with sliding attention, but no sliding_window in use");
    sliding.into_iter().map(|sliding| if sliding { size.map(Some).ok_or_else(no_size) } else { Ok(None) }).collect()
}

/// Reads `layer_types`: whether the attention of each block uses a sliding window.
fn listed(types: &[String], count: usize) -> Result<Vec<bool>> {
    if types.len() != count {
        let reason = format!("layer_types has {} entries for {count} blocks", types.len());
        return Err(ModelError::asset(CONFIG, reason));
    }
    let sliding = |name: &String| match name.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(ModelError::Unsupported(format!("layer type {other}"))),
    };
    types.iter().map(sliding).collect()
}

/// The sets of rotary positions: either one for all blocks, or one for full attention and one for sliding windows.
fn ropes(family: &Family, raw: &Raw, head_dim: usize, max_positions: usize) -> Result<Vec<Rope>> {
    let around = Around {
        model_type: family.model_type,
        head_dim,
        max_positions,
        original: raw.original_max_position_embeddings.or(family.defaults.original_positions),
        partial: raw.partial_rotary_factor,
        partial_allowed: family.partial_rotary,
    };
    let theta = raw.rope_theta.unwrap_or(family.defaults.rope_theta);
    let sets = |full: &RawRope, sliding: &RawRope| -> Result<Vec<Rope>> {
        let full = Rope::new(full, theta, &around)?;
        let Positions::ByWindow(local) = family.positions else { return Ok(vec![full]) };
        let local = raw.rope_local_base_freq.unwrap_or(local);
        Ok(vec![full, Rope::new(sliding, local, &around)?])
    };
    let plain = RawRope::default();
    let new = match raw.rope_parameters.as_ref() {
        None => None,
        Some(new) if !matches!(family.positions, Positions::ByWindow(_)) => Some(sets(new, &plain)?),
        Some(new) => {
            let (full, sliding) = (new.full_attention.as_deref(), new.sliding_attention.as_deref());
            unsupported_unless(full.is_some() || sliding.is_some(), || {
                format!("rope_parameters without layer types in {}", family.model_type)
            })?;
            Some(sets(full.unwrap_or(&plain), sliding.unwrap_or(&plain))?)
        }
    };
    let old = raw.rope_scaling.as_ref().map(|old| sets(old, &plain)).transpose()?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            Err(ModelError::Unsupported("rope_scaling and rope_parameters that differ".into()))
        }
        (Some(ropes), _) | (None, Some(ropes)) => Ok(ropes),
        (None, None) => sets(&plain, &plain),
    }
}

/// The blocks, and the rotary positions that they refer to by index.
pub(super) fn blocks(
    family: &Family,
    raw: &Raw,
    count: usize,
    head_dim: usize,
    max_positions: usize,
) -> Result<(Vec<BlockConfig>, Vec<Rope>)> {
    let rotated = rotated(family, raw, count)?;
    let windows = windows(family, raw, &rotated)?;
    let rope = |window: Option<usize>| match family.positions {
        Positions::ByWindow(_) => usize::from(window.is_some()),
        _ => 0,
    };
    let block = |(window, rotated): (Option<usize>, bool)| BlockConfig { window, rope: rotated.then(|| rope(window)) };
    let blocks = windows.into_iter().zip(rotated).map(block).collect();
    Ok((blocks, ropes(family, raw, head_dim, max_positions)?))
}
