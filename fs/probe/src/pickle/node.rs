//! What a pickle describes, as a heap of nodes that refer to each other by number.

/// A node's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(pub(super) u32);

/// One object of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// None, long strings, big integers, extensions.
    Opaque,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    /// Tuples, lists and sets.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name`.
    Global(Box<str>),
    /// What a callee made of arguments. `state` was given to it later, `items` were put into it.
    Call {
        callee: Id,
        args: Id,
        state: Option<Id>,
        items: Vec<(Id, Id)>,
    },
    /// A reference to something outside the pickle.
    Persistent(Id),
}

/// All nodes of one pickle.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    pub(super) nodes: Vec<Node>,
}

impl Heap {
    pub(crate) fn get(&self, id: Id) -> &Node {
        self.nodes.get(id.0 as usize).unwrap_or(&Node::Opaque)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Text(text) | Node::Global(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn count(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Node::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(crate) fn number(&self, id: Id) -> Option<f64> {
        match self.get(id) {
            Node::Int(value) => Some(*value as f64),
            Node::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn list(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// The pairs of a dict, or of an object that is like one.
    pub(crate) fn pairs(&self, id: Id) -> &[(Id, Id)] {
        match self.get(id) {
            Node::Dict(pairs) | Node::Call { items: pairs, .. } => pairs,
            _ => &[],
        }
    }

    /// Looks a text key up; the last assignment counts.
    pub(crate) fn lookup(&self, dict: Id, key: &str) -> Option<Id> {
        self.pairs(dict).iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }

    /// The name of what made an object: its class, also where `copyreg` makes it.
    pub(crate) fn class_of<'a>(&'a self, node: &'a Node) -> Option<&'a str> {
        let Node::Call { callee, args, .. } = node else { return None };
        let name = self.text(*callee)?;
        if !name.ends_with("._reconstructor") && !name.ends_with(".__newobj__") {
            return Some(name);
        }
        self.text(*self.list(*args)?.first()?)
    }

    /// The attributes of an object.
    pub(crate) fn state_of(&self, node: &Node) -> Option<Id> {
        match node {
            Node::Call { state, .. } => *state,
            _ => None,
        }
    }
}
