//! Orders of the rows or columns of a tile (SPEC 17.9) in which neighbours are alike.

use std::cmp::Ordering;

use impasto_codec::transform::order::Order;

use crate::arithmetic::log2;

/// Most lines of which a chain is made, and most of their values that are compared.
const CHAIN: usize = 1024;
const COMPARED: usize = 64;
/// Rounds of power iteration.
const ROUNDS: usize = 12;
/// Bits that an order must seem to save, of those that its lines take: differences are a rough measure.
const LEAST: f64 = 0.02;

/// The rows or columns of a tile.
pub struct Lines {
    values: Vec<f32>,
    count: usize,
    length: usize,
}

impl Lines {
    /// Takes the rows (side 0) or columns (side 1) of values, which are row-major and in steps.
    pub fn new(values: &[f32], width: usize, side: usize) -> Lines {
        let height = values.len() / width.max(1);
        if side == 0 {
            return Lines { values: values.to_vec(), count: height, length: width };
        }
        let values = (0..values.len()).map(|i| values[i % height * width + i / height]).collect();
        Lines { values, count: width, length: height }
    }

    fn line(&self, i: usize) -> &[f32] {
        &self.values[i * self.length..][..self.length]
    }

    /// Returns the order that seems to save most bits, after its own; `None` if none seems to.
    pub fn best(&self) -> Option<Order> {
        if self.count < 3 || self.length == 0 {
            return None;
        }
        let as_is: Vec<u32> = (0..self.count as u32).collect();
        let now = self.roughness(&as_is);
        let paid: f64 = (1..=self.count).map(|n| log2(n as f64)).sum();
        let component = self.component();
        let sums: Vec<f64> = (0..self.count).map(|i| self.line(i).iter().map(|&x| f64::from(x)).sum()).collect();
        let norms: Vec<f64> = (0..self.count).map(|i| distance(self.line(i), &[])).collect();
        let sorted = |keys: &[f64]| {
            let mut order = as_is.clone();
            order.sort_by(|&a, &b| keys[a as usize].total_cmp(&keys[b as usize]));
            order
        };
        let mut orders = vec![sorted(&sums), sorted(&norms), sorted(&component)];
        if self.count <= CHAIN {
            orders.push(self.chain(orders[2][0]));
        }
        let rated = orders.into_iter().map(|order| (self.roughness(&order) + paid, order));
        let (cost, order) = rated.min_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal))?;
        if cost < now * (1.0 - LEAST) { Order::new(order) } else { None }
    }

    /// Returns about the bits of lines that are predicted from the ones before.
    fn roughness(&self, order: &[u32]) -> f64 {
        let length = self.length as f64;
        let bits = |square: f64| 0.5 * length * log2(1.0 + 4.0 * square / length);
        order.windows(2).map(|pair| bits(distance(self.line(pair[0] as usize), self.line(pair[1] as usize)))).sum()
    }

    /// Returns how much each line has of the first principal component of all (spectral order).
    fn component(&self) -> Vec<f64> {
        let mut mean = vec![0.0f64; self.length];
        for i in 0..self.count {
            mean.iter_mut().zip(self.line(i)).for_each(|(sum, &x)| *sum += f64::from(x) / self.count as f64);
        }
        // Begins with the differences from the middle line: no particular direction, but not an orthogonal one.
        let mut scores: Vec<f64> = (0..self.count).map(|i| i as f64 - self.count as f64 / 2.0 + 0.3).collect();
        for _ in 0..ROUNDS {
            let mut direction = vec![0.0f64; self.length];
            for (i, &score) in scores.iter().enumerate() {
                let line = self.line(i).iter().zip(&mean);
                direction.iter_mut().zip(line).for_each(|(sum, (&x, mean))| *sum += score * (f64::from(x) - mean));
            }
            let size = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
            if size == 0.0 {
                break;
            }
            for (i, score) in scores.iter_mut().enumerate() {
                let line = self.line(i).iter().zip(&mean).zip(&direction);
                *score = line.map(|((&x, mean), d)| (f64::from(x) - mean) * d).sum::<f64>() / size;
            }
        }
        scores
    }

    /// Returns a chain from a line: always to the nearest one that is left, by some of the values.
    fn chain(&self, first: u32) -> Vec<u32> {
        let stride = self.length.div_ceil(COMPARED);
        let some: Vec<Vec<f32>> =
            (0..self.count).map(|i| self.line(i).iter().step_by(stride).copied().collect()).collect();
        let mut left: Vec<u32> = (0..self.count as u32).filter(|&i| i != first).collect();
        let mut order = vec![first];
        let mut at = first as usize;
        while !left.is_empty() {
            let distances = left.iter().map(|&i| distance(&some[at], &some[i as usize]));
            let nearest =
                distances.enumerate().fold((0, f64::INFINITY), |best, (i, d)| if d < best.1 { (i, d) } else { best });
            let next = left.swap_remove(nearest.0);
            order.push(next);
            at = next as usize;
        }
        order
    }
}

/// Partial sums, so that the compiler can use vectors.
const LANES: usize = 16;

/// Returns the sum of the squared differences of two lines; without a second one, of the squares.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f32; LANES];
    if b.is_empty() {
        for a in a.chunks(LANES) {
            sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += a * a);
        }
    }
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += (a - b) * (a - b));
    }
    sums.iter().map(|&sum| f64::from(sum)).sum()
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
        let order = lines.best().expect("an order");
        let far = |order: &[u32]| -> usize {
            order.windows(2).map(|pair| place(pair[0] as usize).abs_diff(place(pair[1] as usize))).sum()
        };
        assert!(far(order.places()) < 300, "{}", far(order.places()));
        let transposed: Vec<f32> = (0..100 * 80).map(|i| values[i % 100 * 80 + i / 100]).collect();
        assert_eq!(Lines::new(&transposed, 100, 1).best(), Some(order));
        // What is in order already, or never will be, is left alone.
        let smooth: Vec<f32> = (0..8000).map(|i| (i / 80) as f32 * 3.0).collect();
        assert!(Lines::new(&smooth, 80, 0).best().is_none() && Lines::new(&smooth, 80, 1).best().is_none());
        let noise: Vec<f32> = (0..8000u64).map(|i| ((i * i * i + 7 * i) * 7919 % 1009) as f32 / 200.0).collect();
        assert!(Lines::new(&noise, 80, 0).best().is_none());
        assert!(Lines::new(&[], 1, 0).best().is_none() && Lines::new(&[1.0, 2.0], 2, 0).best().is_none());
    }
}
