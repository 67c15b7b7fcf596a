//! The opcodes of protocols 0 to 5.

use std::collections::HashMap;

use super::MAX_TEXT;
use super::node::{Heap, Id, Node};
use crate::evidence::Evidence;
use crate::window::{Check, Cursor, Flaw, Limits};

/// A pickle that was followed to its end.
pub(crate) struct Walk {
    pub(crate) heap: Heap,
    /// What the pickle describes.
    pub(crate) root: Id,
}

/// joblib writes arrays between opcodes; an array of objects is a pickle in a pickle.
const MAX_NESTING: u32 = 8;

/// Follows one pickle to its end; the cursor stands behind it.
pub(crate) fn walk(cursor: &mut Cursor<'_>, limits: Limits) -> Check<Walk> {
    nested(cursor, limits, 0)
}

fn nested(cursor: &mut Cursor<'_>, limits: Limits, depth: u32) -> Check<Walk> {
    let mut machine = Machine {
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        sparse: HashMap::new(),
        memoized: 0,
        limit: limits.objects,
        built_wrapper: false,
        global_bytes: 0,
    };
    loop {
        if let Some(root) = machine.step(cursor)? {
            return Ok(Walk { heap: machine.heap, root });
        }
        if let Some(array) = machine.array_that_follows() {
            match array {
                Array::Raw { is_aligned, bytes } => {
                    if is_aligned {
                        let padding = cursor.u8()?;
                        cursor.skip(u64::from(padding))?;
                    }
                    cursor.skip(bytes)?;
                }
                Array::Objects if depth < MAX_NESTING => {
                    nested(cursor, limits, depth + 1)?;
                }
                Array::Objects => return Err(unsupported("arrays of objects nested too deeply")),
            }
        }
    }
}

/// Follows only the frames of a pickle of protocol 4 or newer, without looking into them. Returns how many.
pub(crate) fn follow_frames(cursor: &mut Cursor<'_>) -> Check<u64> {
    let mut frames = 0;
    cursor.skip(2)?;
    while cursor.left() > 0 {
        match cursor.u8()? {
            0x95 => {
                let length = cursor.u64()?;
                cursor.skip(length)?;
                frames += 1;
            }
            // What is too large for a frame lies between frames.
            0x8d | 0x8e | 0x96 => {
                let length = cursor.u64()?;
                cursor.skip(length)?;
            }
            b'B' | b'X' => {
                let length = cursor.u32()?;
                cursor.skip(u64::from(length))?;
            }
            opcode => return Err(unsupported(&format!("opcode {opcode:#04x} between pickle frames"))),
        }
    }
    Ok(frames)
}

fn unsupported(what: &str) -> Flaw {
    Flaw::unsure(Evidence::Unsupported { what: what.to_owned() })
}

enum Array {
    Raw { is_aligned: bool, bytes: u64 },
    Objects,
}

struct Machine {
    heap: Heap,
    stack: Vec<Id>,
    marks: Vec<usize>,
    /// What was kept, by number. Writers count from 0; numbers beyond the limit are kept apart.
    memo: Vec<Option<Id>>,
    sparse: HashMap<u64, Id>,
    memoized: u64,
    limit: usize,
    built_wrapper: bool,
    /// Length of all global names together.
    global_bytes: usize,
}

impl Machine {
    fn make(&mut self, node: Node) -> Check<Id> {
        let id = u32::try_from(self.heap.nodes.len()).ok().filter(|_| self.heap.nodes.len() < self.limit);
        let id = Id(id.ok_or_else(|| self.too_large())?);
        self.heap.nodes.push(node);
        Ok(id)
    }

    fn too_large(&self) -> Flaw {
        Flaw::unsure(Evidence::LimitReached { limit: self.limit as u64 })
    }

    fn push(&mut self, id: Id) -> Check<()> {
        if self.stack.len() >= self.limit {
            return Err(self.too_large());
        }
        self.stack.push(id);
        Ok(())
    }

    fn push_new(&mut self, node: Node) -> Check<()> {
        let id = self.make(node)?;
        self.push(id)
    }

    fn pop(&mut self) -> Check<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| Flaw::broken("a pickle takes from an empty stack"))
    }

    fn top(&self) -> Check<Id> {
        self.stack.last().copied().ok_or_else(|| Flaw::broken("a pickle looks at an empty stack"))
    }

    /// Takes everything above the last mark.
    fn pop_mark(&mut self) -> Check<Vec<Id>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or_else(|| Flaw::broken("a pickle has no mark"))?))
    }

    fn memoize(&mut self, key: u64) -> Check<()> {
        let top = self.top()?;
        if self.sparse.len() >= self.limit {
            return Err(self.too_large());
        }
        self.memoized += 1;
        match usize::try_from(key) {
            Ok(key) if key < self.limit => {
                if self.memo.len() <= key {
                    self.memo.resize(key + 1, None);
                }
                if let Some(place) = self.memo.get_mut(key) {
                    *place = Some(top);
                }
            }
            _ => {
                self.sparse.insert(key, top);
            }
        }
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Check<()> {
        let dense = usize::try_from(key).ok().and_then(|key| self.memo.get(key).copied().flatten());
        let known = dense.or_else(|| self.sparse.get(&key).copied());
        self.push(known.ok_or_else(|| Flaw::broken(format!("a pickle recalls {key}, which it never kept")))?)
    }

    fn call(&mut self, callee: Id, args: Id) -> Check<()> {
        self.push_new(Node::Call { callee, args, state: None, items: Vec::new() })
    }

    fn global(&mut self, module: &str, name: &str) -> Check<()> {
        // Two long strings that are recalled again and again would make a small pickle large.
        let length = module.len().saturating_add(name.len());
        self.global_bytes = self.global_bytes.saturating_add(length);
        if self.global_bytes > self.limit.saturating_mul(16) {
            return Err(self.too_large());
        }
        self.push_new(Node::Global(format!("{module}.{name}").into_boxed_str()))
    }

    fn extend(&mut self, values: Vec<Id>) -> Check<()> {
        let target = self.top()?;
        if let Some(Node::List(items)) = self.heap.nodes.get_mut(target.0 as usize) {
            items.extend(values);
        }
        Ok(())
    }

    fn assign(&mut self, values: &[Id]) -> Check<()> {
        let target = self.top()?;
        if !values.len().is_multiple_of(2) {
            return Err(Flaw::broken("a pickle has a key without a value"));
        }
        let target = self.heap.nodes.get_mut(target.0 as usize);
        if let Some(Node::Dict(pairs) | Node::Call { items: pairs, .. }) = target {
            pairs.extend(values.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))));
        }
        Ok(())
    }

    fn text(&mut self, cursor: &mut Cursor<'_>, length: u64) -> Check<()> {
        if length > MAX_TEXT {
            cursor.skip(length)?;
            return self.push_new(Node::Opaque);
        }
        let text = String::from_utf8_lossy(cursor.bytes(length)?).into_owned();
        self.push_new(Node::Text(text.into_boxed_str()))
    }

    fn blob(&mut self, cursor: &mut Cursor<'_>, length: u64) -> Check<()> {
        cursor.skip(length)?;
        self.push_new(Node::Opaque)
    }

    fn long(&mut self, cursor: &mut Cursor<'_>, length: u64) -> Check<()> {
        if length > 8 {
            return self.blob(cursor, length);
        }
        let bytes = cursor.bytes(length)?;
        let is_negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let start = if is_negative { -1_i64 } else { 0 };
        let value = bytes.iter().rev().fold(start, |value, byte| (value << 8) | i64::from(*byte));
        self.push_new(Node::Int(value))
    }

    /// Executes nothing: follows one opcode. Returns the object that the pickle describes at its end.
    #[expect(clippy::too_many_lines, reason = "one arm an opcode reads better than a table of functions")]
    fn step(&mut self, cursor: &mut Cursor<'_>) -> Check<Option<Id>> {
        let opcode = cursor.u8()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => {
                let version = cursor.u8()?;
                if version > 5 {
                    return Err(unsupported(&format!("pickle protocol {version}")));
                }
            }
            0x95 => {
                // The frame is read opcode by opcode; only its end must exist.
                let length = cursor.u64()?;
                if length > cursor.left() {
                    let (at, expected) = (cursor.at(), cursor.at().saturating_add(length));
                    return Err(Flaw::torn(Evidence::EndsEarly { size: at + cursor.left(), expected }));
                }
            }
            b'(' => {
                if self.marks.len() >= self.limit {
                    return Err(self.too_large());
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => self.push(self.top()?)?,
            b'N' => self.push_new(Node::Opaque)?,
            0x88 => self.push_new(Node::Bool(true))?,
            0x89 => self.push_new(Node::Bool(false))?,
            b'K' => {
                let value = cursor.u8()?;
                self.push_new(Node::Int(i64::from(value)))?;
            }
            b'M' => {
                let value = cursor.u16()?;
                self.push_new(Node::Int(i64::from(value)))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(cursor.array()?);
                self.push_new(Node::Int(i64::from(value)))?;
            }
            0x8a => {
                let length = cursor.u8()?;
                self.long(cursor, u64::from(length))?;
            }
            0x8b => {
                let length = cursor.u32()?;
                self.long(cursor, u64::from(length))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(cursor.array()?);
                self.push_new(Node::Float(value))?;
            }
            b'I' | b'L' | b'F' => {
                let text = line(cursor)?;
                let node = match (opcode, text.as_str()) {
                    (b'I', "00") => Node::Bool(false),
                    (b'I', "01") => Node::Bool(true),
                    (b'F', text) => text.parse().map_or(Node::Opaque, Node::Float),
                    (_, text) => text.trim_end_matches('L').parse().map_or(Node::Opaque, Node::Int),
                };
                self.push_new(node)?;
            }
            b'S' | b'V' => {
                let text = line(cursor)?;
                self.push_new(Node::Text(text.trim_matches(['\'', '"']).into()))?;
            }
            b'U' | 0x8c => {
                let length = cursor.u8()?;
                self.text(cursor, u64::from(length))?;
            }
            b'X' | b'T' => {
                let length = cursor.u32()?;
                self.text(cursor, u64::from(length))?;
            }
            0x8d => {
                let length = cursor.u64()?;
                self.text(cursor, length)?;
            }
            b'C' => {
                let length = cursor.u8()?;
                self.blob(cursor, u64::from(length))?;
            }
            b'B' => {
                let length = cursor.u32()?;
                self.blob(cursor, u64::from(length))?;
            }
            0x8e | 0x96 => {
                let length = cursor.u64()?;
                self.blob(cursor, length)?;
            }
            0x97 => return Err(unsupported("a pickle with buffers outside of it")),
            0x98 => {}
            b']' | b')' | 0x8f => self.push_new(Node::List(Vec::new()))?,
            b'}' => self.push_new(Node::Dict(Vec::new()))?,
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_new(Node::List(items))?;
            }
            0x85..=0x87 => {
                let mut items = Vec::with_capacity(3);
                for _ in 0x84..opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push_new(Node::List(items))?;
            }
            b'd' => {
                let values = self.pop_mark()?;
                self.push_new(Node::Dict(Vec::new()))?;
                self.assign(&values)?;
            }
            b'a' => {
                let value = self.pop()?;
                self.extend(vec![value])?;
            }
            b'e' | 0x90 => {
                let values = self.pop_mark()?;
                self.extend(values)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.assign(&[key, value])?;
            }
            b'u' => {
                let values = self.pop_mark()?;
                self.assign(&values)?;
            }
            b'c' => {
                let (module, name) = (line(cursor)?, line(cursor)?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let module = self.heap.text(module).unwrap_or("?").to_owned();
                let name = self.heap.text(name).unwrap_or("?").to_owned();
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.call(callee, args)?;
            }
            0x92 => {
                let (_keywords, args, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, args)?;
            }
            b'i' => {
                let (module, name) = (line(cursor)?, line(cursor)?);
                let values = self.pop_mark()?;
                let args = self.make(Node::List(values))?;
                self.global(&module, &name)?;
                let callee = self.pop()?;
                self.call(callee, args)?;
            }
            b'o' => {
                let mut values = self.pop_mark()?;
                if values.is_empty() {
                    return Err(Flaw::broken("a pickle makes an object of nothing"));
                }
                let callee = values.remove(0);
                let args = self.make(Node::List(values))?;
                self.call(callee, args)?;
            }
            b'b' => {
                let value = self.pop()?;
                let target = self.top()?;
                if let Some(Node::Call { state, .. }) = self.heap.nodes.get_mut(target.0 as usize) {
                    *state = Some(value);
                }
            }
            b'P' => {
                let text = line(cursor)?;
                let id = self.make(Node::Text(text.into()))?;
                self.push_new(Node::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push_new(Node::Persistent(id))?;
            }
            b'g' => {
                let key = line_number(cursor)?;
                self.recall(key)?;
            }
            b'h' => {
                let key = cursor.u8()?;
                self.recall(u64::from(key))?;
            }
            b'j' => {
                let key = cursor.u32()?;
                self.recall(u64::from(key))?;
            }
            b'p' => {
                let key = line_number(cursor)?;
                self.memoize(key)?;
            }
            b'q' => {
                let key = cursor.u8()?;
                self.memoize(u64::from(key))?;
            }
            b'r' => {
                let key = cursor.u32()?;
                self.memoize(u64::from(key))?;
            }
            0x94 => self.memoize(self.memoized)?,
            0x82..=0x84 => {
                cursor.skip(1 << (opcode - 0x82))?;
                self.push_new(Node::Opaque)?;
            }
            _ => {
                return Err(Flaw::broken(format!(
                    "unknown pickle opcode {opcode:#04x} at {}",
                    cursor.at() - 1
                )));
            }
        }
        // Only a finished wrapper of joblib is followed by an array.
        self.built_wrapper = opcode == b'b';
        Ok(None)
    }

    /// Whether the object that was just finished stands for an array of joblib whose bytes come next.
    fn array_that_follows(&self) -> Option<Array> {
        if !self.built_wrapper {
            return None;
        }
        let node = self.heap.get(*self.stack.last()?);
        if self.heap.class_of(node)? != "joblib.numpy_pickle.NumpyArrayWrapper" {
            return None;
        }
        let state = self.heap.state_of(node)?;
        let is_aligned = match self.heap.lookup(state, "numpy_array_alignment_bytes") {
            Some(value) => self.heap.count(value).is_some(),
            None => false,
        };
        let Node::Call { args, .. } = self.heap.get(self.heap.lookup(state, "dtype")?) else { return None };
        let code = self.heap.text(*self.heap.list(*args)?.first()?)?;
        if code.starts_with('O') {
            return Some(Array::Objects);
        }
        let item: u64 = code.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
        let item = if code.starts_with('U') { item.checked_mul(4)? } else { item };
        let shape = self.heap.list(self.heap.lookup(state, "shape")?)?;
        let bytes =
            shape.iter().try_fold(item, |product, &length| product.checked_mul(self.heap.count(length)?))?;
        Some(Array::Raw { is_aligned, bytes })
    }
}

fn line(cursor: &mut Cursor<'_>) -> Check<String> {
    let mut bytes = Vec::new();
    loop {
        match cursor.u8()? {
            b'\n' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            _ if bytes.len() as u64 >= MAX_TEXT => return Err(unsupported("a pickle with a very long line")),
            byte => bytes.push(byte),
        }
    }
}

fn line_number(cursor: &mut Cursor<'_>) -> Check<u64> {
    line(cursor)?.trim().parse().map_err(|_| Flaw::broken("a pickle keeps something under no number"))
}
