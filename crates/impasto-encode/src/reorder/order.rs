//! The order of a tensor's rows and columns.

/// The order of a tensor's rows and columns: for each, the index that it had before. `None` if they stay. The elements of a
/// vector are columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TensorOrder {
    /// Of the rows.
    pub rows: Option<Vec<u32>>,
    /// Of the columns.
    pub columns: Option<Vec<u32>>,
}

impl TensorOrder {
    /// Moves rows `first + places[i]` to `first + i`, of `count` rows. Returns false if another order was set for them.
    pub(super) fn move_rows(&mut self, count: usize, first: usize, places: &[u32]) -> bool {
        move_lines(&mut self.rows, count, first, places)
    }

    /// Like [`TensorOrder::move_rows`], for columns.
    pub(super) fn move_columns(&mut self, count: usize, first: usize, places: &[u32]) -> bool {
        move_lines(&mut self.columns, count, first, places)
    }

    /// Returns whether a tensor of this shape has as many rows and columns.
    pub(crate) fn fits(&self, shape: &[u64]) -> bool {
        let (rows, columns) = match *shape {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => return false,
        };
        let fits = |order: &Option<Vec<u32>>, count| order.as_ref().is_none_or(|order| order.len() as u64 == count);
        fits(&self.rows, rows) && fits(&self.columns, columns)
    }
}

fn move_lines(order: &mut Option<Vec<u32>>, count: usize, first: usize, places: &[u32]) -> bool {
    let order = order.get_or_insert_with(|| (0..count as u32).collect());
    let Some(part) = order.get_mut(first..first + places.len()) else { return false };
    let places = places.iter().map(|&place| first as u32 + place);
    let is_unmoved = part.iter().zip(first as u32..).all(|(&at, own)| at == own);
    if !is_unmoved {
        return part.iter().copied().eq(places);
    }
    part.iter_mut().zip(places).for_each(|(at, place)| *at = place);
    true
}

/// Returns a covariance (`n * n`, row-major, of which the lower triangle counts) of inputs in another order.
pub(crate) fn reordered(covariance: &[f32], order: &[u32]) -> Vec<f32> {
    let n = order.len();
    let mut out = vec![0.0; covariance.len()];
    for (i, row) in out.chunks_exact_mut(n.max(1)).enumerate() {
        for (entry, &b) in row[..=i].iter_mut().zip(order) {
            let (a, b) = (order[i] as usize, b as usize);
            *entry = covariance[a.max(b) * n + a.min(b)];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_fused_tensor_move_apart() {
        let mut order = TensorOrder::default();
        assert!(order.move_rows(6, 0, &[1, 0]) && order.move_rows(6, 2, &[0, 2, 1]));
        assert_eq!(order.rows.as_deref(), Some(&[1, 0, 2, 4, 3, 5][..]));
        assert!(order.move_rows(6, 0, &[1, 0]), "the same order again");
        assert!(!order.move_rows(6, 2, &[2, 1, 0]), "another order");
        assert!(!order.move_rows(6, 5, &[1, 0]), "past the end");
        assert!(order.fits(&[6, 9]) && !order.fits(&[5, 9]) && !order.fits(&[6]) && !order.fits(&[6, 1, 1]));
        assert!(order.move_columns(9, 0, &[8, 7, 6, 5, 4, 3, 2, 1, 0]));
        assert!(order.fits(&[6, 9]) && !order.fits(&[6, 8]));
    }

    #[test]
    fn a_covariance_follows_its_inputs() {
        let covariance = [1.0, 0.0, 0.0, 21.0, 2.0, 0.0, 31.0, 32.0, 3.0];
        assert_eq!(reordered(&covariance, &[2, 0, 1]), [3.0, 0.0, 0.0, 31.0, 1.0, 0.0, 32.0, 21.0, 2.0]);
    }
}
