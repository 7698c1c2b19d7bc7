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
        let total = answer.total;
        let (mut bytes, mut pace, mut buffer) = (Vec::new(), Pace::new(), vec![0; GUESS]);
        // An answer with the whole file is read as far as the manifest reaches.
        let mut wanted = GUESS as u64;
        while (bytes.len() as u64) < wanted {
            let left = usize::try_from(wanted - bytes.len() as u64).unwrap_or(GUESS).min(GUESS);
            match getter.read(&mut *answer.body, &mut pace, &mut buffer[..left]) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                // What came is kept.
                Err(error) if error.is_temporary() && answer.is_range && !bytes.is_empty() => break,
                Err(error) => return Err(error),
            }
            let needed = needed(&bytes, getter, limits)?;
            if !answer.is_range {
                wanted = needed;
            }
        }
        let stream = match answer.is_range {
            true => {
                drop(answer);
                Head::complete(getter, limits, total, &mut bytes)?;
                None
            }
            false => {
                let (url, has, wants) = (getter.shown(), bytes.len() as u64, needed(&bytes, getter, limits)?);
                if has < wants {
                    return Err(match total {
                        Some(_) => FetchError::Short { url, has, wants },
                        None => FetchError::Broken { url, reason: "it ended too early".to_owned() },
                    });
                }
                Some(answer.body)
            }
        };
        let length = usize::try_from(needed(&bytes, getter, limits)?).unwrap_or(usize::MAX);
        let rest = bytes.split_off(length.min(bytes.len()));
        let bytes = Arc::new(bytes);
        Ok(Head { reader: Reader::open(bytes.clone(), getter.shown(), limits)?, bytes, rest, total, stream })
    }

    /// Gets what is missing of header and manifest.
    fn complete(getter: &Getter, limits: &Limits, total: Option<u64>, bytes: &mut Vec<u8>) -> Result<(), FetchError> {
        loop {
            let (has, wants) = (bytes.len() as u64, needed(bytes, getter, limits)?);
            if has >= wants {
                return Ok(());
            }
            if let Some(has) = total.filter(|total| *total < wants) {
                return Err(FetchError::Short { url: getter.shown(), has, wants });
            }
            getter.bytes(has..wants, &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
        }
    }
}

/// Returns the length of header and manifest, as far as the bytes of a file say it.
fn needed(bytes: &[u8], getter: &Getter, limits: &Limits) -> Result<u64, FetchError> {
    let wrong = |rule| FetchError::Container(ContainerError::Format { file: getter.shown(), rule });
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
