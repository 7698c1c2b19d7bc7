//! Codes a matrix in mode transform at several steps, and prints bits per value and error:
//! `transform_curve FILE COLUMNS TOOLS STEP...`, where FILE holds little-endian binary32 numbers.
//!
//! `tools/image_curve.py` runs it on pictures, `tools/coding_tools.py` on tensors of models.

use std::error::Error;
use std::fs;

use impasto_encode::transform::{Request, Tools, code};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, columns, tools, steps @ ..] = &arguments[..] else {
        return Err("usage: transform_curve FILE COLUMNS TOOLS STEP...".into());
    };
    let (bytes, width, tools) = (fs::read(file)?, columns.parse::<usize>()?, tools.parse::<Tools>()?);
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    if width == 0 || !values.len().is_multiple_of(width) || values.is_empty() {
        return Err("the file does not consist of rows of so many columns".into());
    }
    println!("step bytes bits_per_value mean_squared_error");
    for step in steps {
        let step: f32 = step.parse()?;
        let scaled: Vec<f32> = values.iter().map(|value| value / step).collect();
        let coded = code(&Request::new(&scaled, width, tools))?;
        let error = |(a, b): (&f32, &f32)| f64::from((a - b) * step).powi(2);
        let error = scaled.iter().zip(&coded.values).map(error).sum::<f64>() / values.len() as f64;
        let bits = coded.unit.len() as f64 * 8.0 / values.len() as f64;
        println!("{step} {} {bits:.4} {error:.6e}", coded.unit.len());
    }
    Ok(())
}
