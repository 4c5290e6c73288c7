// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `cargo xtask kernel selftest`: the module's own Makefile as a stranger uses it. A tree for dkms is staged, and
//! built from that tree alone, where neither cargo nor this repository is; then again, and after a change of the core.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{ensure, Context, Result};

use super::command::answer;
use super::toolchain::Bind;
use super::{module, prepare, workspace, Prepared, Route};

/// What is compiled once, whatever changes in the core.
const THIRD_PARTY: [&str; 2] = ["bitflags.o", "static_assertions.o"];

/// Runs every check; the last line is `N passed, M failed`.
///
/// # Errors
///
/// The kernel cannot be prepared, or a check failed.
pub fn run() -> Result<()> {
    let kernel = prepare(Route::Stock)?;
    let staged = Staged::new(&kernel)?;
    let checks: [(&str, &dyn Fn() -> Result<()>); 4] = [
        ("the staged tree is built from itself alone", &|| {
            staged.is_built_whole()
        }),
        ("a second build compiles nothing", &|| {
            staged.is_built_once()
        }),
        (
            "a change of the core compiles the core and what uses it",
            &|| staged.is_built_in_part(),
        ),
        ("what is installed lies where it is looked for", &|| {
            staged.is_installed()
        }),
    ];
    let mut failed: usize = 0;
    for (name, check) in &checks {
        let started = Instant::now();
        let verdict = check();
        let took = started.elapsed().as_secs_f64();
        match verdict {
            Ok(()) => println!("ok      {name} ({took:.1} s)"),
            Err(error) => {
                failed = failed.saturating_add(1);
                println!("FAILED  {name} ({took:.1} s)\n{error:#}");
            }
        }
    }
    println!(
        "{} passed, {failed} failed",
        checks.len().saturating_sub(failed)
    );
    ensure!(failed == 0, "the module cannot be built by hand");
    Ok(())
}

/// The tree that dkms would copy.
struct Staged<'a> {
    kernel: &'a Prepared,
    tree: PathBuf,
}

impl<'a> Staged<'a> {
    fn new(kernel: &'a Prepared) -> Result<Self> {
        module::vendor()?;
        let tree = workspace()
            .join("target/dkms")
            .join(format!("htlb-{}", env!("CARGO_PKG_VERSION")));
        let make = ["make", "-C", "htlb-kmod", "dist-dkms"];
        answer(&mut kernel.toolchain.enter(&[Bind::same(workspace())], make))?;
        ensure!(
            tree.join("dkms.conf").exists(),
            "{} was not staged",
            tree.display()
        );
        let objects = tree.join("objects");
        ensure!(!objects.exists(), "{} is not new", objects.display());
        Ok(Self { kernel, tree })
    }

    /// Calls the staged Makefile, with nothing of this machine in sight but the kernel and the tree.
    fn make(&self, more: &[&str]) -> Result<String> {
        let mut binds = self.kernel.binds();
        binds.push(Bind::same(&self.tree));
        let mut make = vec!["make".to_owned(), "-C".into(), "htlb-kmod".into()];
        make.extend(self.kernel.make_arguments());
        make.push(format!("KDIR={}", Prepared::KDIR));
        // As dkms.conf has it.
        make.push("HTLB_BUILD=../objects".into());
        make.extend(more.iter().map(|word| (*word).to_owned()));
        answer(&mut self.kernel.toolchain.enter(&binds, make))
    }

    fn is_built_whole(&self) -> Result<()> {
        let compiled = compiled(&self.make(&["modules"])?);
        for object in THIRD_PARTY.iter().chain(&["htlb_core.o", "htlb_main.o"]) {
            ensure!(
                compiled.iter().any(|name| name == object),
                "{object} was not compiled, but {compiled:?}"
            );
        }
        let conf = fs::read_to_string(self.tree.join("dkms.conf"))?;
        let made: BTreeSet<String> = fs::read_to_string(self.tree.join("objects/modules.order"))?
            .lines()
            .map(|line| format!("objects/{}", line.replace(".o", ".ko")))
            .collect();
        let named: BTreeSet<String> = built_modules(&conf).into_iter().collect();
        ensure!(
            made == named,
            "the build makes {made:?}, and dkms.conf names {named:?}"
        );
        Ok(())
    }

    fn is_built_once(&self) -> Result<()> {
        let compiled = compiled(&self.make(&["modules"])?);
        ensure!(compiled.is_empty(), "compiled again: {compiled:?}");
        Ok(())
    }

    fn is_built_in_part(&self) -> Result<()> {
        let source = self.tree.join("htlb-core/src/units.rs");
        OpenOptions::new()
            .append(true)
            .open(&source)
            .and_then(|mut file| file.write_all(b"// Changed.\n"))
            .with_context(|| format!("changing {}", source.display()))?;
        let output = self.make(&["modules"])?;
        let compiled = compiled(&output);
        ensure!(
            compiled.iter().any(|name| name == "htlb_core.o")
                && compiled.iter().any(|name| name == "htlb_main.o"),
            "not compiled again: the core and the module; only {compiled:?}"
        );
        let idle: Vec<_> = compiled
            .iter()
            .filter(|name| THIRD_PARTY.contains(&name.as_str()))
            .collect();
        ensure!(
            idle.is_empty() && !output.contains("\n  CC "),
            "compiled without need: {compiled:?}"
        );
        Ok(())
    }

    fn is_installed(&self) -> Result<()> {
        let root = self.tree.join("installed");
        self.make(&[&format!("DESTDIR={}", root.display()), "install"])?;
        for file in [
            "usr/include/linux/htlb.h",
            "usr/lib/udev/rules.d/60-htlb.rules",
        ] {
            ensure!(root.join(file).exists(), "{file} was not installed");
        }
        let modules = root
            .join("lib/modules")
            .join(&self.kernel.release)
            .join("updates");
        ensure!(
            names_in(&modules)?
                .iter()
                .any(|name| name.starts_with("htlb.ko")),
            "no htlb.ko below {}",
            modules.display()
        );
        Ok(())
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

/// The objects that Kbuild says it compiled: lines such as `  RUSTC [M] htlb_main.o`.
fn compiled(output: &str) -> Vec<String> {
    output
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let tool = words.next()?;
            let object = words.last()?;
            ["RUSTC", "CC", "AS"]
                .contains(&tool)
                .then(|| object.to_owned())
        })
        .collect()
}

/// The modules that a dkms.conf says the build leaves, below the tree.
fn built_modules(conf: &str) -> Vec<String> {
    let values = |key: &str| -> Vec<String> {
        conf.lines()
            .filter_map(|line| line.trim_start().strip_prefix(key)?.split('"').nth(1))
            .map(str::to_owned)
            .collect()
    };
    values("BUILT_MODULE_LOCATION[")
        .into_iter()
        .zip(values("BUILT_MODULE_NAME["))
        .map(|(folder, name)| format!("{folder}/{name}.ko"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kbuilds_lines_are_told_from_makes() {
        let output =
            "make[1]: Entering directory '/x'\n  RUSTC L [M] htlb_core.o\n  CC [M]  htlb_c.o\n\
                      \x20 LD [M]  htlb.ko\n  UPD     /x/Makefile\n";
        assert_eq!(compiled(output), ["htlb_core.o", "htlb_c.o"]);
    }

    #[test]
    fn the_configuration_names_a_module() {
        let conf = include_str!("../../../htlb-kmod/dkms.conf");
        assert!(built_modules(conf).contains(&"objects/htlb.ko".to_owned()));
    }
}
