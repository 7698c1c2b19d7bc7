//! `config.json` of an exported folder.

use impasto_container::Source;
use serde_json::{Map, Value};

use crate::error::FileError;
use crate::file::File;

/// The asset.
pub const CONFIG: &str = "config.json";

/// Returns its fields, which are exported in `form`; `None` if the file has none.
///
/// # Errors
/// If it is no JSON object, or cannot be read.
pub fn read<S: Source>(file: &File<S>, form: &'static str) -> Result<Option<Map<String, Value>>, FileError> {
    let misfit = |rule| FileError::Form { file: file.reader().name().to_owned(), form, rule };
    let Some(config) = file.asset(CONFIG)? else { return Ok(None) };
    match serde_json::from_slice(&impasto_core::json::finite(&config)) {
        Ok(Value::Object(fields)) => Ok(Some(fields)),
        Ok(_) => Err(misfit(format!("{CONFIG} is no object"))),
        Err(error) => Err(misfit(format!("{CONFIG}: {error}"))),
    }
}

/// Returns its bytes.
pub fn text(fields: Map<String, Value>) -> Vec<u8> {
    format!("{:#}\n", Value::Object(fields)).into_bytes()
}
