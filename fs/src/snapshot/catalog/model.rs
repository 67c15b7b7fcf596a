//! A workspace in memory that remembers all it ever was, and notes entries as a preserver does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::snapshot::record::{
    Actor, Attributes, Cause, Change, Entry, Named, ObjectId, Origin, SnapshotNote, SnapshotReason, Span,
};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

pub(super) const ROOT: u64 = 1;
const LONGEST_FILE: usize = 12;

pub(super) fn handle(inode: u64) -> FileHandle {
    FileHandle::from_words(1, 8, [inode, 0, 0, 0])
}

pub(super) fn number(handle: &FileHandle) -> u64 {
    handle.to_words().2[0]
}

/// What a preserver spares itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Thrift {
    /// Nothing: every moment can be shown.
    None,
    /// What it has preserved in this epoch already, and what was made in it: the end of every epoch can be shown.
    Epoch,
}

#[derive(Clone, Debug)]
enum Body {
    Directory(BTreeMap<Vec<u8>, u64>),
    File(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Inode {
    body: Body,
    mode: u32,
    modified_ns: i64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    born_epoch: u32,
}

/// A path and what was there.
pub(super) type Tree = BTreeMap<Vec<u8>, Seen>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) inode: u64,
    mode: u32,
    modified_ns: i64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Object {
    Taken(u64),
    Bytes(BTreeMap<u64, u8>),
}

pub(super) struct World {
    thrift: Thrift,
    epoch: u32,
    n: u64,
    time_ns: i64,
    inodes: BTreeMap<u64, Inode>,
    objects: BTreeMap<u64, Object>,
    next_object: u64,
    /// Bytes that were preserved in this epoch.
    touched: BTreeSet<(u64, u64)>,
    pub(super) entries: Vec<Entry>,
    /// The workspace at each moment that can be shown.
    pub(super) states: BTreeMap<Sequence, Tree>,
    /// Ends of epochs.
    pub(super) ends: Vec<Sequence>,
}

/// An operation and what it is applied to, modulo what there is.
pub(super) type Choice = (u8, u8, u8, u8);

pub(super) fn choices() -> impl Strategy<Value = Vec<Choice>> {
    prop::collection::vec(any::<Choice>(), 1..60)
}

impl World {
    pub(super) fn new(thrift: Thrift) -> Self {
        let root = Inode {
            body: Body::Directory(BTreeMap::new()),
            mode: libc::S_IFDIR | 0o755,
            modified_ns: 0,
            xattrs: Vec::new(),
            born_epoch: 0,
        };
        let mut world = Self {
            thrift,
            epoch: 1,
            n: 0,
            time_ns: 1_000,
            inodes: BTreeMap::from([(ROOT, root)]),
            objects: BTreeMap::new(),
            next_object: 1,
            touched: BTreeSet::new(),
            entries: Vec::new(),
            states: BTreeMap::new(),
            ends: Vec::new(),
        };
        world.states.insert(Sequence::ZERO, world.tree());
        world
    }

    pub(super) fn run(thrift: Thrift, choices: &[Choice]) -> Self {
        let mut world = Self::new(thrift);
        for choice in choices {
            world.step(*choice);
        }
        world.end_epoch(false);
        world
    }

    /// The entries with positions behind them.
    pub(super) fn log(&self) -> impl Iterator<Item = (Entry, LogPosition)> + '_ {
        let position = |place: usize| LogPosition { segment: 1, offset: 8 * (place as u64 + 1) };
        self.entries.iter().cloned().enumerate().map(move |(place, entry)| (entry, position(place)))
    }

    fn step(&mut self, (kind, a, b, c): Choice) {
        self.time_ns += 1_000_000_000;
        let name = vec![b'a' + b % 3];
        let other = vec![b'a' + c % 3];
        let directory = pick(&self.directories(), a);
        let (from, file) = pick(&self.names(), a).unwrap_or((ROOT, Vec::new(), 0)).split();
        match (kind % 14, directory) {
            (0 | 1, Some(parent)) => self.create(parent, &name, Body::File(vec![c; usize::from(c) % 5])),
            (2, Some(parent)) => self.create(parent, &name, Body::Directory(BTreeMap::new())),
            (3, Some(parent)) => self.link(file, parent, &name),
            (4 | 5, _) => self.unlink(&from, b % 4 == 0),
            (6, Some(_)) => {
                let target = pick(&self.directories(), b).unwrap_or(ROOT);
                self.rename(&from, target, &other, b % 2 == 0);
            }
            (7 | 8, _) => self.write(file, u64::from(b) % 8, 1 + u64::from(c) % 4, c),
            (9, _) => self.truncate(file, usize::from(c) % LONGEST_FILE),
            (10, _) => self.set_attributes(file, u32::from(b) % 0o777, c),
            (11, _) => self.end_epoch(c % 2 == 0),
            (12, Some(parent)) => self.put_back(c, parent, &name),
            _ => self.fail_unlink(&from),
        }
    }

    fn directories(&self) -> Vec<u64> {
        let mut found = vec![ROOT];
        let mut place = 0;
        while let Some(directory) = found.get(place).copied() {
            found.extend(self.children(directory).into_values().filter(|inode| self.is_directory(*inode)));
            place += 1;
        }
        found
    }

    fn names(&self) -> Vec<Place> {
        let of =
            |parent: u64| self.children(parent).into_iter().map(move |(name, inode)| (parent, name, inode));
        self.directories().into_iter().flat_map(of).collect()
    }

    fn children(&self, directory: u64) -> BTreeMap<Vec<u8>, u64> {
        match &self.inodes[&directory].body {
            Body::Directory(names) => names.clone(),
            Body::File(_) => BTreeMap::new(),
        }
    }

    fn is_directory(&self, inode: u64) -> bool {
        matches!(self.inodes[&inode].body, Body::Directory(_))
    }

    fn bytes(&self, inode: u64) -> Option<&Vec<u8>> {
        match self.inodes.get(&inode).map(|inode| &inode.body) {
            Some(Body::File(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn named(&self, inode: u64) -> Named {
        Named { inode: handle(inode), file_type: self.inodes[&inode].mode & libc::S_IFMT }
    }

    fn attributes(&self, inode: u64) -> Change {
        let known = &self.inodes[&inode];
        let size = self.bytes(inode).map_or(0, |bytes| bytes.len() as u64);
        let before = Attributes {
            ino: inode,
            mode: known.mode,
            size,
            blocks: size,
            modified_ns: known.modified_ns,
            ..Attributes::default()
        };
        Change::Attributes { inode: handle(inode), before }
    }

    fn name(&self, parent: u64, name: &[u8]) -> Change {
        let before = self.children(parent).get(name).map(|inode| self.named(*inode));
        Change::Name { parent: handle(parent), name: name.to_vec(), before }
    }

    fn xattrs(&self, inode: u64) -> Change {
        Change::ExtendedAttributes { inode: handle(inode), before: self.inodes[&inode].xattrs.clone() }
    }

    /// Notes an entry; the operation follows.
    fn note(&mut self, cause: Cause, changes: Vec<Change>) {
        self.n += 1;
        let at = Sequence::new(Epoch(self.epoch), self.n);
        let actor = Actor { uid: 1000, pid: 7 };
        self.entries.push(Entry { at, time_ns: self.time_ns, actor, cause, changes });
    }

    /// Remembers how it is after the operation that was noted last.
    fn remember(&mut self) {
        if self.thrift == Thrift::None {
            self.states.insert(Sequence::new(Epoch(self.epoch), self.n), self.tree());
        }
    }

    fn set_name(&mut self, parent: u64, name: &[u8], inode: Option<u64>) {
        let now = self.time_ns;
        let directory = self.inodes.get_mut(&parent).unwrap();
        directory.modified_ns = now;
        let Body::Directory(names) = &mut directory.body else { unreachable!("only directories have names") };
        match inode {
            Some(inode) => names.insert(name.to_vec(), inode),
            None => names.remove(name),
        };
    }

    fn create(&mut self, parent: u64, name: &[u8], body: Body) {
        if self.children(parent).contains_key(name) {
            return;
        }
        let kind = if matches!(body, Body::File(_)) { libc::S_IFREG } else { libc::S_IFDIR };
        let inode = self.inodes.keys().max().unwrap() + 1;
        let new = Inode {
            body,
            mode: kind | 0o644,
            modified_ns: self.time_ns,
            xattrs: Vec::new(),
            born_epoch: self.epoch,
        };
        self.note(Cause::Create, vec![self.name(parent, name), self.attributes(parent)]);
        self.inodes.insert(inode, new);
        self.set_name(parent, name, Some(inode));
        self.remember();
    }

    fn link(&mut self, file: u64, parent: u64, name: &[u8]) {
        if self.bytes(file).is_none() || self.children(parent).contains_key(name) {
            return;
        }
        self.note(Cause::Link, vec![self.name(parent, name), self.attributes(parent)]);
        self.set_name(parent, name, Some(file));
        self.remember();
    }

    fn links(&self, file: u64) -> usize {
        self.names().iter().filter(|(.., inode)| *inode == file).count()
    }

    /// What is noted when a name of `inode` goes.
    fn loss(&mut self, inode: u64, with_xattrs: bool) -> Vec<Change> {
        let mut changes = vec![self.attributes(inode)];
        if self.is_directory(inode) || with_xattrs {
            changes.push(self.xattrs(inode));
        }
        if !self.is_directory(inode) && self.links(inode) == 1 {
            let object = self.new_object(Object::Taken(inode));
            changes.push(Change::Content {
                inode: handle(inode),
                object,
                span: Span::Whole,
                origin: Origin::TakenAway,
                hash: None,
            });
        }
        changes
    }

    fn new_object(&mut self, object: Object) -> ObjectId {
        let id = self.next_object;
        self.next_object += 1;
        self.objects.insert(id, object);
        ObjectId(id)
    }

    fn unlink(&mut self, (parent, name): &(u64, Vec<u8>), with_xattrs: bool) {
        let Some(inode) = self.children(*parent).get(name).copied() else { return };
        let is_directory = self.is_directory(inode);
        if is_directory && !self.children(inode).is_empty() {
            return;
        }
        let mut changes = vec![self.name(*parent, name), self.attributes(*parent)];
        changes.extend(self.loss(inode, with_xattrs));
        self.note(if is_directory { Cause::RemoveDirectory } else { Cause::Unlink }, changes);
        self.set_name(*parent, name, None);
        self.remember();
    }

    fn fail_unlink(&mut self, (parent, name): &(u64, Vec<u8>)) {
        let Some(inode) = self.children(*parent).get(name).copied() else { return };
        if self.is_directory(inode) || self.links(inode) != 1 {
            return;
        }
        let mut changes = vec![self.name(*parent, name)];
        changes.extend(self.loss(inode, false));
        let object = ObjectId(self.next_object - 1);
        self.note(Cause::Unlink, changes);
        self.objects.remove(&object.0);
        self.note(Cause::History, vec![Change::NotTaken { object }]);
        self.remember();
    }

    fn rename(&mut self, (parent, name): &(u64, Vec<u8>), target: u64, to: &[u8], is_exchange: bool) {
        let Some(inode) = self.children(*parent).get(name).copied() else { return };
        let victim = self.children(target).get(to).copied();
        let is_same_kind = victim.is_none_or(|victim| self.is_directory(victim) == self.is_directory(inode));
        let is_full = victim.is_some_and(|victim| !self.children(victim).is_empty());
        let is_exchange = is_exchange && victim.is_some();
        let moves = [Some((inode, target)), victim.filter(|_| is_exchange).map(|victim| (victim, *parent))];
        let is_loop = moves.into_iter().flatten().any(|(moved, into)| self.is_below(into, moved));
        if victim == Some(inode) || !is_same_kind || (is_full && !is_exchange) || is_loop {
            return;
        }
        let mut changes = vec![self.name(*parent, name), self.name(target, to), self.attributes(*parent)];
        if target != *parent {
            changes.push(self.attributes(target));
        }
        if let Some(victim) = victim.filter(|_| !is_exchange) {
            changes.extend(self.loss(victim, false));
        }
        self.note(Cause::Rename, changes);
        self.set_name(*parent, name, victim.filter(|_| is_exchange));
        self.set_name(target, to, Some(inode));
        self.remember();
    }

    fn is_below(&self, inode: u64, ancestor: u64) -> bool {
        inode == ancestor || self.children(ancestor).into_values().any(|child| self.is_below(inode, child))
    }

    /// Preserves bytes of a file before they are changed, as far as they are there.
    fn preserve(&mut self, file: u64, range: std::ops::Range<u64>, as_whole: bool) -> Vec<Change> {
        let bytes = self.bytes(file).unwrap().clone();
        let mut changes = vec![self.attributes(file)];
        if self.thrift == Thrift::Epoch && self.inodes[&file].born_epoch == self.epoch {
            return changes;
        }
        let is_touched =
            |world: &Self, at: u64| world.thrift == Thrift::Epoch && world.touched.contains(&(file, at));
        let content =
            |object, span, origin| Change::Content { inode: handle(file), object, span, origin, hash: None };
        let all: BTreeMap<u64, u8> = bytes.iter().enumerate().map(|(at, byte)| (at as u64, *byte)).collect();
        if as_whole && !(0..LONGEST_FILE as u64).any(|at| is_touched(self, at)) {
            let object = self.new_object(Object::Bytes(all));
            self.touched.extend((0..LONGEST_FILE as u64).map(|at| (file, at)));
            changes.push(content(object, Span::Whole, Origin::Cloned));
            return changes;
        }
        let mut object = None;
        for at in range.start..range.end.min(bytes.len() as u64) {
            if is_touched(self, at) {
                continue;
            }
            self.touched.insert((file, at));
            let id = *object.get_or_insert(self.next_object);
            self.next_object = self.next_object.max(id + 1);
            let object = self.objects.entry(id).or_insert_with(|| Object::Bytes(BTreeMap::new()));
            let Object::Bytes(kept) = object else { unreachable!("it is a copy") };
            kept.insert(at, all[&at]);
            match changes.last_mut() {
                Some(Change::Content { span: Span::Range { offset, length }, .. })
                    if *offset + *length == at =>
                {
                    *length += 1;
                }
                _ => {
                    changes.push(content(
                        ObjectId(id),
                        Span::Range { offset: at, length: 1 },
                        Origin::Copied,
                    ));
                }
            }
        }
        changes
    }

    fn write(&mut self, file: u64, offset: u64, length: u64, value: u8) {
        if self.bytes(file).is_none() {
            return;
        }
        let changes = self.preserve(file, offset..offset + length, value.is_multiple_of(5));
        self.note(Cause::Write, changes);
        let now = self.time_ns;
        let inode = self.inodes.get_mut(&file).unwrap();
        inode.modified_ns = now;
        let Body::File(bytes) = &mut inode.body else { unreachable!("it is a file") };
        let end = (offset + length) as usize;
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].fill(value);
        self.remember();
    }

    fn truncate(&mut self, file: u64, size: usize) {
        let Some(old) = self.bytes(file).map(Vec::len) else { return };
        let changes = self.preserve(file, size as u64..old as u64, false);
        self.note(Cause::Truncate, changes);
        let now = self.time_ns;
        let inode = self.inodes.get_mut(&file).unwrap();
        inode.modified_ns = now;
        let Body::File(bytes) = &mut inode.body else { unreachable!("it is a file") };
        bytes.resize(size, 0);
        self.remember();
    }

    fn set_attributes(&mut self, inode: u64, mode: u32, value: u8) {
        if !self.inodes.contains_key(&inode) {
            return;
        }
        self.note(Cause::SetAttributes, vec![self.attributes(inode), self.xattrs(inode)]);
        let known = self.inodes.get_mut(&inode).unwrap();
        known.mode = known.mode & libc::S_IFMT | mode;
        known.xattrs = (0..value % 3).map(|n| (vec![b'u', n], vec![value; usize::from(n)])).collect();
        self.remember();
    }

    fn put_back(&mut self, which: u8, parent: u64, name: &[u8]) {
        let taken: Vec<(u64, u64)> = self
            .objects
            .iter()
            .filter_map(|(object, kept)| match kept {
                Object::Taken(inode) => Some((*object, *inode)),
                Object::Bytes(_) => None,
            })
            .collect();
        let Some((object, inode)) = pick(&taken, which) else { return };
        if self.children(parent).contains_key(name) {
            return;
        }
        self.note(Cause::Rename, vec![self.name(parent, name), self.attributes(parent)]);
        self.set_name(parent, name, Some(inode));
        self.remember();
        self.objects.remove(&object);
        self.note(Cause::History, vec![Change::PutBack { object: ObjectId(object) }]);
        self.remember();
    }

    fn end_epoch(&mut self, is_snapshot: bool) {
        let note = SnapshotNote { reason: SnapshotReason::Manual, name: None, note: None, is_held: false };
        let actor = Actor::default();
        let epoch = Epoch(self.epoch);
        self.entries.push(Entry::epoch_end(epoch, self.time_ns, actor, is_snapshot.then_some(note)));
        self.states.insert(epoch.end(), self.tree());
        self.ends.push(epoch.end());
        self.touched.clear();
        self.epoch += 1;
        self.n = 0;
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut pending = vec![(Vec::new(), ROOT)];
        while let Some((path, inode)) = pending.pop() {
            let known = &self.inodes[&inode];
            let seen = Seen {
                inode,
                mode: known.mode,
                modified_ns: known.modified_ns,
                xattrs: known.xattrs.clone(),
                content: self.bytes(inode).cloned(),
            };
            pending
                .extend(self.children(inode).into_iter().map(|(name, child)| (below(&path, &name), child)));
            tree.insert(path, seen);
        }
        tree
    }

    /// What the catalog, the store and the workspace as it is now make of a moment.
    pub(super) fn tree_at(&self, past: &Past, moment: Sequence) -> Tree {
        let mut tree = Tree::new();
        let mut pending = vec![(Vec::new(), handle(ROOT))];
        while let Some((path, inode)) = pending.pop() {
            let known = &self.inodes[&number(&inode)];
            let attributes = past.attributes_at(&inode, moment).unwrap();
            let seen = Seen {
                inode: number(&inode),
                mode: attributes.map_or(known.mode, |attributes| attributes.mode),
                modified_ns: attributes.map_or(known.modified_ns, |attributes| attributes.modified_ns),
                xattrs: self.xattrs_at(past, &inode, moment),
                content: self.bytes(number(&inode)).map(|live| self.content_at(past, &inode, moment, live)),
            };
            let mut names: BTreeMap<Vec<u8>, FileHandle> = self
                .children(number(&inode))
                .into_iter()
                .map(|(name, child)| (name, handle(child)))
                .collect();
            for (name, before) in past.names_changed_after(&inode, moment).unwrap() {
                assert_eq!(past.name_at(&inode, &name, moment).unwrap(), Then::Was(before));
                match before {
                    Some(before) => names.insert(name, before.inode),
                    None => names.remove(&name),
                };
            }
            pending.extend(names.into_iter().map(|(name, child)| (below(&path, &name), child)));
            tree.insert(path, seen);
        }
        tree
    }

    /// An inode that has no name holds its extended attributes, if it is in the store.
    fn xattrs_at(&self, past: &Past, inode: &FileHandle, moment: Sequence) -> Vec<(Vec<u8>, Vec<u8>)> {
        past.xattrs_at(inode, moment).unwrap().unwrap_or_else(|| {
            let inode = number(inode);
            let is_alive = self.names().iter().any(|(.., named)| *named == inode) || inode == ROOT;
            let is_kept =
                self.objects.values().any(|object| matches!(object, Object::Taken(taken) if *taken == inode));
            assert!(is_alive || is_kept, "the attributes of inode {inode} are lost");
            self.inodes[&inode].xattrs.clone()
        })
    }

    fn content_at(&self, past: &Past, inode: &FileHandle, moment: Sequence, live: &[u8]) -> Vec<u8> {
        let content = past.content_at(inode, moment, 0..u64::MAX).unwrap();
        let size = content.size.unwrap_or(live.len() as u64);
        let mut bytes = Vec::new();
        for piece in content.pieces {
            assert_eq!(piece.range.start, bytes.len() as u64, "pieces have gaps");
            for at in piece.range.start..piece.range.end.min(size) {
                let byte = match piece.source {
                    Source::Live => live.get(at as usize).copied(),
                    Source::Kept(kept) => match self.objects.get(&kept.object.0) {
                        Some(Object::Taken(taken)) => self.bytes(*taken).unwrap().get(at as usize).copied(),
                        Some(Object::Bytes(kept)) => kept.get(&at).copied(),
                        None => panic!("object {:?} of inode {inode:?} is gone", kept.object),
                    },
                };
                bytes.push(byte.unwrap_or(0));
            }
        }
        bytes
    }

    pub(super) fn named_now(&self, parent: &FileHandle, name: &[u8]) -> Option<Named> {
        self.children(number(parent)).get(name).map(|inode| self.named(*inode))
    }

    /// The names that can be reached at a moment, and what they stood for.
    pub(super) fn names_at(&self, moment: Sequence) -> BTreeSet<Place> {
        let tree = &self.states[&moment];
        let place = |(path, seen): (&Vec<u8>, &Seen)| {
            let cut = path.iter().rposition(|byte| *byte == b'/')?;
            Some((tree[&path[..cut]].inode, path[cut + 1..].to_vec(), seen.inode))
        };
        tree.iter().filter_map(place).collect()
    }

    /// Does to the store what was asked for; returns how many objects are left.
    pub(super) fn dispose(&mut self, condemned: &[Condemned]) -> usize {
        for condemned in condemned {
            let object = condemned.object.0;
            match (&condemned.disposal, self.objects.get_mut(&object)) {
                (Disposal::Punch(ranges), Some(Object::Bytes(bytes))) => {
                    bytes.retain(|at, _| !ranges.iter().any(|range| range.contains(at)));
                }
                (Disposal::Punch(_), kept) => panic!("{kept:?} cannot be punched"),
                (Disposal::Remove, _) => {
                    self.objects.remove(&object).expect("an object is removed once");
                }
            }
        }
        self.objects.len()
    }
}

/// A directory, a name and what it stands for.
pub(super) type Place = (u64, Vec<u8>, u64);

trait Split {
    fn split(self) -> ((u64, Vec<u8>), u64);
}

impl Split for Place {
    fn split(self) -> ((u64, Vec<u8>), u64) {
        ((self.0, self.1), self.2)
    }
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

fn pick<T: Clone>(list: &[T], which: u8) -> Option<T> {
    list.get(usize::from(which) % list.len().max(1)).cloned()
}
