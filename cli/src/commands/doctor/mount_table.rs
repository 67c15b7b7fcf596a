use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The type that the mount table shows for our mounts.
pub(super) const GUARD_TYPE: &str = "fuse.wsguard";

/// One line of proc_pid_mountinfo(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// `major:minor`; the same for every bind of one filesystem.
    pub(super) device: String,
    pub(super) mount_point: PathBuf,
    pub(super) filesystem: String,
    pub(super) source: String,
}

/// Reads the table; lines that are not in its format are left out.
pub(super) fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(&unescaped(field)).into_owned();
    let device = text(fields.nth(2)?);
    let mount_point = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
    let mut after_separator = fields.skip_while(|field| *field != b"-").skip(1);
    let filesystem = text(after_separator.next()?);
    let source = text(after_separator.next()?);
    Some(MountEntry { device, mount_point, filesystem, source })
}

/// Undoes the kernel's `\ooo` for blanks, line ends and backslashes.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let ([b'\\', a, b, c, after @ ..], true) = (rest, *first == b'\\')
            && let Some(byte) = octal([*a, *b, *c])
        {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let text = std::str::from_utf8(&digits).ok()?;
    u8::from_str_radix(text, 8).ok()
}

/// Returns the mount that a path without symbolic links is on.
pub(super) fn mount_of<'a>(path: &Path, mounts: &'a [MountEntry]) -> Option<&'a MountEntry> {
    // The last of equals: a later mount lies over an earlier one.
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.as_os_str().as_bytes().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw\n\
27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
broken line\n\
90 27 0:77 / /home/a/my\\040project rw,nosuid master:2 - fuse.wsguard wsguard rw,user_id=0\n\
91 27 0:78 / /home/a/my\\040project rw - tmpfs none rw\n";

    #[test]
    fn optional_fields_and_escapes_are_understood() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[2].mount_point, Path::new("/home/a/my project"));
        assert_eq!((mounts[2].device.as_str(), mounts[2].filesystem.as_str()), ("0:77", GUARD_TYPE));
    }

    #[test]
    fn a_path_is_on_the_deepest_and_last_mount() {
        let mounts = parse(TABLE);
        assert_eq!(mount_of(Path::new("/home/a/my project/x"), &mounts).unwrap().filesystem, "tmpfs");
        assert_eq!(mount_of(Path::new("/home/a/my"), &mounts).unwrap().filesystem, "ext4");
    }
}
