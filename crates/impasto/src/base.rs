//! A file over its base: what of the base it takes, and how it is read (SPEC 21).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use impasto_codec::CodecError;
use impasto_container::base::misfit;
use impasto_container::{Base, BaseLink, MmapSource, Object, ObjectKind, Source};
use impasto_core::{DType, Place, lattice::write_row_at, values};

use crate::error::{FileError, WrongBase};
use crate::file::File;
use crate::tensor::Tensor;

/// The largest number of files that are read to decode one: itself, its base, the base of that, and so on (SPEC 21.8).
pub const MAX_DEPTH: usize = 16;

impl<S: Source> File<S> {
    /// Returns the file that this one is a delta of, as its manifest describes it; `None` if it is not a delta.
    pub fn base(&self) -> Option<&Base> {
        self.reader.base()
    }

    /// Returns the file that was attached as the base.
    pub fn attached(&self) -> Option<&Arc<File<S>>> {
        self.base.as_ref()
    }

    /// Attaches the base, without which a delta cannot be read. It is the right one if it has the root that the delta names,
    /// or if all its objects that the delta takes something from are the ones that were pinned. If it is a delta itself, its
    /// own base must be attached before.
    ///
    /// # Errors
    /// [`FileError::WrongBase`], [`FileError::BaseObject`], [`FileError::Depth`]; [`FileError::NotDelta`] if this file has no
    /// base; [`FileError::NoBase`] if `base` lacks its own; or if both expand to too much (SPEC 11.3).
    pub fn attach(&mut self, base: impl Into<Arc<File<S>>>) -> Result<(), FileError> {
        let base: Arc<File<S>> = base.into();
        let Some(pinned) = self.reader.base() else {
            return Err(FileError::NotDelta { file: self.reader.name().to_owned() });
        };
        base.needs_no_base()?;
        if base.depth() >= MAX_DEPTH {
            return Err(FileError::Depth { file: self.reader.name().to_owned(), most: MAX_DEPTH });
        }
        let links = || self.reader.objects().iter().filter_map(|object| Some((object, object.base()?)));
        if &pinned.root != base.reader.root() {
            // Many objects may name one of the base, whose hash takes time if it has many units.
            let mut hashes = HashMap::new();
            let mut differs = |object: &Object, link: &BaseLink| {
                let number = find(&base, object, link);
                let hash = |number| {
                    let key = (number, link.level);
                    *hashes.entry(key).or_insert_with(|| base.reader.object_hash(number, link.level))
                };
                number.and_then(hash) != Some(link.hash)
            };
            let differing = links().filter(|(object, link)| differs(object, link));
            let differing: Vec<String> = differing.map(|(object, _)| object.name.clone()).collect();
            if !differing.is_empty() {
                return Err(FileError::WrongBase(Box::new(WrongBase {
                    file: self.reader.name().to_owned(),
                    base: base.reader.name().to_owned(),
                    wanted: hex(&pinned.root),
                    found: hex(base.reader.root()),
                    objects: links().count(),
                    differing,
                })));
            }
        }
        for (object, link) in links() {
            let wrong = |what| FileError::BaseObject {
                file: self.reader.name().to_owned(),
                name: object.name.clone(),
                base: base.reader.name().to_owned(),
                what,
            };
            let number = find(&base, object, link).ok_or_else(|| wrong("is not there"))?;
            let of_base = base.reader.objects().get(base.reader.resolve(number) as usize);
            let fits = match (object.tensor(), of_base.and_then(Object::tensor)) {
                (Some(meta), Some(of_base)) => misfit(link.usage, meta, of_base),
                (None, None) => match (base.reader.matrix(number), asset_length(object)) {
                    (Some(there), Some(here)) if there.cols() == here => None,
                    _ => Some("is of another length"),
                },
                _ => Some("is of another class"),
            };
            if let Some(what) = fits {
                return Err(wrong(what));
            }
        }
        self.reader.check_expansion_over(base.present_bytes())?;
        self.base = Some(base);
        Ok(())
    }

    /// Returns an error if it is a delta and its base is not attached.
    pub(crate) fn needs_no_base(&self) -> Result<(), FileError> {
        match self.reader.base() {
            Some(base) if self.base.is_none() => Err(FileError::NoBase {
                file: self.reader.name().to_owned(),
                name: base.name.clone(),
                root: hex(&base.root),
                mirrors: base.mirrors.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Returns how many files are read to decode this one.
    pub fn depth(&self) -> usize {
        1 + self.base.as_ref().map_or(0, |base| base.depth())
    }

    /// Returns the bytes of the file and its bases that are there.
    fn present_bytes(&self) -> u64 {
        let own = self.reader.expansion().present;
        own.saturating_add(self.base.as_ref().map_or(0, |base| base.present_bytes()))
    }

    /// Opens the object of the base that object number `number` takes something from; `None` if it takes nothing.
    ///
    /// # Errors
    /// [`FileError::NoBase`], or those of opening it.
    pub(crate) fn of_base(&self, number: u32) -> Result<Option<(Tensor<'_, S>, &BaseLink)>, FileError> {
        let object = self.reader.objects().get(self.reader.resolve(number) as usize);
        let Some((object, link)) = object.and_then(|object| Some((object, object.base()?))) else { return Ok(None) };
        self.needs_no_base()?;
        let Some(base) = &self.base else { return Ok(None) };
        let there = find(base, object, link).ok_or_else(|| base.missing(link.name.as_ref().unwrap_or(&object.name)))?;
        Ok(Some((Tensor::new(base, there)?.at_level(link.level), link)))
    }

    /// Returns the number of the object of the base that object number `number` takes something from, if that is read whole: a delta
    /// may name a level below the finest one. Ties are resolved.
    #[cfg(any(feature = "encode", feature = "run"))]
    pub(crate) fn whole_of_base(&self, number: u32) -> Option<u32> {
        let object = self.reader.objects().get(self.reader.resolve(number) as usize)?;
        let (link, base) = (object.base()?, self.base.as_ref()?);
        let there = base.reader.resolve(find(base, object, link)?);
        (base.reader.layers_of(there) <= link.level).then_some(there)
    }

    /// Returns the file and the number of an object's units: those of the base, or of the base's base, if it is identical to an
    /// object there. One that is read at a lower level than the object there has stays where it is.
    #[cfg(any(feature = "encode", feature = "run"))]
    pub(crate) fn home(self: &Arc<Self>, number: u32) -> (Arc<File<S>>, u32) {
        let (mut file, mut number) = (self.clone(), number);
        loop {
            let object = file.reader.objects().get(file.reader.resolve(number) as usize);
            let link = object.and_then(|object| Some((object, object.base().filter(|_| object.is_identical())?)));
            let next = link.zip(file.base.as_ref()).and_then(|((object, link), base)| {
                // A level below the top of the base is not what a file of its own would have.
                let there = find(base, object, link).filter(|&n| base.reader.layers_of(n) <= link.level)?;
                Some((base.clone(), there))
            });
            match next {
                Some(next) => (file, number) = next,
                None => return (file, number),
            }
        }
    }
}

impl File<MmapSource> {
    /// Returns the name under which the file's model is known to its deltas: that of the file, without its folder.
    pub fn model_name(&self) -> String {
        let name = std::path::Path::new(self.reader.name()).file_stem();
        name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

/// Returns the length of an asset.
fn asset_length(object: &Object) -> Option<u64> {
    match object.kind {
        ObjectKind::Asset { length, .. } => Some(length),
        _ => None,
    }
}

/// Returns the number of the object of `base` that `object` takes something from.
fn find<S: Source>(base: &File<S>, object: &Object, link: &BaseLink) -> Option<u32> {
    let name = link.name.as_ref().unwrap_or(&object.name);
    match object.tensor() {
        Some(_) => base.reader.find_tensor(name),
        None => base.reader.find_asset(name),
    }
}

/// Returns a hash in hexadecimal digits.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the rows and columns of `base`, a tensor of the base, at a place of a tensor.
fn at<S: Source>(base: &Tensor<'_, S>, place: &Place) -> (Range<u64>, Range<u64>) {
    let clamp = |row: usize| (row as u64).min(base.matrix().rows());
    (clamp(place.rows.start)..clamp(place.rows.end), place.columns.start as u64..place.columns.end as u64)
}

/// Returns the elements of `base`, a tensor of the base, at a place of a tensor of `dtype`, row by row (SPEC 21.4).
pub(crate) fn elements_at<S: Source>(base: &Tensor<'_, S>, dtype: DType, place: &Place) -> Result<Vec<u8>, FileError> {
    let width = place.columns.len();
    let mut out = vec![0; place.elements() * dtype.size()];
    if base.dtype() == dtype {
        fill_from(base, place, &mut out, width * dtype.size())?;
        return Ok(out);
    }
    // What is past the last row of the base is 0.
    let (rows, columns) = at(base, place);
    let there = (rows.end - rows.start) as usize * width;
    if there > 0 {
        let (size, mut elements) = (base.dtype().size(), vec![0; there * base.dtype().size()]);
        base.part(rows, columns, &mut elements, width * size)?;
        convert(base, dtype, &elements, &mut out[..there * dtype.size()])?;
    }
    Ok(out)
}

/// Writes the elements of `base`, a tensor of the base, at a place of a tensor of its dtype (SPEC 21.4). Rows begin `stride` bytes
/// after one another in `out`.
pub(crate) fn fill_from<S: Source>(
    base: &Tensor<'_, S>,
    place: &Place,
    out: &mut [u8],
    stride: usize,
) -> Result<(), FileError> {
    let (rows, columns) = at(base, place);
    let row_bytes = place.columns.len() * base.dtype().size();
    // What is past the last row of the base is 0.
    let there = (rows.end - rows.start) as usize;
    (there..place.rows.len()).for_each(|r| out[r * stride..][..row_bytes].fill(0));
    if there == 0 || row_bytes == 0 { Ok(()) } else { base.part(rows, columns, out, stride) }
}

/// Converts elements of `base` to `dtype` (SPEC 21.4).
fn convert<S: Source>(base: &Tensor<'_, S>, dtype: DType, elements: &[u8], out: &mut [u8]) -> Result<(), FileError> {
    /// Elements that are converted together.
    const TOGETHER: usize = 4096;
    let mut weights = Vec::with_capacity(TOGETHER);
    let parts = elements.chunks(TOGETHER * base.dtype().size()).zip(out.chunks_mut(TOGETHER * dtype.size()));
    for (elements, out) in parts {
        weights.clear();
        if !values::to_f32(base.dtype(), elements, &mut weights) {
            return Err(base.unusable(CodecError::Call("the dtype of the base has no values")));
        }
        weights.iter_mut().filter(|weight| weight.is_nan()).for_each(|weight| *weight = 0.0);
        write_row_at(base.isa(), dtype, &weights, out);
    }
    Ok(())
}

/// Returns the elements of whole rows of `base` at rows of a tensor of `dtype`, like [`elements_at`], on all threads.
#[cfg(feature = "encode")]
pub(crate) fn rows_as<S: Source>(base: &Tensor<'_, S>, dtype: DType, rows: Range<u64>) -> Result<Vec<u8>, FileError> {
    let columns = base.matrix().cols();
    let count = ((rows.end - rows.start) * columns) as usize;
    let there = rows.start.min(base.matrix().rows())..rows.end.min(base.matrix().rows());
    let mut elements = base.band(there, 0..columns)?;
    if base.dtype() != dtype {
        let mut converted = vec![0; elements.len() / base.dtype().size() * dtype.size()];
        convert(base, dtype, &elements, &mut converted)?;
        elements = converted;
    }
    elements.resize(count * dtype.size(), 0);
    Ok(elements)
}
