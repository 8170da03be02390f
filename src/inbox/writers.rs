//! Which files are open for writing somewhere on this machine.
//!
//! A pause in the middle of a copy looks like its end, whatever the waiting time; that somebody still holds the file
//! open for writing tells the two apart. The kernel tells it in `/proc`, of every process we may look into: root sees
//! them all, others their own. Of what is not told a [lease](super::lease) may, and this says who it is; what is written from
//! another machine is left to the waiting time.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::folder::Stamp;

/// The open files of all processes we may look into, by file name.
///
/// By name, since a link is read without touching the file behind it: asking every open file for its inode would hang
/// on any dead network share of the machine. Only those of the right name are asked.
#[derive(Debug, Default)]
pub(super) struct Writers {
    open: HashMap<OsString, Vec<(PathBuf, OsString)>>,
}

impl Writers {
    /// Looks through `/proc`; finds nothing where there is none.
    pub(super) fn look() -> Self {
        let mut writers = Self::default();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in
            processes.filter(|p| p.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        {
            let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            for descriptor in open {
                let Ok(file) = fs::read_link(descriptor.path()) else { continue };
                // Sockets and pipes have names without a slash.
                if let (true, Some(name)) = (file.is_absolute(), file.file_name()) {
                    writers
                        .open
                        .entry(name.to_owned())
                        .or_default()
                        .push((process.path(), descriptor.file_name()));
                }
            }
        }
        writers
    }

    /// The number of one that writes to this file.
    pub(super) fn of(&self, name: &OsStr, file: &Stamp) -> Option<u32> {
        let writes = |(process, descriptor): &&(PathBuf, OsString)| {
            let info = fs::read_to_string(process.join("fdinfo").join(descriptor));
            info.is_ok_and(|info| opened_for_writing(&info))
                && fs::metadata(process.join("fd").join(descriptor))
                    .is_ok_and(|found| (found.dev(), found.ino()) == (file.device, file.inode))
        };
        let (process, _) = self.open.get(name)?.iter().find(writes)?;
        process.file_name()?.to_str()?.parse().ok()
    }
}

/// Whether an `fdinfo` tells of a descriptor that can write: its flags are those of `open(2)`, in octal (`proc_pid_fdinfo(5)`).
fn opened_for_writing(info: &str) -> bool {
    const ACCESS_MODE: u32 = 0o3;
    info.lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & ACCESS_MODE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_a_descriptor_tell_whether_it_writes() {
        for (info, writes) in [
            ("pos:\t0\nflags:\t0100000\nmnt_id:\t29\n", false),
            ("pos:\t0\nflags:\t0100001\nmnt_id:\t29\n", true),
            ("pos:\t0\nflags:\t0102002\n", true),
            ("pos:\t0\n", false),
            ("flags:\tnonsense\n", false),
        ] {
            assert_eq!(opened_for_writing(info), writes, "{info}");
        }
    }
}
