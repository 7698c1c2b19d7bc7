//! Validation of a file of statistics. A file that passes can at worst lead to a poor encoding.

use impasto_checkpoint::{Checkpoint, TensorInfo};
use impasto_core::DType;

use super::{Group, INFO, Info, Linear, VERSION, correlations, correlations_name, rows_name, squares_name, values};

/// Largest length of `info`, in bytes.
const LONGEST: usize = 1 << 26;

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
        let (squares, below) = (squares_name(name), correlations_name(name));
        let tensor = vector(file, &squares, DType::F32)?;
        mean_squares(file, tensor, group.inputs).map_err(|rule| format!("tensor {squares:?}: {rule}"))?;
        let tensor = vector(file, &below, DType::I16)?;
        triangle(file, tensor, group.inputs).map_err(|rule| format!("tensor {below:?}: {rule}"))?;
        file.release(tensor);
    }
    for (name, linear) in &info.linears {
        layer(info, linear).map_err(|rule| format!("layer {name:?}: {rule}"))?;
        let name = rows_name(name);
        if file.tensor(&name).is_some() {
            let good = values(file, vector(file, &name, DType::F32)?).all(|w| not_negative(f64::from(w)));
            ensure(good, || format!("tensor {name:?}: weights must be finite and not negative"))?;
        }
    }
    Ok(())
}

/// Returns the vector with a name and a dtype.
fn vector<'a>(file: &'a Checkpoint, name: &str, dtype: DType) -> Result<&'a TensorInfo, String> {
    let tensor = file.tensor(name).ok_or_else(|| format!("it has no tensor {name:?}"))?;
    let good = tensor.dtype == dtype && tensor.shape.len() == 1;
    ensure(good, || format!("tensor {name:?}: it is not a vector of {}", dtype.name()))?;
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

/// Validates the mean squares of `inputs`: their number, that they are finite and not negative, and not all 0.
fn mean_squares(file: &Checkpoint, tensor: &TensorInfo, inputs: u64) -> Result<(), String> {
    let length = tensor.shape.first().copied().unwrap_or(0);
    ensure(length == inputs, || format!("it has {length} values for {inputs} inputs"))?;
    let odd = values(file, tensor).enumerate().find(|(_, square)| !not_negative(f64::from(*square)));
    if let Some((i, square)) = odd {
        return Err(format!("entry {i} is {square}: mean squares must be finite and not negative"));
    }
    ensure(values(file, tensor).any(|square| square > 0.0), || "all inputs are 0".into())
}

/// Validates the correlations of `inputs`: their number is that of the entries below the diagonal, and none is beyond -1.
fn triangle(file: &Checkpoint, tensor: &TensorInfo, inputs: u64) -> Result<(), String> {
    let length = tensor.shape.first().copied().unwrap_or(0);
    let twice = inputs.checked_mul(inputs.saturating_sub(1));
    ensure(twice.is_some() && twice == length.checked_mul(2), || {
        format!("{length} values are not those below the diagonal of {inputs} x {inputs}")
    })?;
    match correlations(file, tensor).position(|c| c == i16::MIN) {
        Some(at) => Err(format!("entry {at} is {}: correlations are from -32767 to 32767", i16::MIN)),
        None => Ok(()),
    }
}
