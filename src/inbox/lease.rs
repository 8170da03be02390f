//! Whether anybody on this machine has a file open for writing, by the kernel's own count.
//!
//! The kernel grants a read lease on no file that is open for writing, whoever does it: also to those who may not look
//! into the writer's process. It is given back at once. Where leases are not to be had (on shares, and for another
//! owner's files without `CAP_LEASE`) nothing is known, and what `/proc` shows has to do.
//!
//! Whoever opens the file for writing in between waits until it is given back, some microseconds. The kernel tells us of
//! them by a signal, and the one that it takes for that unless it is told otherwise would end the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use libc::{F_RDLCK, F_SETLEASE, F_UNLCK, SIGURG, c_int};
use rustix::io::Errno;

use crate::folder::errno;

/// Whether it is open for writing; an error when the kernel doesn't tell. The file must have been opened for reading
/// alone (`fcntl(2)`, "Leases").
pub(super) fn is_written(file: &File) -> Result<bool, Errno> {
    // Ignored unless somebody asks for it, which nobody here does.
    fcntl(file, F_SETSIG, SIGURG)?;
    match fcntl(file, F_SETLEASE, F_RDLCK) {
        Ok(()) => fcntl(file, F_SETLEASE, F_UNLCK).map(|()| false),
        Err(Errno::AGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

#[expect(unsafe_code, reason = "no crate at hand has a safe call for leases")]
fn fcntl(file: &File, command: c_int, argument: c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for as long as the file is borrowed. The commands in here take a number, and touch no
    // memory of this process.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if answer == -1 { Err(errno(&io::Error::last_os_error())) } else { Ok(()) }
}

/// From the kernel's `asm-generic/fcntl.h`; the crate has it for some machines only.
const F_SETSIG: c_int = 10;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;

    use super::*;

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "1").unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_is_written_until_its_last_writer_closes_it() {
        let (_folder, path) = file();
        let read = File::open(&path).unwrap();
        assert_eq!(is_written(&read), Ok(false));
        let writers = [0, 1].map(|_| File::options().append(true).open(&path).unwrap());
        for writer in writers {
            assert_eq!(is_written(&read), Ok(true));
            drop(writer);
        }
        let _reader = File::open(&path).unwrap();
        assert_eq!(is_written(&read), Ok(false), "readers are in nobody's way");
    }

    #[test]
    fn nothing_is_left_of_a_lease_that_a_writer_would_have_to_wait_for() {
        let (_folder, path) = file();
        let read = File::open(&path).unwrap();
        assert_eq!(is_written(&read), Ok(false));
        // It would be refused, and not wait, if a lease were in its way.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        File::options().append(true).custom_flags(nonblock).open(&path).unwrap();
    }

    #[test]
    fn writers_that_come_while_it_is_asked_neither_fail_nor_end_the_process() {
        let (_folder, path) = file();
        let read = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20_000 {
                    File::options().append(true).open(&path).unwrap();
                }
            });
            while !writer.is_finished() {
                is_written(&read).unwrap();
            }
        });
    }
}
