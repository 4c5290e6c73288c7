// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Out-of-tree modules: Kbuild in the toolchain, against a prepared tree, with the module's crates at hand.
//!
//! A module's Kbuild file is given two variables: `HTLB_CORE`, the folder of the core's own sources, and
//! `HTLB_CRATES`, a folder with one folder per third-party crate, at the versions of the workspace's `Cargo.lock`.
//! Objects go to `target/kernel/<route>/<folder's name>`; nothing is written beside the sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use super::command::{answer, logged, replace};
use super::progress::Progress;
use super::toolchain::Bind;
use super::{workspace, Prepared};

/// The third-party crates that the core is made of in the kernel.
const CRATES: [&str; 2] = ["bitflags", "static_assertions"];

/// Builds the modules of `folder`, again only what changed; returns the `.ko` files.
///
/// # Errors
///
/// No Kbuild file, a failing build (with the end of its log), or a warning from the compilers, objtool or modpost.
pub fn build(kernel: &Prepared, folder: &Path) -> Result<Vec<PathBuf>> {
    build_against(kernel, folder, &[])
}

/// As [`build`], for modules that use what others export; `symbols` are the `Module.symvers` of those.
///
/// # Errors
///
/// As [`build`].
pub fn build_against(
    kernel: &Prepared,
    folder: &Path,
    symbols: &[PathBuf],
) -> Result<Vec<PathBuf>> {
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
    let mut make = vec![
        "make".to_owned(),
        "-C".to_owned(),
        Prepared::KDIR.to_owned(),
        format!("-j{jobs}"),
    ];
    make.extend(kernel.make_arguments());
    make.extend([
        format!("M={}", folder.display()),
        format!("MO={}", output.display()),
        format!("HTLB_CORE={}", workspace().join("htlb-core").display()),
        format!("HTLB_CRATES={}", crates.display()),
        "modules".to_owned(),
    ]);
    if !symbols.is_empty() {
        let symbols: Vec<String> = symbols
            .iter()
            .map(|symbols| symbols.display().to_string())
            .collect();
        make.push(format!("KBUILD_EXTRA_SYMBOLS={}", symbols.join(" ")));
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
    let objects: Vec<PathBuf> = order
        .lines()
        .map(|line| {
            output
                .join(Path::new(line).file_name().unwrap_or_default())
                .with_extension("ko")
        })
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

/// Puts the sources of the third-party crates into `target/`, at the versions of `Cargo.lock`.
///
/// # Errors
///
/// No registry, or a crate that `Cargo.lock` does not have.
fn vendor() -> Result<PathBuf> {
    let lock_file = workspace().join("Cargo.lock");
    let lock = fs::read_to_string(&lock_file)
        .with_context(|| format!("reading {}", lock_file.display()))?;
    let manifest = vendor_manifest(&lock)?;
    // A workspace of its own: vendoring ours would fetch every crate that any test uses.
    let folder = workspace().join("target/kernel/crates");
    let (manifest_path, vendored) = (folder.join("Cargo.toml"), folder.join("vendor"));
    let stamp = folder.join("vendored");
    if fs::read_to_string(&stamp).is_ok_and(|done| done == manifest) {
        return Ok(vendored);
    }
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    fs::write(folder.join("Cargo.lock"), &lock)?;
    fs::write(&manifest_path, &manifest)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    answer(
        Command::new(cargo)
            .arg("vendor")
            .arg("--manifest-path")
            .arg(&manifest_path)
            .arg(&vendored),
    )?;
    for name in CRATES {
        ensure!(
            vendored.join(name).join("src/lib.rs").exists(),
            "cargo did not vendor {name}"
        );
    }
    replace(&stamp, &manifest)?;
    Ok(vendored)
}

/// A manifest that depends on exactly the crates and versions that the module is made of.
fn vendor_manifest(lock: &str) -> Result<String> {
    let mut manifest =
        "[package]\nname = \"htlb-kmod-crates\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n\
                        [workspace]\n\n[dependencies]\n"
            .to_owned();
    for name in CRATES {
        let version =
            locked_version(lock, name).with_context(|| format!("Cargo.lock has no {name}"))?;
        manifest += &format!("{name} = {{ version = \"={version}\", default-features = false }}\n");
    }
    Ok(manifest)
}

fn locked_version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let package = lock
        .split("[[package]]")
        .find(|package| package.contains(&format!("\nname = \"{name}\"\n")))?;
    package
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"bitflags-derive\"\nversion = \"9.0.0\"\n\n[[package]]\n\
                    name = \"bitflags\"\nversion = \"2.13.1\"\n\n[[package]]\nname = \"static_assertions\"\nversion = \"1.1.0\"\n";
        let manifest = vendor_manifest(lock).expect("both are there");
        assert!(manifest.contains("bitflags = { version = \"=2.13.1\""));
        assert!(manifest.contains("static_assertions = { version = \"=1.1.0\""));
        assert!(vendor_manifest("version = 4\n").is_err());
    }

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
