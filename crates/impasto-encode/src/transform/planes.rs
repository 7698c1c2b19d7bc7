//! The encoder of wavelet coefficients in planes (SPEC 17.11). It searches nothing but the direction of the halvings: the
//! dead zone of planes, twice as wide as other intervals, is about what choosing levels by their cost would leave.

use std::sync::LazyLock;

use impasto_codec::CodecError;
use impasto_codec::transform::bands::{Band, bands};
use impasto_codec::transform::progressive::{Form, Steps, band_steps, decode, encode};
use impasto_codec::transform::wavelet::{Filter, forward, halved, inverse, most_levels};

use super::candidates::estimate;
use super::tile::{Coded, MOST, decoded_values};
use super::variants::Variant;
use crate::arithmetic::log2;

/// Most halvings of both sides, and of one side alone.
const BOTH: u8 = 5;
const ALONE: u8 = 8;
/// The step index of samples at which `D + lambda R` is least, for the slope of the lattice: half an octave below its
/// step, which makes up for the wide interval of 0.
const INDEX: u8 = 120;
/// Where in their interval coefficients are reconstructed, in 256ths: nearer to 0 than the middle, as they are denser there.
const POINT: u8 = 112;

/// Codes a tile of weights over the steps of its tensor header, row-major, with the filter and the halvings that seem
/// cheapest.
///
/// # Errors
/// If a weight is too large.
pub fn code(values: &[f32], width: usize, filters: &[Filter]) -> Result<Coded, CodecError> {
    if values.iter().any(|value| value.abs() > MOST) {
        return Err(CodecError::Call("a weight is too large for planes"));
    }
    let sides = [values.len() / width.max(1), width];
    let samples: Vec<i32> = values.iter().map(|value| (value * 256.0).round() as i32).collect();
    let most = |side: usize, limit: u8| most_levels(sides[side]).min(limit);
    let directions = [[most(0, BOTH), most(1, BOTH)], [most(0, ALONE), 0], [0, most(1, ALONE)]];
    let tried =
        filters.iter().flat_map(|&filter| directions.map(|levels| Scaled::new(filter, levels, sides, &samples)));
    let best = tried.min_by(|a, b| a.cost.total_cmp(&b.cost)).ok_or(CodecError::Call("no filter is on"))?;
    let Scaled { mut form, coefficients, .. } = best;
    // Toward zero: the interval of 0 is twice as wide.
    let integers: Vec<i32> = coefficients.into_iter().map(|c| c as i32).collect();
    let unit = encode(&mut form, sides, &integers)?;
    let (_, samples) = decode(&[&unit], sides[0], sides[1])?;
    let (values, filter) = (decoded_values(&samples, sides, 1.0), Some(form.filter));
    Ok(Coded { unit, values, nodes: vec![], variant: Variant::default(), filter })
}

/// The coefficients of a tile over the steps of their bands.
struct Scaled {
    form: Form,
    coefficients: Vec<f32>,
    /// An estimate of their bits.
    cost: f32,
}

impl Scaled {
    fn new(filter: Filter, levels: [u8; 2], sides: [usize; 2], samples: &[i32]) -> Scaled {
        let mut plane = samples.to_vec();
        forward(filter, &mut plane, sides, levels);
        let bands = bands(sides, levels);
        let steps = match filter {
            Filter::Cdf53 => Steps::Own(bands.iter().map(index).collect()),
            Filter::Cdf97 => Steps::Even(INDEX),
        };
        let form = Form { step_index: 0, filter, levels, point: POINT, steps, planes: 0 };
        let mut coefficients: Vec<f32> = plane.iter().map(|&x| x as f32 / 256.0).collect();
        for (band, step) in bands.iter().zip(band_steps(&form, sides)) {
            for r in band.rows.clone() {
                coefficients[r * sides[1]..][band.columns.clone()].iter_mut().for_each(|x| *x /= step);
            }
        }
        Scaled { cost: estimate(&coefficients), form, coefficients }
    }
}

/// Returns the step index of a band with 5/3: [`INDEX`], less the norm of its synthesis vectors.
fn index(band: &Band) -> u8 {
    /// By halvings, then whether frequencies are high.
    static NORMS: LazyLock<Vec<[f64; 2]>> =
        LazyLock::new(|| (0..=ALONE).map(|n| [false, true].map(|h| norm(n, h))).collect());
    let octaves: f64 =
        [0, 1].into_iter().map(|i| log2(NORMS[usize::from(band.halvings[i])][usize::from(band.high[i])])).sum();
    (f64::from(INDEX) - 16.0 * octaves).round().clamp(0.0, 255.0) as u8
}

/// Returns the norm of a synthesis vector of 5/3 in one direction.
fn norm(halvings: u8, high: bool) -> f64 {
    const UNIT: i32 = 1 << 20;
    let n = 8usize << halvings;
    let low = halved(n, halvings);
    let mut line = vec![0; n];
    line[if high && halvings > 0 { low + low / 2 } else { low / 2 }] = UNIT;
    inverse(Filter::Cdf53, &mut line, [1, n], [0, halvings]);
    line.iter().map(|&x| (f64::from(x) / f64::from(UNIT)).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smooth(sides: [usize; 2], along: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        (0..sides[0] * sides[1]).map(|i| along(i / sides[1], i % sides[1])).collect()
    }

    #[test]
    fn halvings_follow_the_direction_that_is_smooth() {
        let levels = |unit: &[u8]| [unit[3] & 15, unit[3] >> 4];
        let noise = |c: usize| ((c * c * 31 + c * 17) % 101) as f32 / 3.0;
        let cases: [(Vec<f32>, [u8; 2]); 3] = [
            (smooth([200, 50], |r, c| noise(c) + 20.0 * (r as f32 / 30.0 + noise(c)).sin()), [8, 0]),
            (smooth([50, 200], |r, c| noise(r) + 20.0 * (c as f32 / 30.0 + noise(r)).sin()), [0, 8]),
            (smooth([90, 90], |r, c| 30.0 * (r as f32 / 20.0).sin() * (c as f32 / 25.0).cos()), [5, 5]),
        ];
        for (values, wanted) in cases {
            let width = if wanted == [0, 8] {
                200
            } else if wanted == [8, 0] {
                50
            } else {
                90
            };
            let coded = code(&values, width, &Filter::ALL).expect("codes");
            assert_eq!(levels(&coded.unit), wanted);
            let error = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            let error = values.iter().zip(&coded.values).map(error).sum::<f64>() / values.len() as f64;
            assert!(error < 0.1 && coded.unit.len() < values.len() / 4, "{error} {}", coded.unit.len());
        }
        assert!(code(&[1e9], 1, &Filter::ALL).is_err());
        assert!(code(&[1.0], 1, &[]).is_err());
    }

    /// Known norms of 5/3: those of one halving, and their growth by the square root of 2.
    #[test]
    fn norms_are_those_of_the_filter() {
        assert!(
            (norm(1, false) - 1.5f64.sqrt()).abs() < 1e-3 && (norm(1, true) - (23.0f64 / 32.0).sqrt()).abs() < 1e-3
        );
        assert!((norm(6, false) / norm(5, false) - 2f64.sqrt()).abs() < 0.01);
        assert!((norm(0, false), norm(0, true)) == (1.0, 1.0));
    }
}
