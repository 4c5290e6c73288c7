// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The guest's root file system: a cpio archive of the `newc` kind, the same bytes for the same files.
//!
//! Written here, not by the `cpio` program: device nodes need no privilege in an archive, and neither order, nor
//! times, nor inode numbers of this machine get into it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// A tree of files for the guest. Paths are absolute; the folders on the way are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Initramfs {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File { bytes: Vec<u8>, permissions: u32 },
    Symlink { target: String },
    Device { major: u32, minor: u32 },
}

impl Initramfs {
    /// Adds an empty folder.
    pub fn folder(&mut self, path: &str) -> &mut Self {
        self.node(path, Node::Folder)
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, bytes: &[u8], permissions: u32) -> &mut Self {
        self.node(
            path,
            Node::File {
                bytes: bytes.to_vec(),
                permissions,
            },
        )
    }

    /// Adds a file of this machine.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<&mut Self> {
        let read =
            || Ok::<_, std::io::Error>((fs::read(from)?, fs::metadata(from)?.permissions().mode()));
        let (bytes, mode) = read().with_context(|| format!("reading {}", from.display()))?;
        // A file that its owner may execute may be executed in the guest; nothing else of the mode matters there.
        Ok(self.file(path, &bytes, if mode & 0o100 == 0 { 0o644 } else { 0o755 }))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.node(
            path,
            Node::Symlink {
                target: target.to_owned(),
            },
        )
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> &mut Self {
        self.node(path, Node::Device { major, minor })
    }

    fn node(&mut self, path: &str, node: Node) -> &mut Self {
        let path = path.trim_matches('/');
        for (slash, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..slash].to_owned())
                .or_insert(Node::Folder);
        }
        self.nodes.insert(path.to_owned(), node);
        self
    }

    /// The archive.
    ///
    /// # Errors
    ///
    /// A file of 4 GiB or more, which the format cannot hold.
    pub fn to_cpio(&self) -> Result<Vec<u8>> {
        const FOLDER: u32 = 0o040_755;
        const SYMLINK: u32 = 0o120_777;
        const DEVICE: u32 = 0o020_600;
        const FILE: u32 = 0o100_000;
        let mut archive = Vec::new();
        // The map's order has folders before what is in them, as the kernel's unpacker needs it.
        for (inode, (path, node)) in self.nodes.iter().enumerate() {
            let inode = u32::try_from(inode)?.saturating_add(1);
            let (mode, device, bytes) = match node {
                Node::Folder => (FOLDER, (0, 0), &[][..]),
                Node::File { bytes, permissions } => (FILE | permissions, (0, 0), &bytes[..]),
                Node::Symlink { target } => (SYMLINK, (0, 0), target.as_bytes()),
                Node::Device { major, minor } => (DEVICE, (*major, *minor), &[][..]),
            };
            record(&mut archive, inode, mode, device, path, bytes)
                .with_context(|| format!("archiving /{path}"))?;
        }
        record(&mut archive, 0, 0, (0, 0), "TRAILER!!!", &[])?;
        archive.resize(archive.len().next_multiple_of(512), 0);
        Ok(archive)
    }
}

fn record(
    archive: &mut Vec<u8>,
    inode: u32,
    mode: u32,
    device: (u32, u32),
    name: &str,
    bytes: &[u8],
) -> Result<()> {
    let (size, name_size) = (
        u32::try_from(bytes.len())?,
        u32::try_from(name.len())?.saturating_add(1),
    );
    // Inode, mode, owner and group, links, time, size, device of the archive, device, size of the name, check sum.
    let fields = [
        inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: name, mode, bytes.
    fn unpack(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                let digits =
                    std::str::from_utf8(&archive[start..start + 8]).expect("hexadecimal digits");
                u32::from_str_radix(digits, 16).expect("a number")
            };
            let name_start = at + 110;
            let name_end = name_start + field(11) as usize;
            let name = std::str::from_utf8(&archive[name_start..name_end - 1])
                .expect("a name")
                .to_owned();
            assert_eq!(archive[name_end - 1], 0);
            let start = name_end.next_multiple_of(4);
            let end = start + field(6) as usize;
            if name == "TRAILER!!!" {
                assert!(archive[end..].iter().all(|byte| *byte == 0));
                return found;
            }
            found.push((name, field(1), archive[start..end].to_vec()));
            at = end.next_multiple_of(4);
        }
    }

    #[test]
    fn the_archive_has_every_node_and_folders_first() {
        let mut tree = Initramfs::default();
        tree.file("/bin/deep/er/program", b"odd", 0o755)
            .symlink("/bin/sh", "busybox")
            .device("/dev/console", 5, 1);
        tree.folder("/bin");
        let nodes = unpack(&tree.to_cpio().expect("small files"));
        let names: Vec<&str> = nodes.iter().map(|node| node.0.as_str()).collect();
        assert_eq!(
            names,
            [
                "bin",
                "bin/deep",
                "bin/deep/er",
                "bin/deep/er/program",
                "bin/sh",
                "dev",
                "dev/console"
            ]
        );
        assert_eq!(
            nodes[3],
            ("bin/deep/er/program".to_owned(), 0o100_755, b"odd".to_vec())
        );
        assert_eq!(nodes[4].2, b"busybox");
        assert_eq!(nodes[6].1, 0o020_600);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let (mut one, mut two) = (Initramfs::default(), Initramfs::default());
        one.file("/a", b"1", 0o644).file("/b/c", b"2", 0o600);
        two.file("/b/c", b"2", 0o600).file("a", b"1", 0o644);
        assert_eq!(one.to_cpio().expect("small"), two.to_cpio().expect("small"));
        assert_eq!(one.to_cpio().expect("small").len() % 512, 0);
    }
}
