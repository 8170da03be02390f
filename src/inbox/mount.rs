//! Which file systems tell of what is done to their files.
//!
//! The kernel tells of what is done on this machine alone. What another machine writes to a share, the other side of a
//! FUSE mount or the lower folder of an overlay changes silently, and no call fails. So the kind of each folder's own
//! file system decides, as a folder in the tree may be another mount.

/// Why events of such a file system can't be relied on; `None` when they can. The number is the `f_type` of `statfs(2)`.
pub(super) fn without_events(kind: u64) -> Option<&'static str> {
    // Some are negative there on some machines.
    let kind = kind & 0xffff_ffff;
    SILENT.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name)
}

/// From the kernel's `magic.h` and the file systems' own headers.
const SILENT: [(u64, &str); 18] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x794c_7630, "overlay"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "vmhgfs"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x2003_0528, "OrangeFS"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_silent_and_disks_are_not() {
        for (kind, silent) in [
            (0x6969, Some("NFS")),
            (0xff53_4d42, Some("CIFS")),
            (0xffff_ffff_ff53_4d42, Some("CIFS")),
            (0x794c_7630, Some("overlay")),
            (0xef53, None),
            (0x0102_1994, None),
            (0x5846_5342, None),
            (0x9123_683e, None),
        ] {
            assert_eq!(without_events(kind), silent, "{kind:x}");
        }
    }
}
