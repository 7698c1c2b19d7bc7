//! Element types of tensors.

/// The element type of a tensor (SPEC 3.5). The discriminant is the code in the file.
///
/// *Plain* dtypes are those of safetensors; each element is one weight. An element of a *block* dtype is a block of 32
/// or 256 weights that ggml quantizes together; its code is 64 + ggml's type number. *Opaque* stands for every other
/// dtype; its data is kept as bytes, under the name that the checkpoint gives the dtype.
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
    /// One byte per value, 0 or 1.
    Bool = 15,
    /// Complex number: two binary32, real and imaginary.
    C64 = 16,
    /// 8-bit float with 8 exponent bits, no sign and no mantissa (used for scales).
    F8E8M0 = 17,
    /// Block of 32 weights: 4-bit integers and a scale.
    Q4_0 = 66,
    /// Block of 32 weights: 4-bit integers, a scale and a minimum.
    Q4_1 = 67,
    /// Block of 32 weights: 5-bit integers and a scale.
    Q5_0 = 70,
    /// Block of 32 weights: 5-bit integers, a scale and a minimum.
    Q5_1 = 71,
    /// Block of 32 weights: 8-bit integers and a scale.
    Q8_0 = 72,
    /// Block of 256 weights: 2-bit integers, 16 quantized scales and minimums.
    Q2K = 74,
    /// Block of 256 weights: 3-bit integers, 16 quantized scales.
    Q3K = 75,
    /// Block of 256 weights: 4-bit integers, 8 quantized scales and minimums.
    Q4K = 76,
    /// Block of 256 weights: 5-bit integers, 8 quantized scales and minimums.
    Q5K = 77,
    /// Block of 256 weights: 6-bit integers, 16 quantized scales.
    Q6K = 78,
    /// Block of 256 weights: indices of groups of 8 weights in a grid, signs, 4-bit scales; 2.06 bits per weight.
    Iq2Xxs = 80,
    /// As IQ2_XXS, with a larger grid; 2.31 bits per weight.
    Iq2Xs = 81,
    /// Block of 256 weights: indices of groups of 4 weights in a grid, signs, 4-bit scales; 3.06 bits per weight.
    Iq3Xxs = 82,
    /// Block of 256 weights: indices of groups of 8 weights in a grid of -1, 0 and 1, 3-bit scales; 1.56 bits per weight.
    Iq1S = 83,
    /// Block of 32 weights: 4-bit indices into a table of 16 fixed values, and a scale.
    Iq4Nl = 84,
    /// As IQ3_XXS, with a larger grid; 3.44 bits per weight.
    Iq3S = 85,
    /// As IQ2_XXS, with a larger grid; 2.56 bits per weight.
    Iq2S = 86,
    /// Block of 256 weights: 4-bit indices into a table of 16 fixed values, 6-bit scales.
    Iq4Xs = 87,
    /// As IQ1_S, with more scales; 1.75 bits per weight.
    Iq1M = 93,
    /// Block of 256 weights: five digits of base 3 in a byte, and a scale.
    Tq1_0 = 98,
    /// Block of 256 weights: 2-bit integers -1, 0 and 1, and a scale.
    Tq2_0 = 99,
    /// Block of 32 weights: 4-bit floats (E2M1), and a power of two as the scale.
    Mxfp4 = 103,
    /// Any other dtype, kept as bytes.
    Opaque = 127,
}

/// The bit fields of a float: 1 sign bit, then `exponent` bits, then `mantissa` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatLayout {
    /// Width of the exponent field.
    pub exponent: u32,
    /// Width of the mantissa field, without the implicit leading bit.
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
    pub const BLOCKS: [DType; 22] = [
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
        DType::Iq2Xxs,
        DType::Iq2Xs,
        DType::Iq3Xxs,
        DType::Iq1S,
        DType::Iq4Nl,
        DType::Iq3S,
        DType::Iq2S,
        DType::Iq4Xs,
        DType::Iq1M,
        DType::Tq1_0,
        DType::Tq2_0,
        DType::Mxfp4,
    ];

    /// Returns the dtype with the given code in the file, if there is one.
    pub fn from_code(code: u8) -> Option<DType> {
        let all = Self::PLAIN.into_iter().chain(Self::BLOCKS).chain([DType::Opaque]);
        all.into_iter().find(|d| *d as u8 == code)
    }

    /// Returns whether elements are blocks of weights.
    pub fn is_block(self) -> bool {
        Self::BLOCKS.contains(&self)
    }

    /// Returns the number of weights in one element: 32 or 256 for a block dtype, otherwise 1.
    pub fn weights(self) -> usize {
        match self {
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::Iq4Nl | DType::Mxfp4 => 32,
            _ if self.is_block() => 256,
            _ => 1,
        }
    }

    /// Returns the size of one element in bytes: of a weight, or of a block; 1 for opaque.
    pub const fn size(self) -> usize {
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
            DType::Iq2Xxs => 66,
            DType::Iq2Xs => 74,
            DType::Iq3Xxs => 98,
            DType::Iq1S => 50,
            DType::Iq4Nl => 18,
            DType::Iq3S => 110,
            DType::Iq2S => 82,
            DType::Iq4Xs => 136,
            DType::Iq1M => 56,
            DType::Tq1_0 => 54,
            DType::Tq2_0 => 66,
            DType::Mxfp4 => 17,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0 | DType::U8 | DType::I8 | DType::Bool => 1,
            DType::F16 | DType::Bf16 | DType::U16 | DType::I16 => 2,
            DType::F32 | DType::U32 | DType::I32 => 4,
            DType::F64 | DType::U64 | DType::I64 | DType::C64 => 8,
        }
    }

    /// Returns the name of the dtype in safetensors or ggml. (The name of an opaque dtype is stored with its tensor.)
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
            DType::Iq2Xxs => "IQ2_XXS",
            DType::Iq2Xs => "IQ2_XS",
            DType::Iq3Xxs => "IQ3_XXS",
            DType::Iq1S => "IQ1_S",
            DType::Iq4Nl => "IQ4_NL",
            DType::Iq3S => "IQ3_S",
            DType::Iq2S => "IQ2_S",
            DType::Iq4Xs => "IQ4_XS",
            DType::Iq1M => "IQ1_M",
            DType::Tq1_0 => "TQ1_0",
            DType::Tq2_0 => "TQ2_0",
            DType::Mxfp4 => "MXFP4",
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

    /// Returns the plain dtype with the given safetensors name, if there is one.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::PLAIN.into_iter().find(|d| d.name() == name)
    }

    /// Returns the layout of a signed float of at most 32 bits; `None` for every other dtype.
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
    /// Returns the width of the value `v` of SPEC 9.2: the exponent and two mantissa bits.
    pub fn value_bits(self) -> u32 {
        self.exponent + 2
    }

    /// Returns the width of the raw field of SPEC 9.2: the other mantissa bits, with the sign on top.
    pub fn raw_bits(self) -> u32 {
        self.mantissa - 1
    }

    /// Returns the size of one float in bytes.
    pub fn size(self) -> usize {
        (1 + self.exponent + self.mantissa) as usize / 8
    }

    /// Splits the bits of a float into `(v, raw)` of SPEC 9.2.
    pub fn split(self, bits: u32) -> (u32, u32) {
        let low = self.mantissa - 2;
        let v = (bits >> low) & ((1 << self.value_bits()) - 1);
        let sign = bits >> (self.exponent + self.mantissa);
        (v, bits & ((1 << low) - 1) | sign << low)
    }

    /// Joins `(v, raw)` of SPEC 9.2 to the bits of a float; `v` is taken modulo `2^value_bits`.
    pub fn join(self, v: u32, raw: u32) -> u32 {
        let low = self.mantissa - 2;
        let sign = raw >> low;
        (raw & ((1 << low) - 1)) | (v & ((1 << self.value_bits()) - 1)) << low | sign << (self.exponent + self.mantissa)
    }

    /// Returns the number of bits of the magnitude: exponent and mantissa.
    #[inline(always)]
    pub fn magnitude_bits(self) -> u32 {
        self.exponent + self.mantissa
    }

    /// Returns the magnitude field of the bits of a float.
    #[inline(always)]
    pub fn magnitude(self, bits: u32) -> u32 {
        bits & ((1 << self.magnitude_bits()) - 1)
    }

    /// Returns the sign field of the bits of a float: 1 if negative.
    #[inline(always)]
    pub fn sign(self, bits: u32) -> u32 {
        bits >> self.magnitude_bits() & 1
    }
}
