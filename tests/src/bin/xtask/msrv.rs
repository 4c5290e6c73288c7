// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The oldest supported compiler: Debian's package, without installing it.
//!
//! It is the compiler of the oldest supported kernel package, and it needs that release's libc. So the
//! package is unpacked with everything below it, and its own dynamic linker starts it.

use crate::child::Log;
use crate::features::{build_one, flavours};
use crate::runner::{Context, Report};
use crate::steps::BUILD_LIMIT;
use htlb_tests::kernel::apt::{Apt, RELEASE};
use htlb_tests::kernel::archive;
use htlb_tests::kernel::cache::{Cache, Leftover};
use htlb_tests::kernel::progress::Progress;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What its folders in the cache are called.
const ENTRY: &str = "msrv";

/// Builds the core with it in every flavour, then checks the rest of the workspace.
pub(crate) fn build(context: &mut Context) -> io::Result<Report> {
    if let Err(why) = archive::require_host_tools() {
        return Ok(Report::skipped("msrv", &format!("{why:#}")));
    }
    let mut report = Report::default();
    let rustc = compiler(&mut context.log)?;
    let version = context.log.must(
        Command::new(&rustc).arg("--version"),
        Duration::from_secs(60),
    )?;
    let version = version.trim();
    let wanted = context.workspace.rust_version("htlb-core")?;
    if !version.starts_with(&format!("rustc {wanted}.")) {
        return Err(io::Error::other(format!(
            "Debian {RELEASE} has {version}, the manifest says {wanted}"
        )));
    }
    report.remarks.push(version.to_owned());

    let target = context.workspace.logs().join("msrv");
    for flavour in flavours(&context.workspace)? {
        let built = build_one(
            &context.workspace,
            &mut context.log,
            &flavour,
            &target,
            Some(&rustc),
        );
        report.check(&flavour.to_string(), built)?;
    }
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["check", "--workspace", "--target-dir"])
        .arg(&target)
        .env("RUSTC", &rustc);
    let checked = context.log.must(&mut cargo, BUILD_LIMIT).map(drop);
    report.check("the workspace", checked)?;
    Ok(report)
}

/// The compiler's wrapper: unpacked before, or fetched now; the last one fetched if there is no network.
fn compiler(log: &mut Log) -> io::Result<PathBuf> {
    let cache = Cache::open().map_err(io::Error::other)?;
    let toolchain = match fetch(&cache) {
        Ok(toolchain) => toolchain,
        Err(error) => {
            let mut kept = cache.complete_entries(ENTRY).map_err(io::Error::other)?;
            let error = io::Error::other(format!("{error:#}"));
            log.note(&format!("using what is here: {error}"))?;
            kept.pop().ok_or(error)?
        }
    };
    wrapper(&toolchain)
}

/// Unpacks the compiler, and below its libraries all that those depend on; it links nothing, so no linker.
fn fetch(cache: &Cache) -> anyhow::Result<PathBuf> {
    let _lock = cache.lock()?;
    let apt = Apt::configure(cache)?;
    apt.update()?;
    let mut debs = apt.closure(&["libstd-rust-dev"])?;
    let with_linker = apt.closure(&["rustc"])?;
    debs.extend(with_linker.into_iter().filter(|deb| deb.package == "rustc"));
    let inputs = debs.iter().flat_map(|deb| [&deb.file, &deb.hash]);
    let progress = Progress::unseen(ENTRY.to_owned());
    cache
        .entry(ENTRY, inputs)
        .complete(Leftover::Discard, |folder| {
            let stage = progress.stage(ENTRY);
            let packages = archive::download(cache, &debs, &stage)?;
            archive::unpack(&packages, &debs, folder, &stage)
        })
}

/// A script that starts the compiler with its own dynamic linker and libraries.
///
/// Programs it builds, such as build scripts, are linked by the system's linker against the system's libc.
fn wrapper(toolchain: &Path) -> io::Result<PathBuf> {
    let missing = |what: &str| io::Error::other(format!("the packages contain no {what}"));
    let lib = toolchain.join("usr/lib");
    let libraries = fs::read_dir(&lib)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|folder| folder.join("libc.so.6").exists())
        .ok_or_else(|| missing("libc"))?;
    let linker = fs::read_dir(&libraries)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ld-linux") || name.starts_with("ld64.so")
        })
        .ok_or_else(|| missing("dynamic linker"))?;
    let rustc = toolchain.join("usr/bin/rustc");
    let script = format!(
        "#!/bin/sh\nexec '{}' --argv0 '{rustc}' --library-path '{}' '{rustc}' \"$@\"\n",
        linker.display(),
        libraries.display(),
        rustc = rustc.display()
    );
    let path = toolchain.join("rustc");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
