//! The rules of a file of statistics. What passes cannot lead the encoder astray further than to a bad file.

use impasto_checkpoint::{Checkpoint, TensorInfo};
use impasto_core::DType;

use super::{Group, INFO, Info, Linear, VERSION, covariance_name, rows_name, values};

/// Longest `info` that is read, in bytes.
const LONGEST: usize = 1 << 26;
/// How far a covariance may exceed the product of the two deviations, by rounding.
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
    ensure(json.len() <= LONGEST, || format!("info: {} bytes are more than {LONGEST}", json.len()))?;
    let broken = |error| format!("info: {error}");
    let Version { version } = serde_json::from_slice(json).map_err(broken)?;
    ensure(version == VERSION, || format!("version {version}: only {VERSION} is known"))?;
    serde_json::from_slice(json).map_err(broken)
}

/// Checks everything else.
pub fn all(file: &Checkpoint, info: &Info) -> Result<(), String> {
    ensure(info.window > 0 && info.tokens > 0 && info.gradient_tokens > 0, || {
        "info: window, tokens and gradient_tokens are above 0".into()
    })?;
    ensure(info.gradient_tokens <= info.tokens && info.held_back_tokens < info.tokens, || {
        "info: gradient_tokens and held_back_tokens are among the tokens".into()
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
            ensure(good, || format!("tensor {name:?}: weights are finite and not negative"))?;
        }
    }
    Ok(())
}

/// The vector of F32 of a name.
fn vector<'a>(file: &'a Checkpoint, name: &str) -> Result<&'a TensorInfo, String> {
    let tensor = file.tensor(name).ok_or_else(|| format!("it has no tensor {name:?}"))?;
    let good = tensor.dtype == DType::F32 && tensor.shape.len() == 1;
    ensure(good, || format!("tensor {name:?}: it is not a vector of F32"))?;
    Ok(tensor)
}

fn numbers(group: &Group, tokens: u64) -> Result<(), String> {
    ensure(group.inputs > 0, || "inputs are above 0".into())?;
    ensure((1..=tokens).contains(&group.tokens), || "its tokens are among those of the text".into())?;
    let held_back = group.held_back.is_none_or(not_negative);
    ensure(not_negative(group.damping) && held_back, || "damping and held_back are finite and not negative".into())
}

fn layer(info: &Info, linear: &Linear) -> Result<(), String> {
    ensure(not_negative(linear.damping) && not_negative(linear.sensitivity), || {
        "damping and sensitivity are finite and not negative".into()
    })?;
    ensure(linear.tokens <= info.tokens, || "its tokens are among those of the text".into())?;
    match &linear.input {
        Some(input) if !info.groups.contains_key(input) => Err(format!("there is no group {input:?}")),
        _ => Ok(()),
    }
}

/// A covariance of `inputs`: as long as its triangle, finite, not negative on the diagonal nor zero all over, and no input
/// more alike to another than to itself.
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
        ensure(not_negative(own), || format!("entry ({i}, {i}) is {own}: the diagonal is finite and not negative"))?;
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
