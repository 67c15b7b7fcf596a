//! A server that gives every connection the same answer, for the tests of this crate.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// Returns the text of an HTTP answer.
pub(crate) fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// Answers on a new socket until the process ends, and hands on what was asked.
pub(crate) fn answer_always(socket: &Path, answer: String) -> Receiver<String> {
    let listener = UnixListener::bind(socket).unwrap();
    let (asked, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            if length > 0 {
                // The asker or the test may be gone already; what they saw is what the test checks.
                stream.write_all(answer.as_bytes()).ok();
                asked.send(String::from_utf8_lossy(&request[..length]).into_owned()).ok();
            }
        }
    });
    requests
}
