//! The beginning of a remote file: header and manifest.

use std::sync::Arc;

use impasto_container::{ContainerError, FormatError, Header, Limits, Reader};

use crate::error::FetchError;
use crate::get::{Getter, Tries};
use crate::remote::Body;
use crate::wait::Pace;

/// Bytes that are asked for first. The manifest of a small model fits.
const GUESS: usize = 1 << 16;

/// The beginning of a remote file.
pub struct Head {
    /// Header and manifest.
    pub bytes: Arc<Vec<u8>>,
    /// The same, checked.
    pub reader: Reader<Arc<Vec<u8>>>,
    /// What came after the manifest.
    pub rest: Vec<u8>,
    /// The length of the remote file, if the server says it; less than the header says if the file is cut.
    pub total: Option<u64>,
    /// If the server does not answer ranges: the rest of its answer, which is the whole file.
    pub stream: Option<Box<dyn Body>>,
}

impl Head {
    /// Gets and checks header and manifest. Further bytes must be of the same version.
    ///
    /// # Errors
    /// If the file cannot be got, or is not an .impasto file within `limits`.
    pub fn get(getter: &Getter, limits: &Limits) -> Result<Head, FetchError> {
        let mut tries = Tries::new(getter);
        let mut damaged = 0;
        loop {
            match Head::once(getter, limits) {
                Ok(head) => return Ok(head),
                // The hash may be wrong because bytes were lost on the way.
                Err(FetchError::Container(ContainerError::Format { rule: FormatError::Root, .. }))
                    if damaged + 1 < getter.options.unit_tries =>
                {
                    damaged += 1;
                }
                Err(error) => tries.again(error)?,
            }
        }
    }

    fn once(getter: &Getter, limits: &Limits) -> Result<Head, FetchError> {
        getter.set_version(None);
        let mut answer = getter.open(Some(0..GUESS as u64))?;
        getter.set_version(Some(answer.version.clone()));
        let mut bytes = Vec::new();
        let mut pace = Pace::new();
        let mut wanted = GUESS;
        let mut buffer = vec![0; GUESS];
        let length = loop {
            let left = wanted.saturating_sub(bytes.len()).clamp(1, buffer.len());
            let count = getter.read(&mut *answer.body, &mut pace, &mut buffer[..left])?;
            bytes.extend_from_slice(&buffer[..count]);
            let needs = needs(&bytes, &getter.shown(), limits)?;
            if !answer.is_range {
                // The rest of this answer is needed, too.
                wanted = usize::try_from(needs).unwrap_or(usize::MAX);
            }
            if count == 0 || bytes.len() >= wanted {
                break needs;
            }
        };
        let missing = length.saturating_sub(bytes.len() as u64);
        let total = answer.total;
        let short = |has| FetchError::Short { url: getter.shown(), has, wants: length };
        let stream = match answer.is_range {
            true => {
                if let Some(total) = total.filter(|total| *total < length) {
                    return Err(short(total));
                }
                drop(answer);
                let from = bytes.len() as u64;
                getter.bytes(from..from + missing, &mut |part| {
                    bytes.extend_from_slice(part);
                    Ok(())
                })?;
                None
            }
            false if missing > 0 && total.is_some() => return Err(short(bytes.len() as u64)),
            false if missing > 0 => {
                return Err(FetchError::Broken { url: getter.shown(), reason: "it ended too early".to_owned() });
            }
            false => Some(answer.body),
        };
        let rest = bytes.split_off(usize::try_from(length).unwrap_or(bytes.len()).min(bytes.len()));
        let bytes = Arc::new(bytes);
        Ok(Head { reader: Reader::open(bytes.clone(), getter.shown(), limits)?, bytes, rest, total, stream })
    }
}

/// Returns the length of header and manifest, as far as the bytes of a file say it.
fn needs(bytes: &[u8], url: &str, limits: &Limits) -> Result<u64, FetchError> {
    let wrong = |rule| FetchError::Container(ContainerError::Format { file: url.to_owned(), rule });
    match Header::read(bytes) {
        // Its first bytes may be right.
        Err(FormatError::NoHeader { .. }) => Ok(Header::SIZE as u64),
        Err(rule) => Err(wrong(rule)),
        Ok(header) if header.manifest_length > limits.max_manifest => Err(wrong(FormatError::OverLimit {
            what: "bytes of manifest",
            value: header.manifest_length,
            limit: limits.max_manifest,
        })),
        Ok(header) => Ok(header.manifest_end()),
    }
}
