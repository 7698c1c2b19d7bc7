//! A graph that is being built: nodes, the tensors that they read, inputs and outputs.

use std::collections::BTreeSet;

use super::data::Data;
use super::proto::{Attribute, Dim, Message, Type, external, node, tensor, value};

/// The version of the format, of the operators of ONNX, and of those of ONNX Runtime.
const IR: i64 = 10;
const ONNX: i64 = 23;
const MICROSOFT: i64 = 1;

/// The domain of the operators of ONNX Runtime.
pub const RUNTIME: &str = "com.microsoft";

/// A graph, with weights in a file of their own.
pub struct Graph<'d> {
    data: &'d Data,
    /// The fields of `GraphProto`.
    graph: Message,
    /// Tensors and other values that are added once.
    known: BTreeSet<String>,
}

impl<'d> Graph<'d> {
    pub fn new(name: &str, data: &'d Data) -> Graph<'d> {
        Graph { data, graph: Message::new().text(2, name), known: BTreeSet::new() }
    }

    fn add(&mut self, field: u64, message: &Message) {
        self.graph = std::mem::take(&mut self.graph).message(field, message);
    }

    /// Adds an operator of ONNX.
    pub fn op(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) {
        self.add(1, &node("", op, inputs, &[output], attributes));
    }

    /// Adds an operator of ONNX Runtime.
    pub fn own(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) {
        self.add(1, &node(RUNTIME, op, inputs, &[output], attributes));
    }

    /// Adds an operator with any number of outputs.
    pub fn op_of(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) {
        self.add(1, &node(domain, op, inputs, outputs, attributes));
    }

    /// Calls `add`, which computes the value `name`, unless that is known.
    pub fn once(&mut self, name: &str, add: impl FnOnce(&mut Self)) {
        if self.known.insert(name.to_owned()) {
            add(self);
        }
    }

    pub fn input(&mut self, name: &str, ty: Type, dims: &[Dim]) {
        self.add(11, &value(name, ty, dims));
    }

    pub fn output(&mut self, name: &str, ty: Type, dims: &[Dim]) {
        self.add(12, &value(name, ty, dims));
    }

    /// Makes a tensor of the file of weights known. Returns its type; `None` if the file does not have it.
    pub fn weight(&mut self, name: &str) -> Option<Type> {
        let place = self.data.place(name)?;
        if self.known.insert(name.to_owned()) {
            let tensor = external(name, place.ty, &place.dims, self.data.file(), place.offset, place.length);
            self.add(5, &tensor);
        }
        Some(place.ty)
    }

    /// Makes integers known, and returns their name.
    pub fn integers(&mut self, numbers: &[i64]) -> String {
        let name = format!("/{}", numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
        self.constant(
            &name,
            Type::Int64,
            &[numbers.len() as u64],
            &numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>(),
        );
        name
    }

    /// Makes a number known, and returns its name.
    pub fn number(&mut self, x: f32) -> String {
        let name = format!("/{x:e}");
        self.constant(&name, Type::Float, &[], &x.to_le_bytes());
        name
    }

    fn constant(&mut self, name: &str, ty: Type, dims: &[u64], bytes: &[u8]) {
        if self.known.insert(name.to_owned()) {
            self.add(5, &tensor(name, ty, dims, bytes));
        }
    }

    /// Returns the file of the model.
    pub fn model(self) -> Vec<u8> {
        let set = |domain: &str, version| Message::new().text(1, domain).int(2, version);
        let model = Message::new().int(1, IR).text(2, "impasto").text(3, env!("CARGO_PKG_VERSION"));
        let model = model.message(7, &self.graph);
        model.message(8, &set("", ONNX)).message(8, &set(RUNTIME, MICROSOFT)).into_bytes()
    }
}
