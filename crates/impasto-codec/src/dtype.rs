//! Element types of tensors.

/// The element type of a tensor, as checkpoints name it (SPEC 5.2, table "dtype").
///
/// The number is the code in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DType {
    /// IEEE 754 binary32.
    F32 = 1,
    /// IEEE 754 binary16.
    F16 = 2,
    /// bfloat16: the upper half of a binary32.
    Bf16 = 3,
    /// IEEE 754 binary64.
    F64 = 4,
    /// 8-bit float, 4 exponent and 3 mantissa bits, no infinities.
    F8E4M3 = 5,
    /// 8-bit float, 5 exponent and 2 mantissa bits.
    F8E5M2 = 6,
    /// Unsigned 8-bit integer.
    U8 = 7,
    /// Signed 8-bit integer.
    I8 = 8,
    /// Unsigned 16-bit integer.
    U16 = 9,
    /// Signed 16-bit integer.
    I16 = 10,
    /// Unsigned 32-bit integer.
    U32 = 11,
    /// Signed 32-bit integer.
    I32 = 12,
    /// Unsigned 64-bit integer.
    U64 = 13,
    /// Signed 64-bit integer.
    I64 = 14,
    /// One byte a value, 0 or 1.
    Bool = 15,
    /// Two binary32: real, imaginary.
    C64 = 16,
    /// 8-bit float, 8 exponent bits, no sign and no mantissa (a scale).
    F8E8M0 = 17,
}

/// How the bits of a float divide: 1 sign bit, then `exponent` bits, then `mantissa` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatLayout {
    /// Width of the exponent field.
    pub exponent: u32,
    /// Width of the mantissa field, without the hidden bit.
    pub mantissa: u32,
}

impl DType {
    /// Every dtype, in the order of its code.
    pub const ALL: [DType; 17] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::F64,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::U8,
        DType::I8,
        DType::U16,
        DType::I16,
        DType::U32,
        DType::I32,
        DType::U64,
        DType::I64,
        DType::Bool,
        DType::C64,
        DType::F8E8M0,
    ];

    /// The dtype of a code in the file, if there is one.
    pub fn from_code(code: u8) -> Option<DType> {
        Self::ALL.into_iter().find(|d| *d as u8 == code)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0 | DType::U8 | DType::I8 | DType::Bool => 1,
            DType::F16 | DType::Bf16 | DType::U16 | DType::I16 => 2,
            DType::F32 | DType::U32 | DType::I32 => 4,
            DType::F64 | DType::U64 | DType::I64 | DType::C64 => 8,
        }
    }

    /// The name that safetensors gives it.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
            DType::F64 => "F64",
            DType::F8E4M3 => "F8_E4M3",
            DType::F8E5M2 => "F8_E5M2",
            DType::U8 => "U8",
            DType::I8 => "I8",
            DType::U16 => "U16",
            DType::I16 => "I16",
            DType::U32 => "U32",
            DType::I32 => "I32",
            DType::U64 => "U64",
            DType::I64 => "I64",
            DType::Bool => "BOOL",
            DType::C64 => "C64",
            DType::F8E8M0 => "F8_E8M0",
        }
    }

    /// The dtype of a safetensors name, if there is one.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// The layout of a float of at most 32 bits with a sign; `None` for every other dtype.
    pub fn float_layout(self) -> Option<FloatLayout> {
        let (exponent, mantissa) = match self {
            DType::F32 => (8, 23),
            DType::F16 => (5, 10),
            DType::Bf16 => (8, 7),
            DType::F8E4M3 => (4, 3),
            DType::F8E5M2 => (5, 2),
            _ => return None,
        };
        Some(FloatLayout { exponent, mantissa })
    }
}
