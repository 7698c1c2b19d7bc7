//! Single matrices in their residence, for programs that have a network of their own.

use std::sync::{Arc, Mutex, PoisonError};

use impasto_kernels::packed::Arena;
use impasto_model::{ModelError, WeightSource};

use crate::error::{Result, RuntimeError};
use crate::load::{Budget, MatrixLoader, Wanted};
use crate::matrix::{Linear, Scratch, Tools};
use crate::network::RuntimeOptions;

/// A matrix of a source that is multiplied by itself, not as a part of a network.
///
/// Any number of threads may multiply at the same time; the threads of one pool carry out the products of all matrices that were
/// loaded together.
///
/// ```
/// # use impasto_model::{Failure, WeightSource};
/// # struct Two;
/// # impl WeightSource for Two {
/// #     fn shape(&self, name: &str) -> Option<Vec<u64>> { (name == "w").then(|| vec![2, 3]) }
/// #     fn load_f32(&self, _: &str) -> Result<Vec<f32>, Failure> { Ok(vec![1.0, 2.0, 3.0, 0.0, 0.0, 1.0]) }
/// #     fn asset(&self, _: &str) -> Option<Vec<u8>> { None }
/// # }
/// # let source = Two;
/// use impasto_runtime::{RuntimeOptions, WeightMatrix};
///
/// let matrices = WeightMatrix::load_all(&source, &["w"], &RuntimeOptions::default())?; // [[1, 2, 3], [0, 0, 1]]
/// let mut out = [0.0; 2];
/// matrices[0].multiply(&[1.0, 1.0, 1.0], &mut out)?;
/// assert_eq!(out, [6.0, 1.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WeightMatrix {
    linear: Linear,
    shared: Arc<Shared>,
}

/// What matrices that were loaded together share.
struct Shared {
    tools: Tools,
    scratches: Mutex<Vec<Scratch>>,
}

impl WeightMatrix {
    /// Loads the matrices `names` of `source`, in order. Of the options, threads, residence, activations and memory limit
    /// count.
    ///
    /// # Errors
    /// A tensor that is missing, is no matrix or cannot be read; matrices above the memory limit; threads that cannot be
    /// started.
    pub fn load_all(source: &dyn WeightSource, names: &[&str], options: &RuntimeOptions) -> Result<Vec<Self>> {
        let (tools, arena) = (Tools::new(options)?, Arena::new());
        let budget = Budget::new(options.memory_limit, 0);
        let wanted = names.iter().map(|name| wanted(source, name)).collect::<Result<Vec<_>>>()?;
        let loaded = MatrixLoader::new(source, options.residence, &tools.pool, &arena, &budget).load(&wanted)?;
        let shared = Arc::new(Shared { tools, scratches: Mutex::default() });
        let matrices = loaded.into_iter().zip(names).map(|(matrix, name)| WeightMatrix {
            linear: Linear { name: (*name).to_owned(), matrix, bias: None },
            shared: shared.clone(),
        });
        Ok(matrices.collect())
    }

    /// Name of the tensor.
    pub fn name(&self) -> &str {
        &self.linear.name
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.linear.outputs(), self.linear.inputs()]
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.linear.memory_bytes()
    }

    /// Computes `y = W x` for each row x of `x` (rows x inputs). `out` is rows x outputs.
    ///
    /// # Errors
    /// [`RuntimeError::Lengths`] if the lengths do not fit; a coded matrix that does not decode.
    pub fn multiply(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let [outputs, inputs] = self.shape();
        let rows = x.len() / inputs;
        self.check(x.len(), rows.checked_mul(inputs))?;
        self.check(out.len(), rows.checked_mul(outputs))?;
        if rows == 0 {
            return Ok(());
        }
        self.shared.with_scratch(|tools, scratch| Ok(self.linear.multiply(x, out, tools, scratch)?))
    }

    /// Writes the weights to `out`, row by row (outputs x inputs).
    ///
    /// # Errors
    /// As for [`Self::multiply`].
    pub fn decode(&self, out: &mut [f32]) -> Result<()> {
        let [outputs, inputs] = self.shape();
        self.check(out.len(), outputs.checked_mul(inputs))?;
        self.shared.with_scratch(|_, scratch| Ok(self.linear.rows(0..outputs, out, scratch)?))
    }

    fn check(&self, found: usize, wanted: Option<usize>) -> Result<()> {
        let [outputs, inputs] = self.shape();
        if wanted == Some(found) {
            Ok(())
        } else {
            Err(RuntimeError::Lengths { name: self.linear.name.clone(), found, outputs, inputs })
        }
    }
}

impl Shared {
    /// Runs `work` with working memory that no other product uses.
    fn with_scratch<R>(&self, work: impl FnOnce(&Tools, &mut Scratch) -> R) -> R {
        let free = || self.scratches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = free().pop().unwrap_or_default();
        let done = work(&self.tools, &mut scratch);
        free().push(scratch);
        done
    }
}

/// A matrix that is not empty, by name.
fn wanted<'a>(source: &dyn WeightSource, name: &'a str) -> Result<Wanted<'a>> {
    let shape = source.shape(name).unwrap_or_default();
    let size = |at: usize| shape.get(at).and_then(|&size| usize::try_from(size).ok()).filter(|&size| size > 0);
    let shape = match (shape.len(), size(0), size(1)) {
        (2, Some(outputs), Some(inputs)) => [outputs, inputs],
        _ => return Err(ModelError::NoLinear { name: name.to_owned() }.into()),
    };
    Ok(Wanted { name, shape })
}

#[cfg(test)]
mod tests {
    use impasto_model::Failure;

    use super::*;

    struct One;

    impl WeightSource for One {
        fn shape(&self, name: &str) -> Option<Vec<u64>> {
            match name {
                "w" => Some(vec![2, 3]),
                "empty" => Some(vec![2, 0]),
                "norm" => Some(vec![3]),
                _ => None,
            }
        }

        fn load_f32(&self, _: &str) -> Result<Vec<f32>, Failure> {
            Ok(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        }

        fn asset(&self, _: &str) -> Option<Vec<u8>> {
            None
        }
    }

    fn load(names: &[&str], memory_limit: usize) -> Result<Vec<WeightMatrix>> {
        WeightMatrix::load_all(&One, names, &RuntimeOptions { threads: 1, memory_limit, ..RuntimeOptions::default() })
    }

    #[test]
    fn products_of_rows_and_weights() {
        let matrices = load(&["w", "w"], 1 << 20).expect("loads");
        let matrix = &matrices[1];
        assert_eq!((matrix.name(), matrix.shape()), ("w", [2, 3]));
        let mut out = [0.0; 4];
        matrix.multiply(&[1.0, 0.0, 0.0, 0.0, 1.0, 1.0], &mut out).expect("multiplies");
        assert_eq!(out, [1.0, 4.0, 5.0, 11.0]);
        let mut weights = [0.0; 6];
        matrix.decode(&mut weights).expect("decodes");
        assert_eq!(weights, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        matrix.multiply(&[], &mut []).expect("nothing to multiply");
    }

    #[test]
    fn lengths_that_do_not_fit() {
        let matrix = &load(&["w"], 1 << 20).expect("loads")[0];
        for (x, out) in [(2, 2), (3, 3), (4, 2), (0, 2)] {
            let error = matrix.multiply(&vec![0.0; x], &mut vec![0.0; out]);
            assert!(matches!(error, Err(RuntimeError::Lengths { outputs: 2, inputs: 3, .. })), "{x} {out} {error:?}");
        }
        assert!(matches!(matrix.decode(&mut [0.0; 5]), Err(RuntimeError::Lengths { found: 5, .. })));
    }

    #[test]
    fn what_is_no_matrix() {
        for name in ["empty", "norm", "none"] {
            let error = load(&["w", name], 1 << 20).err();
            assert!(
                matches!(&error, Some(RuntimeError::Model(ModelError::NoLinear { name: n })) if n == name),
                "{error:?}"
            );
        }
        assert!(matches!(load(&["w"], 7), Err(RuntimeError::Model(ModelError::MemoryLimit { .. }))));
    }
}
