//! The few messages of `onnx.proto` (ONNX 1.23, Apache-2.0) that a model needs, in the wire format of Protocol Buffers.

use impasto_core::{DType, varint};

/// A message that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

/// Wire types: how long a field is.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

impl Message {
    pub fn new() -> Message {
        Message::default()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn key(&mut self, field: u64, wire: u64) {
        varint::write(&mut self.0, field << 3 | wire);
    }

    /// Appends an integer; negative ones take ten bytes, as two's complement.
    pub fn int(mut self, field: u64, value: i64) -> Message {
        self.key(field, VARINT);
        varint::write(&mut self.0, value as u64);
        self
    }

    pub fn float(mut self, field: u64, value: f32) -> Message {
        self.key(field, FIXED32);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Message {
        self.key(field, LENGTH);
        varint::write(&mut self.0, bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    pub fn text(self, field: u64, text: &str) -> Message {
        self.bytes(field, text.as_bytes())
    }

    pub fn message(self, field: u64, message: &Message) -> Message {
        self.bytes(field, &message.0)
    }
}

/// The types of elements, with their numbers in `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Float = 1,
    Uint8 = 2,
    Int32 = 6,
    Int64 = 7,
    Float16 = 10,
    Bfloat16 = 16,
    Float8E4M3 = 17,
    Float8E5M2 = 19,
}

impl Type {
    /// Returns the type of a dtype that a layer may have.
    pub fn of(dtype: DType) -> Option<Type> {
        Some(match dtype {
            DType::F32 => Type::Float,
            DType::F16 => Type::Float16,
            DType::Bf16 => Type::Bfloat16,
            DType::U8 => Type::Uint8,
            DType::F8E4M3 => Type::Float8E4M3,
            DType::F8E5M2 => Type::Float8E5M2,
            _ => return None,
        })
    }
}

/// A dimension of an input or output: a number, or a name for any number.
#[derive(Clone, Copy, Debug)]
pub enum Dim<'a> {
    Of(usize),
    Named(&'a str),
}

/// The value of an attribute of a node.
#[derive(Clone, Debug)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    Text(&'static str),
}

/// Returns a `ValueInfoProto`: an input or output of a graph.
pub fn value(name: &str, ty: Type, dims: &[Dim]) -> Message {
    let dim = |shape: Message, dim: &Dim| {
        let one = match *dim {
            Dim::Of(n) => Message::new().int(1, n as i64),
            Dim::Named(name) => Message::new().text(2, name),
        };
        shape.message(1, &one)
    };
    let shape = dims.iter().fold(Message::new(), dim);
    let tensor = Message::new().int(1, ty as i64).message(2, &shape);
    Message::new().text(1, name).message(2, &Message::new().message(1, &tensor))
}

/// Returns a `NodeProto`.
pub fn node(domain: &str, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Attribute)]) -> Message {
    let node = inputs.iter().fold(Message::new(), |node, input| node.text(1, input));
    let node = outputs.iter().fold(node, |node, output| node.text(2, output));
    // Values have one source each, so the first output names the node.
    let node = node.text(3, outputs.first().copied().unwrap_or_default()).text(4, op);
    let with = |node: Message, (name, value): &(&str, Attribute)| {
        let attribute = Message::new().text(1, name);
        node.message(
            5,
            &match value {
                Attribute::Float(x) => attribute.float(2, *x).int(20, 1),
                Attribute::Int(n) => attribute.int(3, *n).int(20, 2),
                Attribute::Text(text) => attribute.text(4, text).int(20, 3),
            },
        )
    };
    attributes.iter().fold(node, with).text(7, domain)
}

/// Returns a `TensorProto` with its elements.
pub fn tensor(name: &str, ty: Type, dims: &[u64], bytes: &[u8]) -> Message {
    dims.iter().fold(Message::new(), |t, &n| t.int(1, n as i64)).int(2, ty as i64).text(8, name).bytes(9, bytes)
}

/// Returns a `TensorProto` whose elements are in a file next to the model.
pub fn external(name: &str, ty: Type, dims: &[u64], file: &str, offset: u64, length: u64) -> Message {
    let entry = |key: &str, value: &str| Message::new().text(1, key).text(2, value);
    let head = dims.iter().fold(Message::new(), |t, &n| t.int(1, n as i64)).int(2, ty as i64).text(8, name);
    let head = head.message(13, &entry("location", file)).message(13, &entry("offset", &offset.to_string()));
    head.message(13, &entry("length", &length.to_string())).int(14, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first three are the examples of the documentation of Protocol Buffers.
    #[test]
    fn fields_on_the_wire() {
        assert_eq!(Message::new().int(1, 150).into_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::new().text(2, "testing").into_bytes(), *b"\x12\x07testing");
        let inner = Message::new().int(1, 150);
        assert_eq!(Message::new().message(3, &inner).into_bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::new().float(2, 1.0).into_bytes(), [0x15, 0, 0, 0x80, 0x3f]);
        let minus = Message::new().int(20, -1).into_bytes();
        assert_eq!(minus, [0xa0, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    }
}
