//! Orders of the rows or columns of a tile (SPEC 17.9) in which neighbours are alike.

use std::cmp::Ordering;

use impasto_codec::transform::order::Order;

use crate::arithmetic::log2;
use crate::lines::Lines;

/// Most lines of which a chain is made.
const CHAIN: usize = 1024;
/// Bits that an order must seem to save, of those that its lines take: differences are a rough measure.
const LEAST: f64 = 0.02;

/// Returns the order of lines, in steps, that seems to save most bits, after its own; `None` if none seems to.
pub fn best(lines: &Lines) -> Option<Order> {
    if lines.count < 3 || lines.length == 0 {
        return None;
    }
    let as_is: Vec<u32> = (0..lines.count as u32).collect();
    let now = lines.roughness(&as_is);
    let paid: f64 = (1..=lines.count).map(|n| log2(n as f64)).sum();
    let mut orders = vec![lines.by_sum(), lines.by_norm(), lines.by_component()];
    if lines.count <= CHAIN {
        orders.push(lines.chain(orders[2][0]));
    }
    let rated = orders.into_iter().map(|order| (lines.roughness(&order) + paid, order));
    let (cost, order) = rated.min_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal))?;
    if cost < now * (1.0 - LEAST) { Order::new(order) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_waves_are_put_in_order() {
        let place = |i: usize| i * 37 % 100;
        let wave = |r: usize, c: usize| 10.0 * (place(r) as f32 / 15.0 + c as f32 / 7.0).sin() + place(r) as f32;
        let values: Vec<f32> = (0..100 * 80).map(|i| wave(i / 80, i % 80)).collect();
        let lines = Lines::new(&values, 80, 0);
        let order = best(&lines).expect("an order");
        let far = |order: &[u32]| -> usize {
            order.windows(2).map(|pair| place(pair[0] as usize).abs_diff(place(pair[1] as usize))).sum()
        };
        assert!(far(order.places()) < 300, "{}", far(order.places()));
        let transposed: Vec<f32> = (0..100 * 80).map(|i| values[i % 100 * 80 + i / 100]).collect();
        assert_eq!(best(&Lines::new(&transposed, 100, 1)), Some(order));
        // What is in order already, or never will be, is left alone.
        let smooth: Vec<f32> = (0..8000).map(|i| (i / 80) as f32 * 3.0).collect();
        assert!(best(&Lines::new(&smooth, 80, 0)).is_none() && best(&Lines::new(&smooth, 80, 1)).is_none());
        let noise: Vec<f32> = (0..8000u64).map(|i| ((i * i * i + 7 * i) * 7919 % 1009) as f32 / 200.0).collect();
        assert!(best(&Lines::new(&noise, 80, 0)).is_none());
        assert!(best(&Lines::new(&[], 1, 0)).is_none() && best(&Lines::new(&[1.0, 2.0], 2, 0)).is_none());
    }
}
