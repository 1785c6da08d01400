//! The disk as a seam: the few operations that a log needs, so that tests can cut the power
//! between any two of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist yet.
    Create,
}

/// A file system. Names become durable only by [`Disk::sync_dir`], bytes only by
/// [`DiskFile::sync_data`] or [`DiskFile::sync_all`].
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of the operating system, here and below.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, in no order. Names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// `NotFound` when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Whether a file or directory of this name exists.
    ///
    /// # Errors
    /// When that cannot be told.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Creates one directory in an existing one.
    ///
    /// # Errors
    /// `AlreadyExists` among others.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file another name, atomically, in place of what had that name.
    ///
    /// # Errors
    /// The old names then still stand.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; who has it open can go on reading.
    ///
    /// # Errors
    /// `NotFound` among others.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    ///
    /// # Errors
    /// When it is not empty, among others.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names of a directory durable.
    ///
    /// # Errors
    /// Nothing may then be believed about names changed since the last success.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Free and total bytes of the file system that holds `path`.
    ///
    /// # Errors
    /// When the file system does not tell.
    fn space(&self, path: &Path) -> io::Result<(u64, u64)>;
}

/// An open file. Positions are given with every call, so it can be shared.
pub trait DiskFile: Send + Sync {
    /// Writes all of `buffers` one after another from `position` on; the slices are used up.
    ///
    /// # Errors
    /// Any prefix may then have been written.
    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes from `position` on; 0 = end of file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Makes bytes, and what is needed to find them again, durable (fdatasync).
    ///
    /// # Errors
    /// Nothing may then be believed about what was written since the last success, and asking
    /// again proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes bytes and all attributes durable (fsync).
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends the file; new bytes read as zero.
    ///
    /// # Errors
    /// Those of the operating system.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length, preallocated space included.
    ///
    /// # Errors
    /// Those of the operating system.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reserves disk blocks so that the file is at least `len` long; new bytes read as zero.
    /// File systems that cannot reserve blocks do nothing.
    ///
    /// # Errors
    /// `StorageFull` among others.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Asks for cached pages that are not waiting to be written to be forgotten from `position`
    /// on, so that the next read comes from the medium.
    fn drop_cache(&self, position: u64);
}

/// Reads until `buffer` is full or the file ends; returns how much was read.
pub(super) fn read_full(
    file: &dyn DiskFile,
    buffer: &mut [u8],
    position: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], position + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Creates `dir` and what is missing above it, and makes their names durable. That of a directory
/// that is there already as well: who created it may still be about to, or may have died before.
pub(crate) fn create_dirs(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let above = parent.unwrap_or(Path::new("."));
    if disk.exists(dir)? {
        return match disk.sync_dir(above) {
            // Above what was prepared for this process there may be directories it cannot read.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        };
    }
    if let Some(parent) = parent {
        create_dirs(disk, parent)?;
    }
    match disk.create_dir(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        done => done?,
    }
    disk.sync_dir(above)
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct StdDisk;

impl Disk for StdDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(StdFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(path)?;
        Ok((
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_blocks.saturating_mul(stat.f_frsize),
        ))
    }
}

struct StdFile(File);

impl DiskFile for StdFile {
    fn write_all_at(&self, mut buffers: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
        // Linux takes at most this many buffers in one call.
        const IOV_MAX: usize = 1024;
        IoSlice::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            let window = buffers.len().min(IOV_MAX);
            match rustix::io::pwritev(&self.0, &buffers[..window], position) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut buffers, written);
                    position += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(&self.0, buffer, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let have = self.len()?;
        if len <= have {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), have, len - have) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            done => Ok(done?),
        }
    }

    fn drop_cache(&self, position: u64) {
        // Only advice: a file system that ignores it serves the same bytes.
        let _ = rustix::fs::fadvise(&self.0, position, None, Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::sim::{Crash, Faults, SimDisk};

    #[test]
    fn a_directory_that_somebody_else_has_just_created_is_durable_before_it_is_used() {
        // Every way in which another log, or an earlier attempt, can have been stopped.
        for stopped_after in 0..6 {
            let disk = SimDisk::default();
            disk.set_faults(Faults {
                halt_after: Some(stopped_after),
                ..Faults::default()
            });
            let _ = create_dirs(&disk, Path::new("/topics/t/0"));
            disk.set_faults(Faults::default());
            create_dirs(&disk, Path::new("/topics/t/1")).unwrap();
            create_dirs(&disk, Path::new("/topics/t/0")).unwrap();
            let found = disk.crash(Crash::DropAll);
            for dir in ["/topics/t/0", "/topics/t/1"] {
                assert!(
                    found.exists(Path::new(dir)).unwrap(),
                    "{stopped_after} {dir}"
                );
            }
        }
    }
}
