//! Names and contents of files, made harmless: whatever a file holds, the terminal gets printable characters.

use crate::output::printable;

/// The columns between two tab stops.
const TAB: usize = 4;

/// Returns a name: control characters and bytes that are no UTF-8 are escaped.
pub(crate) fn shown_name(name: &[u8]) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        shown.push_str(&printable(chunk.valid()));
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Returns one line of a text: tabs are spaces, other control characters are escaped.
pub(crate) fn shown_line(line: &str) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    if !line.contains('\t') {
        return printable(line).into_owned();
    }
    let mut shown = String::with_capacity(line.len() + 16);
    let mut column = 0;
    for part in line.split_inclusive('\t') {
        let text = printable(part.trim_end_matches('\t'));
        column += text.chars().count();
        shown.push_str(&text);
        if part.ends_with('\t') {
            let blanks = TAB - column % TAB;
            shown.extend(std::iter::repeat_n(' ', blanks));
            column += blanks;
        }
    }
    shown
}

/// Returns the bytes as text, unless they are something else. A character that was cut off at the end is left out.
pub(crate) fn as_text(bytes: &[u8], is_cut: bool) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

/// Returns one row of a hexadecimal dump of `bytes`, `width` bytes a row.
pub(crate) fn hex_row(bytes: &[u8], row: usize, width: usize) -> String {
    let start = row.saturating_mul(width);
    let part = bytes.get(start..bytes.len().min(start.saturating_add(width))).unwrap_or_default();
    let mut shown = format!("{start:06x} ");
    for index in 0..width {
        match part.get(index) {
            Some(byte) => shown.push_str(&format!(" {byte:02x}")),
            None => shown.push_str("   "),
        }
    }
    shown.push_str("  ");
    shown.extend(
        part.iter().map(
            |byte| {
                if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
            },
        ),
    );
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal_and_are_told_apart() {
        assert_eq!(shown_name(b"a\x1b]0;x\x07\xff\xfe.txt"), "a\\u{1b}]0;x\\u{7}\\xff\\xfe.txt");
        assert_eq!(shown_name("é 你".as_bytes()), "é 你");
    }

    #[test]
    fn lines_have_no_tabs_and_no_control_characters() {
        assert_eq!(shown_line("a\tb\x1b[2J\r\n"), "a   b\\u{1b}[2J");
        assert_eq!(shown_line("\t\tx"), "        x");
    }

    #[test]
    fn text_is_told_from_other_bytes() {
        assert_eq!(as_text("aé".as_bytes(), false), Some("aé"));
        assert_eq!(as_text(b"a\xc3", true), Some("a"));
        assert_eq!(as_text(b"a\xc3", false), None);
        assert_eq!(as_text(b"a\0b", true), None);
        assert_eq!(as_text(b"\xff\xfea", true), None);
    }

    #[test]
    fn a_dump_has_the_place_the_bytes_and_their_characters() {
        assert_eq!(hex_row(b"abc\x00defghi", 0, 8), "000000  61 62 63 00 64 65 66 67  abc.defg");
        assert_eq!(hex_row(b"abc\x00defghi", 1, 8), "000008  68 69                    hi");
        assert_eq!(hex_row(b"", 9, 8), "000048                           ");
    }
}
