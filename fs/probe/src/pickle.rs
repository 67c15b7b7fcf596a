//! A pickle machine that executes nothing.
//!
//! It follows every opcode and keeps what is built as opaque nodes: a call is a node with a callee and arguments,
//! never a call. Bounded: nodes, memo and stack by [`Limits::objects`](crate::Limits), bytes by the budget of the
//! window; strings above [`MAX_TEXT`] are skipped, not read. Nothing recurses along the data.

mod machine;
mod node;

pub(crate) use machine::{Walk, follow_frames, walk};
pub(crate) use node::{Heap, Id, Node};

/// Longer strings and byte strings are not kept.
const MAX_TEXT: u64 = 4096;
