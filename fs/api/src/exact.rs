//! Bytes in JSON: text where they are UTF-8, `{"hex": "…"}` where they are not, so that every name of a file can be
//! told and asked for.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A name, a path, a part of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExactBytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire<'a> {
    Text(Cow<'a, str>),
    Hex { hex: String },
}

impl ExactBytes {
    /// Returns them as a name or path.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl From<OsString> for ExactBytes {
    fn from(name: OsString) -> Self {
        Self(name.into_vec())
    }
}

impl Serialize for ExactBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for ExactBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer).map(Self)
    }
}

fn write<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => Wire::Hex { hex: hex_of(bytes) }.serialize(serializer),
    }
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Wire::deserialize(deserializer)? {
        Wire::Text(text) => Ok(text.into_owned().into_bytes()),
        Wire::Hex { hex } => {
            bytes_of(&hex).ok_or_else(|| de::Error::custom(format!("{hex:?} is not hexadecimal")))
        }
    }
}

fn hex_of(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).collect()
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
        _ => None,
    };
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// A path as a field: `#[serde(with = "exact::path")]`.
pub(crate) mod path {
    use std::path::{Path, PathBuf};

    use super::{Deserializer, OsStrExt, OsString, OsStringExt, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        super::write(path.as_os_str().as_bytes(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        super::read(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

/// A list of paths as a field: `#[serde(with = "exact::paths")]`.
pub(crate) mod paths {
    use std::path::PathBuf;

    use super::{Deserialize, Deserializer, ExactBytes, OsStrExt, OsString, OsStringExt, Serializer};

    pub(crate) fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| ExactBytes(path.as_os_str().as_bytes().to_vec())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let paths = Vec::<ExactBytes>::deserialize(deserializer)?;
        Ok(paths.into_iter().map(|path| OsString::from_vec(path.0).into()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_as_it_is_written_and_nothing_else_is() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes_of(&hex_of(&all)), Some(all));
        assert_eq!(hex_of(b"\xff\x0a"), "ff0a");
        for wrong in ["f", "fg", "+f", "é"] {
            assert_eq!(bytes_of(wrong), None, "{wrong}");
        }
    }
}
