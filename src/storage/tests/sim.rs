//! A disk in memory that can lose power at any moment and fail on demand.
//!
//! Every file has a durable image and a list of operations that no sync has made durable; so have
//! the names. A crash keeps the durable image and whichever of the pending operations the mode
//! says: real disks may keep any of them, in part.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::storage::{Disk, DiskFile, OpenMode};

/// Which pending operations survive a crash.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Crash {
    /// None.
    DropAll,
    /// All: the process died, the power stayed.
    KeepAll,
    /// Those that came first.
    KeepPrefix(u64),
    /// Each with even odds.
    RandomSubset(u64),
    /// Of each write, each 512-byte sector with even odds; of the rest, each with even odds.
    Tear512(u64),
}

/// What goes wrong, counted from when it is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Everything fails after so many changes.
    pub(crate) halt_after: Option<u64>,
    /// So many syncs succeed, the next one fails, and with it the kernel forgets what was dirty.
    pub(crate) fail_sync_after: Option<u64>,
    /// So many writes succeed, the next one stops after so many bytes.
    pub(crate) short_write_after: Option<(u64, usize)>,
    /// So many reads succeed, the next one fails.
    pub(crate) fail_read_after: Option<u64>,
    /// Bytes that all files together may have.
    pub(crate) quota: Option<u64>,
}

#[derive(Debug, Clone)]
enum DataOp {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Grow(u64),
}

#[derive(Debug, Clone)]
enum NameOp {
    Add(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<(u64, DataOp)>,
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    durable: Names,
    pending: Vec<(u64, NameOp)>,
    changes: u64,
    faults: Faults,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct SimFile {
    state: Arc<Mutex<State>>,
    inode: usize,
    writable: bool,
}

pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn apply(bytes: &mut Vec<u8>, op: &DataOp) {
    match op {
        DataOp::Write(position, data) => {
            let at = *position as usize;
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        DataOp::SetLen(len) => bytes.resize(*len as usize, 0),
        DataOp::Grow(len) => {
            if bytes.len() < *len as usize {
                bytes.resize(*len as usize, 0);
            }
        }
    }
}

fn apply_name(names: &mut Names, op: &NameOp) {
    match op {
        NameOp::Add(path, node) => {
            names.insert(path.clone(), *node);
        }
        NameOp::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        NameOp::Remove(path) => {
            names.remove(path);
        }
    }
}

fn dir_of(op: &NameOp) -> Option<&Path> {
    match op {
        NameOp::Add(path, _) | NameOp::Remove(path) | NameOp::Rename(_, path) => path.parent(),
    }
}

/// Counts down; true when it is this one's turn to fail.
fn due(counter: &mut Option<u64>) -> bool {
    match counter {
        Some(0) => {
            *counter = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl State {
    fn change(&mut self) -> io::Result<u64> {
        self.changes += 1;
        if self
            .faults
            .halt_after
            .is_some_and(|after| after < self.changes)
        {
            return Err(eio());
        }
        Ok(self.changes)
    }

    fn name(&mut self, op: NameOp) -> io::Result<()> {
        let at = self.change()?;
        apply_name(&mut self.names, &op);
        self.pending.push((at, op));
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|node| match node {
                Node::File(inode) => self.inodes[*inode].current.len() as u64,
                Node::Dir => 0,
            })
            .sum()
    }

    fn data(&mut self, inode: usize, op: DataOp) -> io::Result<()> {
        let at = self.change()?;
        let len = self.inodes[inode].current.len() as u64;
        let end = match &op {
            DataOp::Write(position, data) => position + data.len() as u64,
            DataOp::SetLen(len) | DataOp::Grow(len) => *len,
        };
        let room = self
            .faults
            .quota
            .map_or(u64::MAX, |quota| quota.saturating_sub(self.used()));
        let full = room < end.saturating_sub(len);
        let op = match op {
            // A full disk takes what fits.
            DataOp::Write(position, mut data) if full => {
                let fits = (len + room).saturating_sub(position).min(data.len() as u64);
                data.truncate(fits as usize);
                DataOp::Write(position, data)
            }
            _ if full => return Err(ErrorKind::StorageFull.into()),
            op => op,
        };
        apply(&mut self.inodes[inode].current, &op);
        self.inodes[inode].pending.push((at, op));
        if full {
            Err(ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn sync(&mut self) -> io::Result<bool> {
        self.change()?;
        Ok(!due(&mut self.faults.fail_sync_after))
    }
}

impl SimDisk {
    pub(crate) fn set_faults(&self, faults: Faults) {
        let mut state = self.state.lock().unwrap();
        state.faults = faults;
        let changes = state.changes;
        state.faults.halt_after = state.faults.halt_after.map(|after| changes + after);
    }

    /// Changes so far: the moments at which a crash can come.
    pub(crate) fn changes(&self) -> u64 {
        self.state.lock().unwrap().changes
    }

    /// The disk as it is found after a crash now.
    pub(crate) fn crash(&self, mode: Crash) -> SimDisk {
        let mut rng = Rng(match mode {
            Crash::RandomSubset(seed) | Crash::Tear512(seed) => seed,
            _ => 0,
        });
        let mut state = self.state.lock().unwrap().clone();
        let mut keep = |at: u64| match mode {
            Crash::DropAll => false,
            Crash::KeepAll => true,
            Crash::KeepPrefix(first) => at <= first,
            Crash::RandomSubset(_) | Crash::Tear512(_) => rng.coin(),
        };
        let mut names = std::mem::take(&mut state.durable);
        for (at, op) in &state.pending {
            if keep(*at) {
                apply_name(&mut names, op);
            }
        }
        // What is in a directory that is not there is not there either.
        let orphans: Vec<PathBuf> = names
            .keys()
            .filter(|path| {
                path.ancestors()
                    .skip(1)
                    .any(|dir| dir != Path::new("/") && !names.contains_key(dir))
            })
            .cloned()
            .collect();
        orphans.iter().for_each(|path| {
            names.remove(path);
        });
        for inode in &mut state.inodes {
            let mut bytes = std::mem::take(&mut inode.durable);
            for (at, op) in std::mem::take(&mut inode.pending) {
                match (&op, mode) {
                    (DataOp::Write(position, data), Crash::Tear512(_)) => {
                        let mut from = 0;
                        while from < data.len() {
                            let sector = 512 - (*position as usize + from) % 512;
                            let to = data.len().min(from + sector);
                            if keep(at) {
                                let part = data[from..to].to_vec();
                                apply(&mut bytes, &DataOp::Write(position + from as u64, part));
                            }
                            from = to;
                        }
                    }
                    _ if keep(at) => apply(&mut bytes, &op),
                    _ => {}
                }
            }
            *inode = Inode {
                durable: bytes.clone(),
                current: bytes,
                pending: Vec::new(),
            };
        }
        let state = State {
            inodes: state.inodes,
            durable: names.clone(),
            names,
            ..State::default()
        };
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// A file's bytes as programs see them.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        match state.names.get(path) {
            Some(Node::File(inode)) => state.inodes[*inode].current.clone(),
            other => panic!("{} is {other:?}", path.display()),
        }
    }

    /// Overwrites a file at rest, durably, as bit rot does.
    pub(crate) fn replace_bytes(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        let Some(Node::File(inode)) = state.names.get(path).copied() else {
            panic!("no file {}", path.display())
        };
        state.inodes[inode] = Inode {
            durable: bytes.clone(),
            current: bytes,
            pending: Vec::new(),
        };
    }

    /// The paths of all files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let state = self.state.lock().unwrap();
        let files = state.names.iter().filter(|(_, node)| **node != Node::Dir);
        files.map(|(path, _)| path.clone()).collect()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock().unwrap();
        let inode = match (state.names.get(path).copied(), mode) {
            (Some(Node::Dir), _) => return Err(ErrorKind::IsADirectory.into()),
            (Some(_), OpenMode::Create) => return Err(ErrorKind::AlreadyExists.into()),
            (Some(Node::File(inode)), _) => inode,
            (None, OpenMode::Create) => {
                let dir = path.parent().unwrap();
                if state.names.get(dir) != Some(&Node::Dir) {
                    return Err(ErrorKind::NotFound.into());
                }
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.name(NameOp::Add(path.to_owned(), Node::File(inode)))?;
                inode
            }
            (None, _) => return Err(ErrorKind::NotFound.into()),
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile {
            state: self.state.clone(),
            inode,
            writable,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock().unwrap();
        if state.names.get(dir) != Some(&Node::Dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(path == Path::new("/") || self.state.lock().unwrap().names.contains_key(path))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.names.contains_key(dir) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.name(NameOp::Add(dir.to_owned(), Node::Dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if !state.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        state.name(NameOp::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        match state.names.get(path) {
            Some(Node::File(_)) => state.name(NameOp::Remove(path.to_owned())),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.names.keys().any(|path| path.parent() == Some(dir)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        state.name(NameOp::Remove(dir.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if !state.sync()? {
            return Err(eio());
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition(|(_, op)| dir_of(op) == Some(dir));
        state.pending = elsewhere;
        let State { durable, .. } = &mut *state;
        here.iter().for_each(|(_, op)| apply_name(durable, op));
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<(u64, u64)> {
        let state = self.state.lock().unwrap();
        let total = state.faults.quota.unwrap_or(1 << 40);
        Ok((total.saturating_sub(state.used()), total))
    }
}

impl DiskFile for SimFile {
    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        assert!(self.writable, "written through a descriptor for reading");
        let mut data: Vec<u8> = buffers
            .iter()
            .flat_map(|buffer| buffer.iter().copied())
            .collect();
        let short = match &mut state.faults.short_write_after {
            Some((0, bytes)) => Some(*bytes),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if let Some(bytes) = short {
            state.faults.short_write_after = None;
            data.truncate(bytes);
            state.data(self.inode, DataOp::Write(position, data))?;
            return Err(eio());
        }
        state.data(self.inode, DataOp::Write(position, data))
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        if due(&mut state.faults.fail_read_after) {
            return Err(eio());
        }
        let bytes = &state.inodes[self.inode].current;
        let rest = bytes.get(position as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let good = state.sync()?;
        let inode = &mut state.inodes[self.inode];
        let pending = std::mem::take(&mut inode.pending);
        if !good {
            // As Linux does: the pages are marked clean, and a second fsync would succeed.
            return Err(eio());
        }
        for (_, op) in &pending {
            apply(&mut inode.durable, op);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state
            .lock()
            .unwrap()
            .data(self.inode, DataOp::SetLen(len))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().inodes[self.inode].current.len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.state
            .lock()
            .unwrap()
            .data(self.inode, DataOp::Grow(len))
    }

    fn drop_cache(&self, _: u64) {
        let mut state = self.state.lock().unwrap();
        let inode = &mut state.inodes[self.inode];
        let mut bytes = inode.durable.clone();
        for (_, op) in &inode.pending {
            apply(&mut bytes, op);
        }
        inode.current = bytes;
    }
}
