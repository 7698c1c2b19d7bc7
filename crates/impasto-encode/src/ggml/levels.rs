//! What the integers of a block stand for: levels, which a scale multiplies.

use impasto_core::DType;
use impasto_core::blocks::apart::Form;

/// What is added to a binary32 below 2^22 so that its bits after the point are rounded away, ties to even.
const ROUND: f32 = 12_582_912.0;

/// The levels of a type.
pub trait Levels: Copy + Sync {
    /// Returns the level nearest to a number; some level if it is NaN.
    fn nearest(self, x: f32) -> f32;
    /// Returns the integer of a level, as in the parts of a block.
    fn integer(self, level: f32) -> u8;
    /// Returns the first and the last level.
    fn ends(self) -> (f32, f32);
    /// Returns about the distance of two levels at the ends.
    fn step(self) -> f32;
}

/// Whole numbers.
#[derive(Clone, Copy, Debug)]
pub struct Even {
    least: f32,
    most: f32,
    bias: f32,
}

/// The 16 numbers of a table, ascending.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    levels: [f32; 16],
    /// The middle between each level and the next, and their distance.
    steps: [(f32, f32); 15],
}

/// The levels of any type that blocks are written of.
#[derive(Clone, Copy, Debug)]
pub enum AnyLevels {
    Even(Even),
    Table(Table),
}

impl AnyLevels {
    /// Returns the levels of a type.
    pub fn of(dtype: DType, form: &Form) -> AnyLevels {
        if let Some(table) = form.table {
            let levels = table.map(f32::from);
            let steps = std::array::from_fn(|i| ((levels[i] + levels[i + 1]) / 2.0, levels[i + 1] - levels[i]));
            return AnyLevels::Table(Table { levels, steps });
        }
        let bias = f32::from(form.bias);
        // As everyone writes Q8_0, -128 is not used: the negative of each level is one.
        let first = if dtype == DType::Q8_0 { 1.0 } else { 0.0 };
        AnyLevels::Even(Even { least: first - bias, most: ((1u32 << form.bits) - 1) as f32 - bias, bias })
    }
}

impl Levels for Even {
    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        (x.max(self.least).min(self.most) + ROUND) - ROUND
    }

    #[inline(always)]
    fn integer(self, level: f32) -> u8 {
        (level + self.bias) as u8
    }

    fn ends(self) -> (f32, f32) {
        (self.least, self.most)
    }

    fn step(self) -> f32 {
        1.0
    }
}

impl Levels for Table {
    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        let above = |&(middle, step): &(f32, f32)| if x > middle { step } else { 0.0 };
        // Whole numbers, so that the sum is exact.
        self.steps.iter().map(above).fold(self.levels[0], |level, step| level + step)
    }

    #[inline(always)]
    fn integer(self, level: f32) -> u8 {
        self.levels.iter().take(15).filter(|&&other| other < level).count() as u8
    }

    fn ends(self) -> (f32, f32) {
        (self.levels[0], self.levels[15])
    }

    fn step(self) -> f32 {
        self.steps[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(levels: impl Levels, all: &[f32]) {
        assert_eq!(levels.ends(), (all[0], all[all.len() - 1]));
        for i in -3000..3000 {
            let x = i as f32 / 17.0;
            let nearest = all.iter().map(|level| (level - x).abs()).fold(f32::INFINITY, f32::min);
            assert_eq!((levels.nearest(x) - x).abs(), nearest, "{x}");
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(all.contains(&levels.nearest(x)));
        }
    }

    #[test]
    fn the_nearest_level_is_found() {
        for (dtype, least, most) in [(DType::Q4_0, -8, 7), (DType::Q8_0, -127, 127), (DType::Q5K, 0, 31)] {
            let AnyLevels::Even(levels) = AnyLevels::of(dtype, &Form::of(dtype).expect("a form")) else {
                panic!("whole numbers")
            };
            let all: Vec<f32> = (least..=most).map(|level| level as f32).collect();
            check(levels, &all);
            assert_eq!(levels.integer(all[1]), if dtype == DType::Q8_0 { 2 } else { 1 });
        }
        let form = Form::of(DType::Iq4Nl).expect("a form");
        let AnyLevels::Table(levels) = AnyLevels::of(DType::Iq4Nl, &form) else { panic!("a table") };
        let table = form.table.expect("a table").map(f32::from);
        check(levels, &table);
        assert!(table.iter().zip(0..).all(|(&level, i)| levels.integer(level) == i));
    }
}
