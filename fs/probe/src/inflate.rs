//! Inflating a bounded amount.

use std::io::Read;

use flate2::read::{DeflateDecoder, ZlibDecoder};

/// Returns up to `limit` bytes of a raw deflate stream, or `None` when it is damaged.
pub(crate) fn head(compressed: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    match DeflateDecoder::new(compressed).take(limit as u64).read_to_end(&mut plain) {
        Ok(_) => Some(plain),
        // What was inflated before the input ended is what was asked for.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !plain.is_empty() => Some(plain),
        Err(_) => None,
    }
}

/// Opens a raw deflate stream for reading to its end.
pub(crate) fn deflate<'a>(source: impl Read + 'a) -> Box<dyn Read + 'a> {
    Box::new(DeflateDecoder::new(source))
}

/// Opens a zlib stream for reading to its end, where its checksum is compared.
pub(crate) fn zlib<'a>(source: impl Read + 'a) -> Box<dyn Read + 'a> {
    Box::new(ZlibDecoder::new(source))
}
