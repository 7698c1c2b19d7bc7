//! The plot of `impasto analyze sensitivity`: for each estimator a panel, in which every tensor is a point. The same data give the same
//! bytes.

use std::fmt::Write;

use impasto::sensitivity::{Correlation, Sensitivities};

use super::page::escaped;

/// Panels in a row, their sides, and the space between them and around all.
const ACROSS: usize = 4;
const SIDE: f64 = 230.0;
const GAP: f64 = 44.0;
const TOP: f64 = 76.0;
/// Colours that most people tell apart (Okabe and Ito), for kinds of tensors in alphabetical order.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>) -> Axis {
        let logs = values.map(f64::log10);
        let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        let pad = 0.05 * (high - low).max(0.2);
        Axis { low: low - pad, high: high + pad }
    }

    /// Returns the place of a value, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low)
    }

    /// Returns the powers of ten within.
    fn powers(&self) -> impl Iterator<Item = i32> + use<> {
        self.low.ceil() as i32..=self.high.floor() as i32
    }
}

/// Returns the plot of what was found in a model of this name.
pub fn svg(found: &Sensitivities, model: &str) -> String {
    let panels = found.correlations.len();
    let rows = panels.div_ceil(ACROSS).max(1);
    let step = SIDE + GAP;
    let (width, height) = (GAP + step * ACROSS as f64, TOP + step * rows as f64 + 6.0);
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' \
         font-family='Helvetica, Arial, sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='#fff'/>\n\
         <text x='{GAP}' y='24' font-size='16'>{}: measured divergence (up) over estimates (across), per weight, one tensor coded at {} \
         bits</text>\n",
        escaped(model),
        found.bits_per_weight,
    );
    let kinds = found.kinds();
    let colour = |kind: &str| COLOURS[kinds.iter().position(|&k| k == kind).unwrap_or(0) % COLOURS.len()];
    let mut x = GAP;
    for kind in &kinds {
        let _ = writeln!(
            out,
            "<circle cx='{}' cy='44' r='4' fill='{}'/><text x='{}' y='48'>{kind}</text>",
            x + 4.0,
            colour(kind),
            x + 13.0
        );
        x += 30.0 + 7.0 * kind.len() as f64;
    }
    for (at, correlation) in found.correlations.iter().enumerate() {
        let place = (GAP + step * (at % ACROSS) as f64, TOP + step * (at / ACROSS) as f64);
        panel(&mut out, found, correlation, place, &colour);
    }
    out + "</svg>\n"
}

fn panel(
    out: &mut String,
    found: &Sensitivities,
    of: &Correlation,
    (left, top): (f64, f64),
    colour: &dyn Fn(&str) -> &'static str,
) {
    let points = found.tensors.iter().filter_map(|tensor| {
        let (estimate, measured) = (tensor.estimates.get(&of.estimator)?.value, tensor.measured?);
        let is_shown = estimate > 0.0 && measured > 0.0;
        is_shown.then(|| (tensor, tensor.per_million(estimate), tensor.per_million(measured)))
    });
    let points: Vec<_> = points.collect();
    let (across, up) = (Axis::of(points.iter().map(|p| p.1)), Axis::of(points.iter().map(|p| p.2)));
    let correlation = of.overall.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let _ = writeln!(
        out,
        "<text x='{left}' y='{:.1}' font-weight='bold'>{}</text><text x='{:.1}' y='{:.1}' text-anchor='end'>rank correlation \
         {correlation}</text>\n<rect x='{left}' y='{top}' width='{SIDE}' height='{SIDE}' fill='none' stroke='#888'/>",
        top - 5.0,
        of.estimator.name(),
        left + SIDE,
        top - 5.0,
    );
    if points.is_empty() {
        return;
    }
    for power in across.powers() {
        let x = left + SIDE * across.at(10f64.powi(power));
        let _ = writeln!(
            out,
            "<line x1='{x:.1}' x2='{x:.1}' y1='{top}' y2='{:.1}' stroke='#ddd'/><text x='{x:.1}' y='{:.1}' font-size='9' \
             text-anchor='middle'>1e{power}</text>",
            top + SIDE,
            top + SIDE + 11.0
        );
    }
    for power in up.powers() {
        let y = top + SIDE * (1.0 - up.at(10f64.powi(power)));
        let _ = writeln!(
            out,
            "<line x1='{left}' x2='{:.1}' y1='{y:.1}' y2='{y:.1}' stroke='#ddd'/><text x='{:.1}' y='{:.1}' font-size='9' \
             text-anchor='end'>1e{power}</text>",
            left + SIDE,
            left - 3.0,
            y + 3.0
        );
    }
    for (tensor, estimate, measured) in points {
        let _ = writeln!(
            out,
            "<circle cx='{:.1}' cy='{:.1}' r='3' fill='{}' fill-opacity='0.7'><title>{}</title></circle>",
            left + SIDE * across.at(estimate),
            top + SIDE * (1.0 - up.at(measured)),
            colour(tensor.kind),
            escaped(&tensor.name)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values() {
        let axis = Axis::of([1e-3, 0.5].into_iter());
        assert!(axis.at(1e-3) > 0.0 && axis.at(0.5) < 1.0);
        assert_eq!(axis.powers().collect::<Vec<_>>(), [-3, -2, -1]);
        let one = Axis::of([2.0].into_iter());
        assert!((one.at(2.0) - 0.5).abs() < 1e-9, "a single value is in the middle");
    }
}
