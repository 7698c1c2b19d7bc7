//! The samples of a tile, and predictions from them (SPEC 17.4, 17.5).

use std::ops::Range;

/// The largest magnitude of a sample.
pub const MOST: i64 = 1 << 29;

/// Samples of a tile whose sides are rounded up to multiples of 4. A sample is a weight over its step, in 256ths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Height and width, multiples of 4.
    pub sides: [usize; 2],
    /// Row-major.
    pub values: Vec<i32>,
    /// The same of the tile that blocks may be predicted from (SPEC 17.18); empty if there is none.
    pub co_located: Vec<i32>,
}

/// A block: where it begins, and the logarithms of its height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Row and column of its first sample.
    pub at: [usize; 2],
    /// Logarithms of its height and width.
    pub logs: [u32; 2],
}

impl Area {
    /// Returns its height and width.
    pub fn sides(&self) -> [usize; 2] {
        self.logs.map(|log| 1 << log)
    }
}

/// How a block is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// By 0.
    Zero,
    /// By the mean of the samples above and to the left.
    Dc,
    /// By the sample above, in each column.
    Top,
    /// By the sample to the left, in each row.
    Left,
    /// By interpolation between the sides and the last samples above and to the left.
    Planar,
    /// By the sample above plus that to the left, less that in the corner.
    Sum,
    /// By the sample above and that to the left, each times a factor that is coded, in 16ths: -32 to 31.
    Linear([i8; 2]),
    /// By the sample at the same place of another tile, times a factor that is coded, in 16ths: -32 to 31.
    CoLocated(i8),
}

impl Prediction {
    /// All predictions, in the order of their numbers in the file; those with factors have factors of 0.
    pub const ALL: [Prediction; 8] = [
        Prediction::Zero,
        Prediction::Dc,
        Prediction::Top,
        Prediction::Left,
        Prediction::Planar,
        Prediction::Sum,
        Prediction::Linear([0; 2]),
        Prediction::CoLocated(0),
    ];

    /// Returns its number in the file.
    pub fn number(self) -> usize {
        match self {
            Prediction::Zero => 0,
            Prediction::Dc => 1,
            Prediction::Top => 2,
            Prediction::Left => 3,
            Prediction::Planar => 4,
            Prediction::Sum => 5,
            Prediction::Linear(_) => 6,
            Prediction::CoLocated(_) => 7,
        }
    }
}

/// The samples next to a block.
struct Neighbours<'a> {
    samples: &'a Samples,
    area: Area,
}

impl Neighbours<'_> {
    /// The sample above column `c`; that to the left of the first row if nothing is above.
    fn top(&self, c: usize) -> i64 {
        let [y, x] = self.area.at;
        if y > 0 {
            self.samples.at(y - 1, x + c)
        } else if x > 0 {
            self.samples.at(y, x - 1)
        } else {
            0
        }
    }

    /// The sample to the left of row `r`; that above the first column if nothing is to the left.
    fn left(&self, r: usize) -> i64 {
        let [y, x] = self.area.at;
        if x > 0 {
            self.samples.at(y + r, x - 1)
        } else if y > 0 {
            self.samples.at(y - 1, x)
        } else {
            0
        }
    }

    /// The sample above and to the left; that above if nothing is to the left, and so on.
    fn corner(&self) -> i64 {
        let [y, x] = self.area.at;
        if y > 0 && x > 0 { self.samples.at(y - 1, x - 1) } else { self.top(0) }
    }
}

impl Samples {
    /// Creates samples of 0 for a tile of `height` x `width` elements.
    pub fn new(height: usize, width: usize) -> Samples {
        let sides = [height, width].map(|side| side.next_multiple_of(4));
        Samples { sides, values: vec![0; sides[0] * sides[1]], co_located: vec![] }
    }

    fn at(&self, row: usize, column: usize) -> i64 {
        i64::from(self.values[row * self.sides[1] + column])
    }

    /// Returns row `r` of an area.
    pub fn row_mut(&mut self, area: Area, r: usize) -> &mut [i32] {
        let range = self.range(area, r);
        &mut self.values[range]
    }

    /// Returns all rows.
    pub fn rows(&self) -> impl Iterator<Item = &[i32]> {
        self.values.chunks_exact(self.sides[1].max(1))
    }

    /// Returns row `r` of an area.
    pub fn row(&self, area: Area, r: usize) -> &[i32] {
        &self.values[self.range(area, r)]
    }

    /// Returns where the samples of row `r` of an area are.
    fn range(&self, area: Area, r: usize) -> Range<usize> {
        let start = (area.at[0] + r) * self.sides[1] + area.at[1];
        start..start + area.sides()[1]
    }

    /// Replaces `out` by the prediction of an area, row-major. Without co-located samples, that by them is 0.
    pub fn predict(&self, prediction: Prediction, area: Area, out: &mut Vec<i64>) {
        let ([height, width], near) = (area.sides(), Neighbours { samples: self, area });
        out.clear();
        match prediction {
            Prediction::Zero => out.resize(height * width, 0),
            Prediction::Dc => {
                let sum = (0..width).map(|c| near.top(c)).sum::<i64>() + (0..height).map(|r| near.left(r)).sum::<i64>();
                let count = (height + width) as i64;
                out.resize(height * width, (sum + count / 2).div_euclid(count));
            }
            Prediction::Top => {
                let top: Vec<i64> = (0..width).map(|c| near.top(c)).collect();
                (0..height).for_each(|_| out.extend_from_slice(&top));
            }
            Prediction::Left => (0..height).for_each(|r| out.resize((r + 1) * width, near.left(r))),
            Prediction::Planar => {
                let top: Vec<i64> = (0..width).map(|c| near.top(c)).collect();
                let (last_top, last_left) = (near.top(width - 1), near.left(height - 1));
                let ([h, w], shift) = ([height as i64, width as i64], area.logs[0] + area.logs[1] + 1);
                for r in 0..height {
                    let (left, i) = (near.left(r), r as i64);
                    out.extend(top.iter().enumerate().map(|(c, &top)| {
                        let j = c as i64;
                        let down = (h - 1 - i) * top + (i + 1) * last_left;
                        let right = (w - 1 - j) * left + (j + 1) * last_top;
                        (down * w + right * h + h * w) >> shift
                    }));
                }
            }
            Prediction::Linear(factors) => {
                let [of_top, of_left] = factors.map(i64::from);
                let top: Vec<i64> = (0..width).map(|c| near.top(c) * of_top).collect();
                for r in 0..height {
                    let left = near.left(r) * of_left + 8;
                    out.extend(top.iter().map(|&top| (top + left) >> 4));
                }
            }
            Prediction::CoLocated(factor) => {
                let row = |r: usize| self.co_located.get(self.range(area, r)).unwrap_or_default();
                let rows = (0..height).flat_map(row);
                out.extend(rows.map(|&sample| (i64::from(sample) * i64::from(factor) + 8) >> 4));
                out.resize(height * width, 0);
            }
            Prediction::Sum => {
                let (top, corner): (Vec<i64>, i64) = ((0..width).map(|c| near.top(c)).collect(), near.corner());
                (0..height).for_each(|r| {
                    let above = near.left(r) - corner;
                    out.extend(top.iter().map(|&top| top + above));
                });
            }
        }
    }

    /// Writes the samples of an area: the prediction plus the residual, clamped to [`MOST`].
    pub fn set(&mut self, area: Area, prediction: &[i64], residual: &[i64]) {
        let width = area.sides()[1];
        let rows = prediction.chunks_exact(width).zip(residual.chunks_exact(width)).enumerate();
        for (r, (prediction, residual)) in rows {
            let sums = prediction.iter().zip(residual).map(|(p, r)| (p + r).clamp(-MOST, MOST) as i32);
            self.row_mut(area, r).iter_mut().zip(sums).for_each(|(to, sum)| *to = sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block in the middle of a plane, and blocks at the edges.
    #[test]
    fn predictions_follow_their_neighbours() {
        let mut samples = Samples::new(8, 12);
        for (i, value) in samples.values.iter_mut().enumerate() {
            *value = 10 * (i / 12) as i32 + (i % 12) as i32;
        }
        let of = |prediction, at| {
            let mut out = Vec::new();
            samples.predict(prediction, Area { at, logs: [2, 2] }, &mut out);
            out
        };
        let middle = [4, 4];
        assert_eq!(of(Prediction::Zero, middle), [0; 16]);
        // Above are 34 to 37, to the left 43 to 73.
        assert_eq!(of(Prediction::Dc, middle), [47; 16]);
        assert_eq!(of(Prediction::Top, middle)[8..12], [34, 35, 36, 37]);
        assert_eq!(of(Prediction::Left, middle)[8..12], [63; 4]);
        assert_eq!(of(Prediction::Sum, middle)[8..12], [64, 65, 66, 67], "a plane is predicted");
        assert_eq!(of(Prediction::Linear([16, 8]), middle)[4..6], [34 + 27, 35 + 27]);
        assert_eq!(of(Prediction::Linear([-32, 31]), middle)[0], (-32 * 34 + 31 * 43 + 8) >> 4);
        let planar = of(Prediction::Planar, middle);
        assert_eq!((planar[0], planar[15]), (((3 * 34 + 73 + 3 * 43 + 37) * 4 + 16) >> 5, (73 + 37) * 16 / 32));
        assert_eq!(of(Prediction::Top, [0, 4]), [3; 16], "nothing is above");
        assert_eq!(of(Prediction::Left, [4, 0]), [30; 16], "nothing is to the left");
        for (number, prediction) in Prediction::ALL.into_iter().enumerate() {
            assert_eq!(prediction.number(), number);
            assert_eq!(of(prediction, [0, 0]), [0; 16]);
        }
    }

    #[test]
    fn co_located_samples_are_scaled_and_rounded() {
        let mut samples = Samples::new(8, 8);
        let area = Area { at: [4, 4], logs: [2, 2] };
        let of = |samples: &Samples, factor| {
            let mut out = Vec::new();
            samples.predict(Prediction::CoLocated(factor), area, &mut out);
            out
        };
        assert_eq!(of(&samples, 16), [0; 16], "there are none");
        samples.co_located = (0..64).map(|i| if i == 45 { -3 } else { i }).collect();
        assert_eq!(of(&samples, 16)[..8], [36, 37, 38, 39, 44, -3, 46, 47]);
        assert_eq!(of(&samples, -32)[..8], [-72, -74, -76, -78, -88, 6, -92, -94]);
        assert_eq!(of(&samples, 5)[4..6], [(44 * 5 + 8) >> 4, (-3 * 5 + 8) >> 4]);
    }

    #[test]
    fn samples_are_clamped() {
        let mut samples = Samples::new(3, 2);
        let area = Area { at: [0, 0], logs: [2, 2] };
        samples.set(area, &[i64::from(i32::MAX); 16], &[1 << 40; 16]);
        assert_eq!((samples.values.len(), samples.values[5]), (16, MOST as i32));
    }
}
