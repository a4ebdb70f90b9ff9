//! SHA-256 and hexadecimal, the two encodings that several rooms share.

use aws_lc_rs::digest;

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// A number's last `N` hexadecimal digits in lower case, sixteen at most, with zeros in front:
/// what every request's record needs several times, without the formatter's machinery.
#[derive(Clone, Copy, Debug)]
pub struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    pub fn of(number: u64) -> Self {
        let mut all = [0; 16];
        all[..8].copy_from_slice(&eight_digits((number >> 32) as u32));
        all[8..].copy_from_slice(&eight_digits(number as u32));
        let mut digits = [b'0'; N];
        for (digit, known) in digits.iter_mut().rev().zip(all.into_iter().rev()) {
            *digit = known;
        }
        Self(digits)
    }

    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// All of them at once: a byte a digit, then the distance from a digit to its character.
fn eight_digits(number: u32) -> [u8; 8] {
    let mut digits = u64::from(number);
    digits = (digits << 16 | digits) & 0x0000_ffff_0000_ffff;
    digits = (digits << 8 | digits) & 0x00ff_00ff_00ff_00ff;
    digits = (digits << 4 | digits) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (digits + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (digits + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// Reads 32 bytes written as 64 hexadecimal digits, in either case.
pub fn unhex32(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut out = [0; 32];
    for (slot, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *slot = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_the_formatter_would() {
        for number in [0, 1, 0xabc, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(Hex::<16>::of(number).as_str(), format!("{number:016x}"));
        }
        assert_eq!(Hex::<8>::of(0x1_0000_00ab).as_str(), "000000ab");
        assert_eq!(Hex::<1>::of(0xfe).as_str(), "e");
    }

    #[test]
    fn hex_round_trips() {
        let digest = sha256(b"abc");
        assert_eq!(unhex32(&hex(&digest)), Some(digest));
        assert_eq!(unhex32(&hex(&digest).to_uppercase()), Some(digest));
        assert_eq!(unhex32("ba78"), None);
        assert_eq!(unhex32(&"g".repeat(64)), None);
    }
}
