//! FIFOs, sockets and device nodes.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    thread,
};

use rustix::fs::{CWD, FileType, Mode, makedev, mkfifoat, mknodat};

use super::ground::{Ground, on_every_filesystem};

fn fifo_carries_data(ground: &Ground) {
    let path = ground.mounted.join("fifo");
    mkfifoat(CWD, &path, Mode::from_raw_mode(0o640)).unwrap();
    assert!(fs::symlink_metadata(ground.backing.join("fifo")).unwrap().file_type().is_fifo());
    let writer = {
        let path = path.clone();
        thread::spawn(move || {
            fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"through the pipe").unwrap();
        })
    };
    let mut text = String::new();
    fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    writer.join().unwrap();
    assert_eq!(text, "through the pipe");
    assert_eq!(fs::symlink_metadata(&path).unwrap().len(), 0);
    fs::remove_file(&path).unwrap();
}

fn unix_socket_accepts_connections(ground: &Ground) {
    let path = ground.mounted.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    assert!(fs::symlink_metadata(ground.backing.join("s")).unwrap().file_type().is_socket());
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"hello").unwrap();
    });
    let mut text = String::new();
    UnixStream::connect(&path).unwrap().read_to_string(&mut text).unwrap();
    server.join().unwrap();
    assert_eq!(text, "hello");
    let refused = UnixStream::connect(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    let taken = UnixListener::bind(&path).unwrap_err();
    assert_eq!(taken.raw_os_error(), Some(libc::EADDRINUSE));
    fs::remove_file(&path).unwrap();
}

/// In `preserve`. The mount is `nodev`, so the nodes exist but open nothing.
fn device_nodes_are_kept_but_not_opened(ground: &Ground) {
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, ground.mounted.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    mknodat(CWD, ground.mounted.join("disk"), FileType::BlockDevice, mode, makedev(7, 250)).unwrap();
    for view in [&ground.mounted, &ground.backing] {
        let null = fs::symlink_metadata(view.join("null")).unwrap();
        assert!(null.file_type().is_char_device());
        assert_eq!(null.rdev(), makedev(1, 3));
        assert_eq!(null.permissions().mode() & 0o444, 0o444);
        let disk = fs::symlink_metadata(view.join("disk")).unwrap();
        assert!(disk.file_type().is_block_device());
        assert_eq!(disk.rdev(), makedev(7, 250));
    }
    if !ground.is_native() {
        let error = fs::File::open(ground.mounted.join("null")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
    let refused = harness::as_user(4009, 4009, &[], || {
        mknodat(CWD, ground.mounted.join("zero"), FileType::CharacterDevice, mode, makedev(1, 5)).unwrap_err()
    });
    assert_eq!(refused, rustix::io::Errno::PERM);
}

on_every_filesystem!(
    fifo_carries_data,
    unix_socket_accepts_connections,
    device_nodes_are_kept_but_not_opened
);
