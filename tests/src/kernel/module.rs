// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Out-of-tree modules: Kbuild in the toolchain, against a prepared tree, with the module's crates at hand.
//!
//! A folder with a Makefile beside its Kbuild file is built by that Makefile, as a person would by hand; another by
//! Kbuild at once. Both are given two variables: `HTLB_CORE`, the folder of the core's own sources, and `HTLB_CRATES`,
//! a folder with one folder per third-party crate, at the versions of the workspace's `Cargo.lock`. Modules of any
//! folder but the module's own are also given `HTLB_KMOD`, that folder, whose `include` has `linux/htlb.h`, and may use what it exports.
//! Objects go to `target/kernel/<route>/<folder's name>`; nothing is written beside the sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use super::command::{answer, logged};
use super::progress::Progress;
use super::toolchain::Bind;
use super::{workspace, Prepared};

/// The folder of the module itself; any other may hold modules that use what it exports.
const HTLB: &str = "htlb-kmod";

/// Builds the modules of `folder`, again only what changed; returns the `.ko` files.
///
/// # Errors
///
/// No Kbuild file, a failing build (with the end of its log), or a warning from the compilers, objtool or modpost.
pub fn build(kernel: &Prepared, folder: &Path) -> Result<Vec<PathBuf>> {
    let htlb = workspace().join(HTLB);
    let is_htlb = fs::canonicalize(&htlb).ok() == fs::canonicalize(folder).ok();
    if is_htlb {
        return make(kernel, folder, None);
    }
    let exported = exports(&make(kernel, &htlb, None)?)?;
    make(kernel, folder, Some(&exported))
}

/// Builds the module, and then those of `folders`, which may use what it exports; returns all `.ko` files.
///
/// # Errors
///
/// As [`build`].
pub fn build_all(kernel: &Prepared, folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut objects = make(kernel, &workspace().join(HTLB), None)?;
    let exported = exports(&objects)?;
    for folder in folders {
        objects.extend(make(kernel, folder, Some(&exported))?);
    }
    Ok(objects)
}

/// What these modules export, as modpost wrote it down beside the first of them.
fn exports(objects: &[PathBuf]) -> Result<PathBuf> {
    let beside = objects.first().and_then(|object| object.parent());
    Ok(beside
        .context("Kbuild made no module")?
        .join("Module.symvers"))
}

/// Builds `folder`; `exported` is the `Module.symvers` of what its modules use.
fn make(kernel: &Prepared, folder: &Path, exported: Option<&Path>) -> Result<Vec<PathBuf>> {
    let folder = folder
        .canonicalize()
        .with_context(|| format!("looking for {}", folder.display()))?;
    ensure!(
        folder.join("Kbuild").exists() || folder.join("Makefile").exists(),
        "{} has no Kbuild file",
        folder.display()
    );
    let name = folder.file_name().context("a module folder has a name")?;
    let crates = vendor()?;
    let output = workspace()
        .join("target/kernel")
        .join(kernel.route.to_string())
        .join(name);
    fs::create_dir_all(&output).with_context(|| format!("creating {}", output.display()))?;

    let mut binds = kernel.binds();
    binds.extend([Bind::same(workspace()), Bind::same(&folder)]);
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut make = vec!["make".to_owned(), format!("-j{jobs}")];
    make.extend(kernel.make_arguments());
    make.extend(goal(&folder, &output));
    make.extend([
        format!("HTLB_CORE={}", workspace().join("htlb-core").display()),
        format!("HTLB_CRATES={}", crates.display()),
        "modules".to_owned(),
    ]);
    if let Some(exported) = exported {
        make.push(format!("KBUILD_EXTRA_SYMBOLS={}", exported.display()));
        make.push(format!("HTLB_KMOD={}", workspace().join(HTLB).display()));
    }
    let progress = Progress::new(format!("modules for the {} kernel", kernel.route));
    let stage = progress.stage(format!(
        "{} for the {} kernel",
        name.to_string_lossy(),
        kernel.route
    ));
    let log = output.join("build.log");
    if log.exists() {
        fs::remove_file(&log)?;
    }
    logged(&mut kernel.toolchain.enter(&binds, &make), &log, &stage)?;
    drop(stage);
    let said = fs::read_to_string(&log)?;
    if let Err(warning) = refuse_warnings(&said) {
        // An incremental build would not repeat it.
        fs::remove_dir_all(&output)?;
        return Err(warning);
    }
    objects(&output)
}

/// The `.ko` files that Kbuild says it made, in its order.
fn objects(output: &Path) -> Result<Vec<PathBuf>> {
    let order =
        fs::read_to_string(output.join("modules.order")).context("Kbuild made no module")?;
    // A module of a folder below has the folder in its line.
    let objects: Vec<PathBuf> = order
        .lines()
        .map(|line| output.join(line).with_extension("ko"))
        .collect();
    for object in &objects {
        ensure!(object.exists(), "{} was not made", object.display());
    }
    Ok(objects)
}

/// Fails if a compiler, objtool or modpost had something to say.
fn refuse_warnings(log: &str) -> Result<()> {
    let found: Vec<&str> = log
        .lines()
        .filter(|line| line.to_ascii_lowercase().contains("warning:"))
        .collect();
    if !found.is_empty() {
        bail!("the build warns:\n{}", found.join("\n"));
    }
    Ok(())
}

/// Which Makefile is to build `folder` into `output`, and how it is told.
fn goal(folder: &Path, output: &Path) -> [String; 4] {
    let by_hand = ["Kbuild", "Makefile"]
        .iter()
        .all(|name| folder.join(name).exists());
    let (folder, output) = (folder.display(), output.display());
    if by_hand {
        [
            "-C".to_owned(),
            folder.to_string(),
            format!("KDIR={}", Prepared::KDIR),
            format!("HTLB_BUILD={output}"),
        ]
    } else {
        [
            "-C".to_owned(),
            Prepared::KDIR.to_owned(),
            format!("M={folder}"),
            format!("MO={output}"),
        ]
    }
}

/// Puts the sources of the third-party crates into `target/`, where `htlb-kmod/Makefile` looks for them too; it is
/// done outside the toolchain, which has no cargo.
///
/// # Errors
///
/// No registry, or a crate that `Cargo.lock` does not have.
pub(super) fn vendor() -> Result<PathBuf> {
    let folder = workspace().join("target/kmod/crates");
    answer(
        Command::new("sh")
            .arg(workspace().join("htlb-kmod/scripts/vendor-crates.sh"))
            .arg(workspace().join("Cargo.lock"))
            .arg(&folder),
    )?;
    Ok(folder.join("vendor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_fails_the_build() {
        refuse_warnings("  RUSTC L [M] htlb_core.o\n  LD [M]  htlb.ko\n").expect("nothing said");
        for warning in [
            "warning: unused variable",
            "x.o: warning: objtool: y",
            "WARNING: modpost: z",
        ] {
            refuse_warnings(warning).expect_err(warning);
        }
    }
}
