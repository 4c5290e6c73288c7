// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The oldest supported compiler: Debian's package, without installing it.
//!
//! It is the compiler of the oldest supported kernel package, and it needs that release's libc. So the
//! package is unpacked with everything below it, and its own dynamic linker starts it.

use crate::child::Log;
use crate::debian::{self, Release};
use crate::features::{build_one, flavours};
use crate::runner::{Context, Report};
use crate::steps::BUILD_LIMIT;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The release that ships the oldest supported compiler.
const SUITE: &str = "trixie";
/// Where a complete toolchain says so.
const COMPLETE: &str = "complete";

/// Builds the core with it in every flavour, then checks the rest of the workspace.
pub(crate) fn build(context: &mut Context) -> io::Result<Report> {
    if let Some(why) = debian::obstacle() {
        return Ok(Report::skipped("msrv", why));
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
            "Debian {SUITE} has {version}, the manifest says {wanted}"
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
    let cache = cache()?;
    fs::create_dir_all(&cache)?;
    match fetch(&cache, log) {
        Ok(toolchain) => Ok(toolchain),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
        Err(error) => {
            let last = newest_complete(&cache)?.ok_or(error)?;
            log.note("the package lists cannot be fetched; using what is here")?;
            Ok(last)
        }
    }
}

fn fetch(cache: &Path, log: &mut Log) -> io::Result<PathBuf> {
    let release = Release::update(SUITE, cache.join(format!("apt-{SUITE}")), log)?;
    let mut packages = release.closure("libstd-rust-dev", log)?;
    packages.extend(release.single("rustc", log)?);
    let toolchain = cache.join(format!("msrv-{:016x}", fnv1a(&packages.join("\n"))));
    if !toolchain.join(COMPLETE).exists() {
        let partial = cache.join("msrv-partial");
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        release.unpack("libstd-rust-dev", "rustc", &partial, log)?;
        fs::write(partial.join(COMPLETE), packages.join("\n"))?;
        fs::rename(&partial, &toolchain)?;
    }
    wrapper(&toolchain)
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

fn newest_complete(cache: &Path) -> io::Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache)? {
        let marker = entry?.path().join(COMPLETE);
        if let Ok(marked) = fs::metadata(&marker) {
            found.push((marked.modified()?, marker.with_file_name("rustc")));
        }
    }
    Ok(found.into_iter().max().map(|(_, rustc)| rustc))
}

/// `$XDG_CACHE_HOME/htlb`, or `~/.cache/htlb`.
fn cache() -> io::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))
        .map(|cache| cache.join("htlb"))
        .ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))
}

/// A hash that stays the same from one compiler to the next, unlike the standard library's.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn only_complete_toolchains_are_found() {
        let cache = env::temp_dir().join(format!("htlb-msrv-{}", std::process::id()));
        fs::create_dir_all(cache.join("msrv-1")).unwrap();
        assert_eq!(newest_complete(&cache).unwrap(), None);
        fs::write(cache.join("msrv-1").join(COMPLETE), "").unwrap();
        let found = newest_complete(&cache).unwrap();
        fs::remove_dir_all(&cache).unwrap();
        assert_eq!(found, Some(cache.join("msrv-1/rustc")));
    }
}
