//! A quality as the target: the coarsest step at which the KL divergence from the original, on text that is held back, is at most
//! the requested one.
//!
//! The divergence grows with about the square of the step, so its logarithm is nearly linear in that of the step, and the secant
//! method takes three or four steps. At each, all tensors are coded and decoded again, so that the network is measured as the file
//! will have it, whatever tools code it; the file is written once the step is known.

use impasto_core::values;
use impasto_model::{Failure, WeightSource};

use crate::arithmetic::{exp2, log2};
use crate::decoded;
use crate::drift::restored;
use crate::error::{EncodeError, heard};
use crate::options::Progress;
use crate::plan::Plan;
use crate::planner::Planner;
use crate::rate::{COARSEST, Correction, FINEST};
use crate::write::code;

/// Bits per weight that the first step is for.
const FIRST: f64 = 4.0;
/// How many steps are measured, at most.
const TRIES: usize = 8;
/// How far below the requested divergence is near enough: as a share of it, or as a share of its standard error if that is more. A
/// step that differs by 1% changes a file of 3 bits per weight by half a percent, and the divergence by 2%.
const NEAR: f64 = 0.02;
const NEAR_ERROR: f64 = 0.5;
/// The least divergence whose logarithm counts.
const LEAST: f64 = 1e-9;

/// How a network with other weights is measured.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// The weights of the checkpoint.
    pub weights: &'a dyn WeightSource,
    /// Measures the divergence from the original, on text that was not used for calibration.
    pub measure: &'a (dyn Fn(&dyn WeightSource) -> Result<Judged, Failure> + Sync),
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Mean KL divergence from the original in nats per token.
    pub kld: f64,
    /// Its standard error.
    pub error: f64,
    /// Number of tokens that were scored.
    pub tokens: usize,
}

/// The quality of a file that was to have one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// The largest permitted divergence.
    pub target: f64,
    /// What the file has, as measured.
    pub reached: Judged,
    /// How many steps were measured.
    pub tries: usize,
}

/// Returns the coarsest step that was found at which the divergence is at most `target`.
///
/// # Errors
/// [`EncodeError::TooGood`] if no step reaches it; if the network cannot be measured, or a tensor cannot be coded.
pub fn find_step(planner: &Planner, judge: Judge, target: f64) -> Result<(f64, Quality), EncodeError> {
    let mut search = Correction::new(exp2(planner.usual_step(FIRST)));
    let mut best: Option<(f64, Judged)> = None;
    let mut least = f64::INFINITY;
    for tries in 1..=TRIES {
        heard((planner.watch)(Progress::Judging(tries)))?;
        let step = search.step();
        let plans = planner.plans(Some(step))?;
        let coded = CodedWeights { planner, plans: &plans, source: judge.weights };
        let judged = (judge.measure)(&coded).map_err(EncodeError::Judge)?;
        planner.inputs.check()?;
        least = least.min(judged.kld);
        let is_good = judged.kld <= target;
        if is_good && best.is_none_or(|(coarsest, _)| step > coarsest) {
            best = Some((step, judged));
        }
        let at_end = if is_good { log2(step) >= COARSEST } else { log2(step) <= FINEST };
        let near = (target * NEAR).max(judged.error * NEAR_ERROR).min(target / 2.0);
        if (is_good && judged.kld >= target - near) || at_end || tries == TRIES {
            let (step, reached) = best.ok_or(EncodeError::TooGood { wanted: target, least })?;
            return Ok((step, Quality { target, reached, tries }));
        }
        // An octave of the step is about two of the divergence.
        let wanted = target - near / 2.0;
        let octaves = (log2(wanted.max(LEAST)) - log2(judged.kld.max(LEAST))) / 2.0;
        search.correct(octaves.clamp(FINEST - log2(step), COARSEST - log2(step)), is_good);
    }
    Err(EncodeError::TooGood { wanted: target, least })
}

/// The weights of the network as the file will have them.
struct CodedWeights<'a> {
    planner: &'a Planner<'a>,
    plans: &'a [Option<Plan>],
    source: &'a dyn WeightSource,
}

impl CodedWeights<'_> {
    /// Returns the elements of a tensor after coding, row-major.
    fn elements(&self, tensor: usize, plan: &Plan) -> Result<Vec<u8>, EncodeError> {
        let reference = plan.reference.and_then(|of| Some((of, self.plans[of].as_ref()?)));
        let reference = reference.map(|(of, plan)| self.elements(of, plan)).transpose()?;
        let mut units = Vec::new();
        let mut hold = |mode, bytes: &[u8]| {
            units.push((mode, bytes.to_vec()));
            Ok(())
        };
        code(self.planner, tensor, plan, reference.as_deref(), &mut hold)?;
        let dtype = self.planner.inputs.matrix(tensor).dtype;
        let broken = |error| EncodeError::Codec { tensor: self.planner.inputs.tensors[tensor].name.clone(), error };
        decoded::elements(dtype, &plan.tiles, &units, reference.as_deref()).map_err(broken)
    }

    /// Returns the weights of a tensor after coding, as the network has them; `None` if they are kept.
    fn coded(&self, name: &str) -> Result<Option<Vec<f32>>, EncodeError> {
        let inputs = &self.planner.inputs;
        let Some(tensor) = inputs.tensors.iter().position(|tensor| tensor.hf_name == name) else { return Ok(None) };
        let tensor = inputs.tensors[tensor].same_as.unwrap_or(tensor);
        let Some(plan) = self.plans[tensor].as_ref().filter(|_| inputs.is_lossy(tensor)) else { return Ok(None) };
        let (elements, matrix) = (self.elements(tensor, plan)?, inputs.matrix(tensor));
        inputs.release(tensor);
        let mut weights = Vec::with_capacity(matrix.len());
        values::to_f32(matrix.dtype, &elements, &mut weights);
        Ok(Some(restored(&inputs.tensors[tensor], matrix.columns, weights)))
    }
}

impl WeightSource for CodedWeights<'_> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.source.shape(name)
    }

    fn tensor_names(&self) -> Vec<String> {
        self.source.tensor_names()
    }

    fn is_same(&self, a: &str, b: &str) -> Result<bool, Failure> {
        self.source.is_same(a, b)
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        match self.coded(name)? {
            Some(weights) => Ok(weights),
            None => self.source.load_f32(name),
        }
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.source.asset(name)
    }

    fn why_absent(&self, name: &str) -> Option<String> {
        self.source.why_absent(name)
    }
}
