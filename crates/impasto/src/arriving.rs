//! Files that are used while they arrive, from their first byte to their last.

use std::sync::OnceLock;

use impasto_container::{Header, Limits, Reader, Source};

use crate::cut::Cut;
use crate::error::FileError;
use crate::file::File;

/// A file over a source that grows at its end, such as a [`GrowingSource`](impasto_container::GrowingSource) of a file that is being
/// downloaded. It is used in *stages*: the layers of its layer table, and last the whole file.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("tiny.impasto");
/// # let tiny = impasto::Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny").as_ref())?;
/// # let options = impasto::encode::Options::new(impasto::encode::Target::Lossless);
/// # impasto::encode::encode(&tiny, &path, &options, &|_| std::ops::ControlFlow::Continue(()))?;
/// use std::sync::Arc;
///
/// use impasto::Arriving;
/// use impasto::format::{GrowingSource, Limits};
///
/// let source = Arc::new(GrowingSource::open(&path)?);
/// let arriving = Arriving::new(source, "tiny.impasto", Limits::default());
/// if let Some(stage) = arriving.stage()? {
///     let file = arriving.open(&stage)?;
///     println!("{} tensors, {} of {} bytes", file.tensor_names().count(), stage.bytes, stage.bytes_of);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Arriving<S> {
    source: S,
    name: String,
    limits: Limits,
    plan: OnceLock<Plan>,
}

/// Where the stages of a file end.
struct Plan {
    /// Bytes of the file up to the end of each stage.
    ends: Vec<u64>,
    /// Layers in its layer table.
    layers: usize,
}

/// What of a file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The number of the last complete stage, from 1.
    pub number: usize,
    /// The number of stages of the whole file.
    pub of: usize,
    /// The bytes of the file that the stage takes.
    pub bytes: u64,
    /// The bytes of the whole file.
    pub bytes_of: u64,
    /// The layer of the layer table that is complete; `None` if the file is whole.
    layer: Option<usize>,
}

impl Stage {
    /// Returns whether the file is whole.
    pub fn is_last(&self) -> bool {
        self.number == self.of
    }
}

impl<S: Source + Clone> Arriving<S> {
    /// Creates a file over a source of which nothing needs to be there yet. `name` is its name in messages.
    pub fn new(source: S, name: impl Into<String>, limits: Limits) -> Self {
        Arriving { source, name: name.into(), limits, plan: OnceLock::new() }
    }

    /// Returns how many bytes are there, and how many the file will have, once its header is there.
    ///
    /// # Errors
    /// If it is not an .impasto file, or cannot be read.
    pub fn bytes(&self) -> Result<(u64, Option<u64>), FileError> {
        Ok((self.source.len(), self.header()?.map(|header| header.file_length)))
    }

    /// Returns the last stage that is complete; `None` while not even the first is.
    ///
    /// # Errors
    /// If it is not an .impasto file, exceeds the limits, or cannot be read.
    pub fn stage(&self) -> Result<Option<Stage>, FileError> {
        let Some(plan) = self.plan()? else { return Ok(None) };
        let there = self.source.len();
        let complete = plan.ends.iter().take_while(|&&end| end <= there).count();
        let Some(&bytes) = complete.checked_sub(1).and_then(|last| plan.ends.get(last)) else { return Ok(None) };
        let (of, bytes_of) = (plan.ends.len(), plan.ends.last().copied().unwrap_or(bytes));
        let layer = Some(complete).filter(|&layer| layer < of && layer <= plan.layers);
        Ok(Some(Stage { number: complete, of, bytes, bytes_of, layer }))
    }

    /// Opens the file as it is at a stage: what has arrived since is not used.
    ///
    /// # Errors
    /// As for [`File::open_within`] and [`File::cut`].
    pub fn open(&self, stage: &Stage) -> Result<File<S>, FileError> {
        let mut file = File::new(Reader::open(self.source.clone(), self.name.clone(), &self.limits)?);
        if let Some(layer) = stage.layer {
            file.cut(&Cut::Layer(layer))?;
        }
        Ok(file)
    }

    fn header(&self) -> Result<Option<Header>, FileError> {
        if self.source.len() < Header::SIZE as u64 {
            return Ok(None);
        }
        let io = |error| impasto_container::ContainerError::Io { file: self.name.clone(), error };
        let bytes = self.source.read_at(0, Header::SIZE).map_err(io)?;
        let format = |rule| impasto_container::ContainerError::Format { file: self.name.clone(), rule };
        Ok(Some(Header::read(&bytes).map_err(format)?))
    }

    /// Reads the manifest, once it is there.
    fn plan(&self) -> Result<Option<&Plan>, FileError> {
        if let Some(plan) = self.plan.get() {
            return Ok(Some(plan));
        }
        let Some(header) = self.header()?.filter(|header| header.manifest_end() <= self.source.len()) else {
            return Ok(None);
        };
        let reader = Reader::open(self.source.clone(), self.name.clone(), &self.limits)?;
        let end = |units: u32| reader.unit_range(units.checked_sub(1)?).map(|range| range.end);
        // Every stage has the units of layer 0, wherever they are.
        let base = (0..).zip(reader.units()).filter(|(_, unit)| unit.layer == 0).map(|(number, _)| number + 1).max();
        let base = base.and_then(end).unwrap_or(header.manifest_end());
        let of_marks = reader.marks().iter().map(|mark| end(mark.units).unwrap_or(0).max(base));
        let layers = reader.marks().len();
        let mut ends: Vec<u64> = of_marks.collect();
        if ends.last().is_none_or(|&last| last < header.file_length) {
            ends.push(header.file_length);
        }
        Ok(Some(self.plan.get_or_init(|| Plan { ends, layers })))
    }
}
