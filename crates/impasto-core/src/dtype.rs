//! Element types of tensors.

/// The element type of a tensor (SPEC 3.5). The number is the code in the file.
///
/// *Plain* dtypes are those of safetensors, a weight an element. An element of a *block* dtype is a block of 32 or 256
/// weights, quantized together: the types of ggml, of code 64 + ggml's number. *Opaque* is any other, kept as bytes
/// under the name that the checkpoint gives it.
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
    /// Block: 4-bit, a scale for 32 weights.
    Q4_0 = 66,
    /// Block: 4-bit, a scale and a least value for 32 weights.
    Q4_1 = 67,
    /// Block: 5-bit, a scale for 32 weights.
    Q5_0 = 70,
    /// Block: 5-bit, a scale and a least value for 32 weights.
    Q5_1 = 71,
    /// Block: 8-bit, a scale for 32 weights.
    Q8_0 = 72,
    /// Block: 2-bit, 16 scaled scales and least values for 256 weights.
    Q2K = 74,
    /// Block: 3-bit, 16 scaled scales for 256 weights.
    Q3K = 75,
    /// Block: 4-bit, 8 scaled scales and least values for 256 weights.
    Q4K = 76,
    /// Block: 5-bit, 8 scaled scales and least values for 256 weights.
    Q5K = 77,
    /// Block: 6-bit, 16 scaled scales for 256 weights.
    Q6K = 78,
    /// Block: 4-bit index into 16 fixed values, a scale for 32 weights.
    Iq4Nl = 84,
    /// Any other: bytes under a name.
    Opaque = 127,
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
    /// The plain dtypes, in the order of their codes.
    pub const PLAIN: [DType; 17] = [
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

    /// The block dtypes, in the order of their codes.
    pub const BLOCKS: [DType; 11] = [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Iq4Nl,
    ];

    /// The dtype of a code in the file, if there is one.
    pub fn from_code(code: u8) -> Option<DType> {
        let all = Self::PLAIN.into_iter().chain(Self::BLOCKS).chain([DType::Opaque]);
        all.into_iter().find(|d| *d as u8 == code)
    }

    /// Weights in one element: 1, or those of a block.
    pub fn weights(self) -> usize {
        match self {
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::Iq4Nl => 32,
            DType::Q2K | DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K => 256,
            _ => 1,
        }
    }

    /// Bytes of one element: a weight, or a block of weights; 1 for opaque.
    pub fn size(self) -> usize {
        match self {
            DType::Opaque => 1,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
            DType::Iq4Nl => 18,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0 | DType::U8 | DType::I8 | DType::Bool => 1,
            DType::F16 | DType::Bf16 | DType::U16 | DType::I16 => 2,
            DType::F32 | DType::U32 | DType::I32 => 4,
            DType::F64 | DType::U64 | DType::I64 | DType::C64 => 8,
        }
    }

    /// The name that safetensors or ggml gives it. (An opaque tensor has a name of its own.)
    pub fn name(self) -> &'static str {
        match self {
            DType::Opaque => "opaque",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q2K => "Q2_K",
            DType::Q3K => "Q3_K",
            DType::Q4K => "Q4_K",
            DType::Q5K => "Q5_K",
            DType::Q6K => "Q6_K",
            DType::Iq4Nl => "IQ4_NL",

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

    /// The plain dtype of a safetensors name, if there is one.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::PLAIN.into_iter().find(|d| d.name() == name)
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

impl FloatLayout {
    /// Width of the value `v` of SPEC 9: the exponent and two mantissa bits.
    pub fn value_bits(self) -> u32 {
        self.exponent + 2
    }

    /// Width of the raw field of SPEC 9: the other mantissa bits, then the sign on top.
    pub fn raw_bits(self) -> u32 {
        self.mantissa - 1
    }

    /// Bytes of one float.
    pub fn size(self) -> usize {
        (1 + self.exponent + self.mantissa) as usize / 8
    }

    /// `(v, raw)` of the bits of a float.
    pub fn split(self, bits: u32) -> (u32, u32) {
        let low = self.mantissa - 2;
        let v = (bits >> low) & ((1 << self.value_bits()) - 1);
        let sign = bits >> (self.exponent + self.mantissa);
        (v, bits & ((1 << low) - 1) | sign << low)
    }

    /// The bits of the float of `(v, raw)`; `v` is taken modulo its width.
    pub fn join(self, v: u32, raw: u32) -> u32 {
        let low = self.mantissa - 2;
        let sign = raw >> low;
        (raw & ((1 << low) - 1)) | (v & ((1 << self.value_bits()) - 1)) << low | sign << (self.exponent + self.mantissa)
    }

    /// Bits of the magnitude: exponent and mantissa.
    #[inline(always)]
    pub fn magnitude_bits(self) -> u32 {
        self.exponent + self.mantissa
    }

    /// The magnitude in the bits of a float.
    #[inline(always)]
    pub fn magnitude(self, bits: u32) -> u32 {
        bits & ((1 << self.magnitude_bits()) - 1)
    }

    /// The sign in the bits of a float: 1 below 0.
    #[inline(always)]
    pub fn sign(self, bits: u32) -> u32 {
        bits >> self.magnitude_bits() & 1
    }
}
