//! Validation of a file of statistics. A file that passes can at worst lead to a poor encoding.

use impasto_checkpoint::{Checkpoint, TensorInfo};
use impasto_core::DType;

use super::{Group, INFO, Info, Linear, VERSION, covariance_name, rows_name, values};

/// Largest length of `info`, in bytes.
const LONGEST: usize = 1 << 26;
/// Relative amount by which rounding may make a covariance exceed the product of the two standard deviations.
const SLACK: f64 = 1e-3;

fn ensure(good: bool, rule: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(rule()) }
}

fn not_negative(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}

/// Reads the tensor `info`.
pub fn info(file: &Checkpoint) -> Result<Info, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let tensor = file.tensor(INFO).ok_or("it has no tensor \"info\"")?;
    let json = file.bytes(tensor);
    ensure(json.len() <= LONGEST, || format!("info: it has {} bytes, the limit is {LONGEST}", json.len()))?;
    let broken = |error| format!("info: {error}");
    let Version { version } = serde_json::from_slice(json).map_err(broken)?;
    ensure(version == VERSION, || format!("version {version} is not supported: only {VERSION} is"))?;
    serde_json::from_slice(json).map_err(broken)
}

/// Validates everything except the tensor `info` itself.
pub fn all(file: &Checkpoint, info: &Info) -> Result<(), String> {
    ensure(info.window > 0 && info.tokens > 0 && info.gradient_tokens > 0, || {
        "info: window, tokens and gradient_tokens must be above 0".into()
    })?;
    ensure(info.gradient_tokens <= info.tokens && info.held_back_tokens < info.tokens, || {
        "info: gradient_tokens must be at most tokens, and held_back_tokens below tokens".into()
    })?;
    for (name, group) in &info.groups {
        let broken = |rule: String| format!("group {name:?}: {rule}");
        numbers(group, info.tokens).map_err(broken)?;
        let name = covariance_name(name);
        let tensor = vector(file, &name)?;
        covariance(file, tensor, group.inputs).map_err(|rule| format!("tensor {name:?}: {rule}"))?;
        file.release(tensor);
    }
    for (name, linear) in &info.linears {
        layer(info, linear).map_err(|rule| format!("layer {name:?}: {rule}"))?;
        let name = rows_name(name);
        if file.tensor(&name).is_some() {
            let good = values(file, vector(file, &name)?).all(|w| not_negative(f64::from(w)));
            ensure(good, || format!("tensor {name:?}: weights must be finite and not negative"))?;
        }
    }
    Ok(())
}

/// Returns the F32 vector with a name.
fn vector<'a>(file: &'a Checkpoint, name: &str) -> Result<&'a TensorInfo, String> {
    let tensor = file.tensor(name).ok_or_else(|| format!("it has no tensor {name:?}"))?;
    let good = tensor.dtype == DType::F32 && tensor.shape.len() == 1;
    ensure(good, || format!("tensor {name:?}: it is not a vector of F32"))?;
    Ok(tensor)
}

fn numbers(group: &Group, tokens: u64) -> Result<(), String> {
    ensure(group.inputs > 0, || "inputs must be above 0".into())?;
    ensure((1..=tokens).contains(&group.tokens), || "tokens must be from 1 to those of the text".into())?;
    let held_back = group.held_back.is_none_or(not_negative);
    ensure(not_negative(group.damping) && held_back, || "damping and held_back must be finite and not negative".into())
}

fn layer(info: &Info, linear: &Linear) -> Result<(), String> {
    ensure(not_negative(linear.damping) && not_negative(linear.sensitivity), || {
        "damping and sensitivity must be finite and not negative".into()
    })?;
    ensure(linear.tokens <= info.tokens, || "tokens must be at most those of the text".into())?;
    match &linear.input {
        Some(input) if !info.groups.contains_key(input) => Err(format!("there is no group {input:?}")),
        _ => Ok(()),
    }
}

/// Validates the covariance of `inputs`: its length is that of a lower triangle, its values are finite, its diagonal is
/// not negative and not all 0, and no entry exceeds the product of the two standard deviations.
fn covariance(file: &Checkpoint, tensor: &TensorInfo, inputs: u64) -> Result<(), String> {
    let length = tensor.shape.first().copied().unwrap_or(0);
    let twice = inputs.checked_add(1).and_then(|next| inputs.checked_mul(next));
    ensure(twice == length.checked_mul(2), || {
        format!("{length} values are not the lower triangle of {inputs} x {inputs}")
    })?;
    let mut values = values(file, tensor).map(f64::from);
    // Standard deviations of the inputs so far.
    let mut deviations: Vec<f64> = Vec::new();
    for i in 0..inputs {
        let row: Vec<f64> = values.by_ref().take(deviations.len()).collect();
        let own = values.next().unwrap_or(f64::NAN);
        ensure(not_negative(own), || {
            format!("entry ({i}, {i}) is {own}: the diagonal must be finite and not negative")
        })?;
        let own = own.sqrt();
        let odd = row.iter().zip(&deviations).position(|(x, other)| {
            let most = own * other * (1.0 + SLACK) + f64::from(f32::MIN_POSITIVE);
            x.is_nan() || x.abs() > most
        });
        if let Some(j) = odd {
            return Err(format!("entry ({i}, {j}) is {}: more than the diagonal allows", row[j]));
        }
        deviations.push(own);
    }
    ensure(deviations.iter().any(|&d| d > 0.0), || "all inputs are 0".into())
}
