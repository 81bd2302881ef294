//! The secret that all hosts share: 32 random bytes, written in base64 or hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use blake2::{Blake2s256, Digest as _};

const LENGTH: usize = 32;

/// A shared secret. It is never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; LENGTH]);

/// Why a text is no secret. The text itself is not repeated: it may be one nearly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing was written.
    #[error("secret: empty; write what `kube-vip secret` prints, the same on all hosts")]
    Empty,
    /// A character that belongs to neither notation.
    #[error(
        "secret: {character:?} at place {place} is neither base64 nor a hexadecimal digit; \
         write what `kube-vip secret` prints"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Where it is, counted from 1.
        place: usize,
    },
    /// It is not 32 bytes long.
    #[error(
        "secret: {characters} characters are not 32 bytes (43 or 44 characters of base64, or 64 \
         hexadecimal digits); write what `kube-vip secret` prints, not a password"
    )]
    Length {
        /// How many characters there were.
        characters: usize,
    },
    /// All bytes are the same.
    #[error("secret: all of its bytes are the same; write what `kube-vip secret` prints")]
    Trivial,
}

impl Secret {
    /// A new one, from the kernel's random numbers.
    ///
    /// # Errors
    ///
    /// The kernel gave none.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Base64, as users write it down.
    pub fn text(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// A number that all hosts with this secret come to, and from which nobody comes to the secret.
    pub fn number(&self, purpose: &str) -> u64 {
        let digest = Blake2s256::new().chain_update(purpose).chain_update(self.0).finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(super) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "+/-_=".contains(c);
        if let Some((at, character)) = text.chars().enumerate().find(|(_, c)| !known(*c)) {
            return Err(SecretError::Character { character, place: at + 1 });
        }
        let bytes = if text.len() == 2 * LENGTH { hexadecimal(text) } else { base64(text) };
        let bytes = bytes.and_then(|bytes| <[u8; LENGTH]>::try_from(bytes).ok());
        let Some(bytes) = bytes else {
            return Err(SecretError::Length { characters: text.len() });
        };
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(SecretError::Trivial);
        }
        Ok(Self(bytes))
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(&pair[0])? * 16 + digit(&pair[1])?) as u8);
    text.as_bytes().chunks_exact(2).map(pair).collect()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    STANDARD_NO_PAD.decode(bare).or_else(|_| URL_SAFE_NO_PAD.decode(bare)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_survives_being_written() {
        let secret = Secret::random().unwrap();
        assert_eq!(secret.text().parse(), Ok(secret.clone()));
        assert_eq!(
            format!(" {}\n", secret.text().trim_end_matches('=')).parse(),
            Ok(secret.clone())
        );
        let hex: String = secret.bytes().iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(hex.parse(), Ok(secret.clone()));
        let url = secret.text().replace('+', "-").replace('/', "_");
        assert_eq!(url.parse(), Ok(secret.clone()));
        assert_ne!(Secret::random().unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn refusal_says_what_is_wrong_and_not_what_was_written() {
        let cases = [
            ("  ", "secret: empty; "),
            ("correct horse", "secret: ' ' at place 8 is neither"),
            ("swordfish", "secret: 9 characters are not 32 bytes"),
            (&"ab".repeat(31), "secret: 62 characters"),
            (&"zz".repeat(32), "secret: 64 characters"),
            (&"00".repeat(32), "secret: all of its bytes are the same"),
        ];
        for (text, begins) in cases {
            let error = text.parse::<Secret>().unwrap_err().to_string();
            assert!(error.starts_with(begins), "{error}");
            assert!(text.trim().is_empty() || !error.contains(text), "{error}");
        }
    }
}
