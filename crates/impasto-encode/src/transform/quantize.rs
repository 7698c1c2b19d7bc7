//! Levels of a block, chosen by error and cost along the order of coding (RDOQ), with the states of dependent
//! quantization if it is on (a trellis, as in VVC).

use impasto_codec::transform::levels::{Context, Expectation, MOST, Means, NEXT};
use impasto_codec::transform::prices::Prices;
use impasto_codec::transform::scan::Form;

/// How levels are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    /// Whether the points depend on the levels before.
    pub dependent: bool,
    /// Whether cost counts.
    pub by_cost: bool,
    /// Squared steps per bit.
    pub lambda: f32,
}

/// The best way to a state after some coefficients.
#[derive(Clone, Copy)]
struct Path {
    cost: f32,
    /// State before, or [`START`].
    from: u8,
    level: u32,
}

const START: u8 = 4;
const NO_PATH: Path = Path { cost: f32::INFINITY, from: START, level: 0 };

/// A level of a coefficient, with what it adds to the cost.
#[derive(Clone, Copy)]
struct Choice {
    cost: f32,
    level: u32,
}

/// The best even and the best odd level of a coefficient.
struct Choices {
    of_parity: [Choice; 2],
}

impl Choices {
    const NONE: Choices = Choices { of_parity: [Choice { cost: f32::INFINITY, level: 0 }; 2] };

    /// Returns the choices for a coefficient of magnitude `size`, in an even or an odd state: the two nearest levels, and 0
    /// if it is near.
    #[inline(always)]
    fn new(prices: &Prices, context: Context, odd: bool, size: f32, lambda: f32) -> Choices {
        let half = if odd { 0.5 } else { 0.0 };
        let nearest = ((size + half) as u32).min(MOST - 1);
        let mut choices = Choices::NONE;
        let tried = [nearest, nearest + 1, 0];
        for &level in &tried[..if nearest > 0 && nearest <= 2 { 3 } else { 2 }] {
            let point = level as f32 - if level > 0 { half } else { 0.0 };
            choices.offer(level, (size - point).powi(2) + lambda * prices.level(context, odd, level));
        }
        choices
    }

    /// Likewise, for the first coefficient that is coded, which is not 0.
    #[inline(always)]
    fn first(prices: &Prices, context: Context, size: f32, lambda: f32) -> Choices {
        let nearest = (size as u32).min(MOST - 1);
        let mut choices = Choices::NONE;
        for level in nearest.max(1)..=nearest + 1 {
            let bits = prices.magnitude(context, false, level - 1) + 1.0;
            choices.offer(level, (size - level as f32).powi(2) + lambda * bits);
        }
        choices
    }

    #[inline(always)]
    fn offer(&mut self, level: u32, cost: f32) {
        let best = &mut self.of_parity[(level & 1) as usize];
        if cost < best.cost {
            *best = Choice { cost, level };
        }
    }
}

/// Working memory.
#[derive(Default)]
pub struct Workspace {
    paths: Vec<[Path; 4]>,
    contexts: Vec<Context>,
}

impl Quantizer {
    /// Replaces `levels` by those of `coefficients` (row-major, in steps), all 0 if that is best. Returns `D + lambda R`,
    /// without the cost of whether the block is coded; `D` in squared steps.
    pub fn quantize(
        &self,
        form: Form,
        means: &Means,
        prices: &Prices,
        coefficients: &[f32],
        levels: &mut Vec<i32>,
        work: &mut Workspace,
    ) -> f32 {
        let scan = form.scan();
        let area = form.logs[0] + form.logs[1];
        let most = MOST as f32;
        levels.clear();
        levels.resize(coefficients.len(), 0);
        let energy: f32 = coefficients.iter().map(|c| c * c).sum();
        let Some(last) = scan.iter().rposition(|&place| coefficients[usize::from(place)].abs() >= 0.5) else {
            return energy;
        };
        // Contexts from the nearest levels, which the chosen ones differ from by little.
        let mut expectation = Expectation::new(form, means);
        for &place in &scan[..=last] {
            let nearest = (coefficients[usize::from(place)].abs() + 0.4).min(most) as i32;
            expectation.set(place.into(), nearest);
        }
        work.contexts.clear();
        work.contexts.extend(scan[..=last].iter().map(|&place| expectation.context(place.into())));
        work.paths.clear();
        work.paths.resize(last + 1, [NO_PATH; 4]);
        let lambda = if self.by_cost { self.lambda } else { 0.0 };
        // The error of what comes after the first coefficient that is not 0.
        let mut skipped: f32 = scan[last + 1..].iter().map(|&p| coefficients[usize::from(p)].powi(2)).sum();
        let mut before = [NO_PATH; 4];
        for i in (0..=last).rev() {
            let (size, context) = (coefficients[usize::from(scan[i])].abs(), work.contexts[i]);
            let even = Choices::new(prices, context, false, size, lambda);
            let end = skipped + lambda * prices.end(area, i + 1);
            let first = Choices::first(prices, context, size, lambda);
            let mut after = [NO_PATH; 4];
            let mut offer = |from: u8, cost: f32, choice: Choice, to: usize| {
                let cost = cost + choice.cost;
                if cost < after[to].cost {
                    after[to] = Path { cost, from, level: choice.level };
                }
            };
            if self.dependent {
                let odd = Choices::new(prices, context, true, size, lambda);
                for (parity, &choice) in first.of_parity.iter().enumerate() {
                    offer(START, end, choice, usize::from(NEXT[0][parity]));
                }
                for (state, path) in before.iter().enumerate() {
                    let choices = if state >= 2 { &odd } else { &even };
                    for (parity, &choice) in choices.of_parity.iter().enumerate() {
                        offer(state as u8, path.cost, choice, usize::from(NEXT[state][parity]));
                    }
                }
            } else {
                first.of_parity.into_iter().for_each(|choice| offer(START, end, choice, 0));
                even.of_parity.into_iter().for_each(|choice| offer(0, before[0].cost, choice, 0));
            }
            skipped += size * size;
            work.paths[i] = after;
            before = after;
        }
        let (best, cost) = before
            .iter()
            .map(|path| path.cost)
            .enumerate()
            .fold((0, f32::INFINITY), |best, (state, cost)| if cost < best.1 { (state, cost) } else { best });
        if energy <= cost && self.by_cost {
            return energy;
        }
        let mut state = best;
        for (i, paths) in work.paths.iter().enumerate() {
            let (place, path) = (usize::from(scan[i]), paths[state]);
            levels[place] = if coefficients[place] < 0.0 { -(path.level as i32) } else { path.level as i32 };
            if path.from == START {
                break;
            }
            state = path.from.into();
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use impasto_codec::transform::arithmetic::Probability;
    use impasto_codec::transform::basis::Kind;
    use impasto_codec::transform::levels::coefficients;
    use impasto_codec::transform::tree::SLOTS;

    use super::*;

    fn noise(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 6.0).collect()
    }

    fn error(quantizer: Quantizer, values: &[f32]) -> (f64, Vec<i32>) {
        let form = Form::new([5, 5], [Kind::Dct; 2]);
        let prices = Prices::new(&[Probability::HALF; SLOTS]);
        let (mut levels, mut points) = (Vec::new(), Vec::new());
        quantizer.quantize(form, &Means::new(), &prices, values, &mut levels, &mut Workspace::default());
        coefficients(form, quantizer.dependent, &levels, &mut points);
        let error = |(&v, &p): (&f32, &i64)| (f64::from(v) - p as f64 / 256.0).powi(2);
        (values.iter().zip(&points).map(error).sum::<f64>() / values.len() as f64, levels)
    }

    /// Without cost, levels are the nearest, and dependent quantization has about a decibel less error.
    #[test]
    fn errors_are_those_of_the_points() {
        let values = noise(1024);
        let (plain, levels) = error(Quantizer { dependent: false, by_cost: false, lambda: 0.1 }, &values);
        assert!(values.iter().zip(&levels).all(|(v, &level)| (v - level as f32).abs() <= 0.5));
        assert!((plain * 12.0 - 1.0).abs() < 0.1, "{plain}");
        let (trellis, _) = error(Quantizer { dependent: true, by_cost: false, lambda: 0.1 }, &values);
        assert!(trellis < 0.8 * plain && trellis > 0.7 * plain, "{trellis} {plain}");
    }

    #[test]
    fn cost_makes_levels_smaller() {
        let values = noise(1024);
        let sum = |levels: &[i32]| levels.iter().map(|l| l.unsigned_abs()).sum::<u32>();
        for dependent in [false, true] {
            let (nearest, a) = error(Quantizer { dependent, by_cost: false, lambda: 0.0 }, &values);
            let (chosen, b) = error(Quantizer { dependent, by_cost: true, lambda: 0.1155 }, &values);
            assert!(chosen > nearest && sum(&b) < sum(&a), "{nearest} {chosen}");
            let (_, none) = error(Quantizer { dependent, by_cost: true, lambda: 1e6 }, &values);
            assert_eq!(sum(&none), 0);
        }
    }
}
