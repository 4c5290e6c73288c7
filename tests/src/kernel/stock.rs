// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The stock route: Debian's image as it is, and a tree that modules for it are built against.
//!
//! Debian's header packages carry no Rust metadata, so the Rust part of the tree is built from Debian's source
//! with Debian's configuration and Debian's compiler. Rust symbol names contain a hash of the compiler's version:
//! the preparation fails unless the tree's names are exactly those that the image exports.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{ensure, Context, Result};

use super::archive;
use super::cache::{Cache, Entry, Leftover};
use super::command::{answer, logged};
use super::packages::{KernelPackages, Plan};
use super::progress::Progress;
use super::toolchain::{self, Toolchain};
use super::{source, tree_binds, Prepared, Route};

/// Counts changes to how the tree is made.
const RECIPE: &str = "recipe 1";

/// What every `make` on the tree needs: the compilers of Debian's build, and Debian's name for the kernel, which
/// the source alone does not know.
pub(super) fn make_arguments(release: &str) -> Vec<String> {
    vec![
        "CC=x86_64-linux-gnu-gcc-14".into(),
        "HOSTCC=gcc-14".into(),
        format!("KERNELRELEASE={release}"),
    ]
}

/// The tree's place in the cache.
pub fn entry(cache: &Cache, plan: &Plan) -> Entry {
    let made_of = [toolchain::entry(cache, plan), source::entry(cache, plan)];
    let made_of = made_of.iter().map(Entry::name);
    let debs = plan.kernel_debs.iter().map(|deb| deb.hash.clone());
    cache.entry("stock", made_of.chain(debs).chain([RECIPE.to_owned()]))
}

/// Unpacks the image and builds the tree.
///
/// # Errors
///
/// A failing build, or a tree that does not match the image.
pub fn prepare(
    cache: &Cache,
    plan: &Plan,
    toolchain: Toolchain,
    source: PathBuf,
    progress: &Progress,
) -> Result<Prepared> {
    let release = plan.kernel.release.clone();
    let entry = entry(cache, plan).complete(Leftover::Resume, |folder| {
        let stage = progress.stage("Debian's image and modules");
        let packages = archive::download(cache, &plan.kernel_debs, &stage)?;
        unpack_image(&packages, plan, folder)?;
        drop(stage);

        let stage = progress.stage("a tree that matches it");
        let log = folder.join("prepare.log");
        let make = |goals: &[&str]| -> Command {
            let jobs = thread::available_parallelism().map_or(1, usize::from);
            let arguments =
                ["make", "-C", "/htlb/source", "O=/htlb/kernel/build"].map(str::to_owned);
            let arguments = arguments.into_iter().chain(make_arguments(&release));
            let goals = goals.iter().map(|goal| (*goal).to_owned());
            toolchain.enter(
                &tree_binds(&source, folder),
                arguments.chain([format!("-j{jobs}")]).chain(goals),
            )
        };
        let (headers, build) = (header_folder(folder, &plan.kernel), folder.join("build"));
        fs::create_dir_all(&build)?;
        copy(&headers.join(".config"), &build.join(".config"))?;
        logged(&mut make(&["olddefconfig"]), &log, &stage)?;
        logged(&mut make(&["modules_prepare"]), &log, &stage)?;
        // The image's exported symbols, and its BTF: modpost and pahole look for them here.
        copy(
            &headers.join("Module.symvers"),
            &build.join("Module.symvers"),
        )?;
        copy(&headers.join("vmlinux"), &build.join("vmlinux"))?;
        require_same_symbols(&toolchain, &source, folder)
    })?;
    Ok(Prepared {
        route: Route::Stock,
        image: module_folder(&entry, &release).join("vmlinuz"),
        modules: Some(module_folder(&entry, &release)),
        release,
        toolchain,
        source,
        entry,
    })
}

fn header_folder(entry: &Path, kernel: &KernelPackages) -> PathBuf {
    entry.join("debian/usr/src").join(kernel.headers())
}

fn module_folder(entry: &Path, release: &str) -> PathBuf {
    entry.join("debian/usr/lib/modules").join(release)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {}", from.display()))
}

fn unpack_image(packages: &Path, plan: &Plan, folder: &Path) -> Result<()> {
    let debian = folder.join("debian");
    if debian.exists() {
        fs::remove_dir_all(&debian)?;
    }
    fs::create_dir_all(debian.join("usr/lib"))?;
    for package in [
        plan.kernel.headers(),
        plan.kernel.binary(),
        plan.kernel.modules(),
    ] {
        let deb = plan.kernel_deb(&package)?;
        answer(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(packages.join(&deb.file))
                .arg(&debian),
        )?;
    }
    // depmod looks below /lib.
    if !debian.join("lib").exists() {
        symlink("usr/lib", debian.join("lib"))?;
    }
    Ok(())
}

/// Fails unless every Rust symbol that the image exports is one that the tree's own objects define, and the
/// other way round.
fn require_same_symbols(toolchain: &Toolchain, source: &Path, folder: &Path) -> Result<()> {
    let symvers = fs::read_to_string(folder.join("build/Module.symvers"))?;
    let exported: BTreeSet<&str> = symvers
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t').skip(1);
            let (symbol, object) = (fields.next()?, fields.next()?);
            (symbol.starts_with("_R") && object == "vmlinux").then_some(symbol)
        })
        .collect();
    let objects =
        ["core", "kernel", "bindings"].map(|name| format!("/htlb/kernel/build/rust/{name}.o"));
    let nm = ["nm", "--defined-only", "--extern-only", "--format=posix"].map(str::to_owned);
    let listing =
        answer(&mut toolchain.enter(&tree_binds(source, folder), nm.into_iter().chain(objects)))?;
    let defined: BTreeSet<&str> = listing
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|symbol| symbol.starts_with("_R"))
        .collect();
    let foreign = exported.difference(&defined).count();
    ensure!(
        foreign == 0 && !exported.is_empty(),
        "{foreign} of the {} Rust symbols that Debian's image exports are not in the tree: \
         the image was built by another compiler than the mirror's",
        exported.len()
    );
    Ok(())
}
