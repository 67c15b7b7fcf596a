//! What commands print: data to stdout, talk to stderr, tables fitted to the terminal.

mod printer;
mod table;
mod text;

pub use printer::{Format, Printer, Verbosity, View};
pub use table::{Cell, Column, Table, Tone, facts};
pub use text::{ago, bytes, count, duration, elapsed_ms, printable};
