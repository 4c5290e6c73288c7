// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The kernel's source as Debian ships it: unpacked once, for both routes, and never written to afterwards.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::archive;
use super::cache::{Cache, Entry, Leftover};
use super::command::answer;
use super::packages::Plan;
use super::progress::Progress;

/// The source's place in the cache.
pub fn entry(cache: &Cache, plan: &Plan) -> Entry {
    let deb = plan
        .kernel_debs
        .iter()
        .filter(|deb| deb.package == plan.kernel.source);
    cache.entry(
        "source",
        deb.flat_map(|deb| [deb.file.as_str(), deb.hash.as_str()]),
    )
}

/// Downloads the kernel's packages and unpacks the source.
///
/// # Errors
///
/// No mirror, a full disk.
pub fn prepare(cache: &Cache, plan: &Plan, progress: &Progress) -> Result<PathBuf> {
    entry(cache, plan).complete(Leftover::Discard, |folder| {
        let stage = progress.stage("kernel source");
        let packages = archive::download(cache, &plan.kernel_debs, &stage)?;
        let deb = plan.kernel_deb(&plan.kernel.source)?;
        stage.say("unpacking");
        // The archive inside the package need not exist on disk.
        let pipe = r#"set -e; dpkg-deb --fsys-tarfile "$1" | tar --extract --to-stdout "./usr/src/$2.tar.xz" |
            tar --extract --xz --strip-components=1 --directory="$3"; test -f "$3/Kbuild""#;
        answer(
            Command::new("sh")
                .args(["-c", pipe, "sh"])
                .arg(packages.join(&deb.file))
                .arg(&plan.kernel.source)
                .arg(folder),
        )
        .map(drop)
    })
}
