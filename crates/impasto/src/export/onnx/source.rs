//! The file as a source of weights, of which the description of a network needs little: names, shapes, small tensors.

use impasto_container::Source;
use impasto_core::values;
use impasto_model::{Failure, WeightSource};

use crate::error::FileError;
use crate::export::safetensors;
use crate::file::File;
use crate::view::View;

pub struct FileSource<'f, S> {
    pub file: &'f File<S>,
    pub view: &'f View,
}

impl<S: Source> WeightSource for FileSource<'_, S> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        Some(self.file.meta(&self.view.origin(name)?.name).ok()?.dims.clone())
    }

    fn tensor_names(&self) -> Vec<String> {
        self.view.names()
    }

    /// Tensors whose values are the same are tied, since the encoder looks for them.
    fn is_same(&self, a: &str, b: &str) -> Result<bool, Failure> {
        let objects = self.file.reader().objects();
        let original = |name| {
            let own = &self.view.origin(name)?.name;
            let number = objects.iter().position(|object| object.name == *own)?;
            Some(objects.get(number)?.tied().map_or(number, |to| to as usize))
        };
        Ok(self.shape(a) == self.shape(b) && original(a) == original(b))
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let origin = self.view.origin(name).ok_or_else(|| self.file.missing(name))?;
        let part = safetensors::part(self.file, name, origin)?;
        let (mut bytes, mut floats) = (vec![], vec![]);
        part.write(self.file, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        if !values::to_f32(part.spec.dtype, &bytes, &mut floats) {
            let (file, dtype) = (self.file.reader().name().to_owned(), part.spec.dtype.name().to_owned());
            return Err(FileError::NotFloat { file, name: name.to_owned(), dtype }.into());
        }
        Ok(floats)
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.file.asset(name).ok().flatten()
    }
}
