//! Invalid files of statistics: each is refused with a line that names file, tensor and rule.

use std::path::PathBuf;

use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::DType;
use impasto_encode::Statistics;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A file with one group of two inputs, and two layers.
struct Parts {
    info: Value,
    squares: Vec<f32>,
    correlations: Vec<i16>,
    rows: Vec<f32>,
    dtype: DType,
}

impl Parts {
    fn good() -> Parts {
        let layer = json!({ "input": "q", "damping": 0.01, "sensitivity": 2.0, "tokens": 90 });
        let info = json!({
            "version": 3, "model": "m", "text": "t",
            "window": 10, "tokens": 100, "gradient_tokens": 50, "held_back_tokens": 10,
            "groups": { "q": { "inputs": 2, "tokens": 90, "damping": 0.01, "held_back": 1.5 } },
            "linears": { "q": layer, "k": layer },
        });
        Parts { info, squares: vec![1.0, 4.0], correlations: vec![8192], rows: vec![0.5, 1.5], dtype: DType::F32 }
    }

    fn write(&self, folder: &TempDir, without: &str) -> PathBuf {
        let path = folder.path().join("s.safetensors");
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let info = serde_json::to_vec(&self.info).expect("JSON");
        let squares = bytes(&self.squares);
        let correlations: Vec<u8> = self.correlations.iter().flat_map(|c| c.to_le_bytes()).collect();
        let rows = bytes(&self.rows);
        let elements = (squares.len() / self.dtype.size()) as u64;
        let tensors = [
            (TensorSpec::new("correlations.q", DType::I16, [self.correlations.len() as u64]), &correlations[..]),
            (TensorSpec::new("mean_squares.q", self.dtype, [elements]), &squares[..]),
            (TensorSpec::new("rows.k", DType::F32, [self.rows.len() as u64]), &rows[..]),
            (TensorSpec::new("info", DType::U8, [info.len() as u64]), &info[..]),
        ];
        let tensors: Vec<_> = tensors.into_iter().filter(|(spec, _)| spec.name != without).collect();
        write_safetensors(&path, None, &tensors).expect("a file");
        path
    }
}

fn refused(parts: &Parts, without: &str) -> String {
    let folder = TempDir::new().expect("a folder");
    let error = Statistics::open(&parts.write(&folder, without)).err().expect("an error").to_string();
    assert!(error.contains("s.safetensors: ") && !error.contains('\n'), "{error}");
    error
}

#[test]
fn a_good_file() {
    let folder = TempDir::new().expect("a folder");
    let statistics = Statistics::open(&Parts::good().write(&folder, "")).expect("statistics");
    let entry = (8192.0 / 32767.0 * 2.0) as f32;
    assert_eq!(statistics.covariance("q"), Some((2, vec![1.0, 0.0, entry, 4.0])));
    assert_eq!(statistics.mean_square("q"), Some(2.5));
    assert_eq!((statistics.inputs("q"), statistics.inputs("k")), (Some(2), None));
    assert_eq!((statistics.rows("k"), statistics.rows("q")), (Some(vec![0.5, 1.5]), None));
    assert!(statistics.covariance("k").is_none() && statistics.mean_square("other").is_none());
    let mut parts = Parts::good();
    parts.info["groups"]["q"]["held_back"] = Value::Null;
    parts.info["linears"]["k"]["input"] = Value::Null;
    assert!(Statistics::open(&parts.write(&folder, "")).is_ok(), "what may be absent");
}

#[test]
fn numbers_out_of_range() {
    let cases: &[(&str, Value, &str)] = &[
        ("/version", json!(1), "version 1 is not supported: only 3 is"),
        ("/version", json!(2), "version 2 is not supported: only 3 is"),
        ("/version", json!("2"), "info: invalid type"),
        ("/tokens", json!(0), "above 0"),
        ("/window", json!(0), "above 0"),
        ("/gradient_tokens", json!(0), "above 0"),
        ("/gradient_tokens", json!(101), "gradient_tokens must be at most tokens"),
        ("/held_back_tokens", json!(100), "gradient_tokens must be at most tokens"),
        ("/tokens", json!(-1), "info: invalid value"),
        ("/tokens", json!(80), "group \"q\": tokens must be from 1"),
        ("/groups/q/tokens", json!(0), "group \"q\": tokens must be from 1"),
        ("/groups/q/inputs", json!(0), "group \"q\": inputs must be above 0"),
        ("/groups/q/inputs", json!(3), "tensor \"mean_squares.q\": it has 2 values for 3 inputs"),
        ("/groups/q/inputs", json!(u64::MAX), "2 values for"),
        ("/groups/q/inputs", json!(1u64 << 32), "2 values for"),
        ("/groups/q/damping", json!(-0.1), "group \"q\": damping"),
        ("/groups/q/damping", Value::Null, "info: invalid type"),
        ("/groups/q/held_back", json!(-1.0), "group \"q\": damping and held_back"),
        ("/linears/k/damping", json!(-1e-9), "layer \"k\": damping"),
        ("/linears/k/sensitivity", json!(-2.0), "layer \"k\": damping and sensitivity"),
        ("/linears/k/tokens", json!(101), "layer \"k\": tokens must be at most"),
        ("/linears/k/input", json!("other"), "layer \"k\": there is no group \"other\""),
        ("/groups", json!([]), "info: invalid type"),
    ];
    for (at, value, rule) in cases {
        let mut parts = Parts::good();
        *parts.info.pointer_mut(at).expect("a field") = value.clone();
        let error = refused(&parts, "");
        assert!(error.contains(rule), "{at} = {value}: {error}");
    }
}

#[test]
fn values_out_of_range() {
    let cases: &[(&[f32], &str)] = &[
        (&[-1.0, 4.0], "entry 0 is -1: mean squares must be finite and not negative"),
        (&[1.0, f32::INFINITY], "entry 1 is inf: mean squares"),
        (&[f32::NAN, 1.0], "entry 0 is NaN: mean squares"),
        (&[0.0, 0.0], "all inputs are 0"),
        (&[1.0], "1 values for 2 inputs"),
        (&[1.0, 0.5, 4.0], "3 values for 2 inputs"),
        (&[], "0 values for"),
    ];
    for (squares, rule) in cases {
        let error = refused(&Parts { squares: squares.to_vec(), ..Parts::good() }, "");
        assert!(error.contains("tensor \"mean_squares.q\": ") && error.contains(rule), "{error}");
    }
    let cases: &[(&[i16], &str)] = &[
        (&[i16::MIN], "entry 0 is -32768: correlations are from -32767 to 32767"),
        (&[], "0 values are not those below the diagonal of 2 x 2"),
        (&[1, 2], "2 values are not those below the diagonal of 2 x 2"),
    ];
    for (correlations, rule) in cases {
        let error = refused(&Parts { correlations: correlations.to_vec(), ..Parts::good() }, "");
        assert!(error.contains("tensor \"correlations.q\": ") && error.contains(rule), "{error}");
    }
    for rows in [[1.0, -0.5], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
        let error = refused(&Parts { rows: rows.to_vec(), ..Parts::good() }, "");
        assert!(error.contains("tensor \"rows.k\": weights must be finite and not negative"), "{error}");
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_kind() {
    assert!(refused(&Parts::good(), "info").contains("it has no tensor \"info\""));
    for name in ["mean_squares.q", "correlations.q"] {
        assert!(refused(&Parts::good(), name).contains(&format!("it has no tensor {name:?}")));
    }
    let error = refused(&Parts { dtype: DType::Bf16, ..Parts::good() }, "");
    assert!(error.contains("tensor \"mean_squares.q\": it is not a vector of F32"), "{error}");
}
