// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The debug route: a kernel of `tinyconfig` and the fragment `htlb-kmod/kernel/debug.config`, built by clang
//! (KASAN and Rust together need it).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{ensure, Context, Result};

use super::cache::{Cache, Entry, Leftover};
use super::command::{answer, logged};
use super::packages::Plan;
use super::progress::Progress;
use super::toolchain::{self, Toolchain};
use super::{source, tree_binds, workspace, Prepared, Route};

/// Counts changes to how the kernel is made.
const RECIPE: &str = "recipe 1";

/// What every `make` on the tree needs.
pub(super) fn make_arguments() -> Vec<String> {
    // The image should not tell who built it where.
    vec![
        "LLVM=-19".into(),
        "KBUILD_BUILD_USER=htlb".into(),
        "KBUILD_BUILD_HOST=htlb".into(),
    ]
}

fn fragment() -> Result<String> {
    let path = workspace().join("htlb-kmod/kernel/debug.config");
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// The kernel's place in the cache.
///
/// # Errors
///
/// The fragment cannot be read.
pub fn entry(cache: &Cache, plan: &Plan) -> Result<Entry> {
    let made_of = [toolchain::entry(cache, plan), source::entry(cache, plan)];
    let made_of = made_of.iter().map(Entry::name);
    Ok(cache.entry("debug", made_of.chain([fragment()?, RECIPE.to_owned()])))
}

/// Configures and builds the kernel.
///
/// # Errors
///
/// A failing build, or a line of the fragment that the configuration did not keep.
pub fn prepare(
    cache: &Cache,
    plan: &Plan,
    toolchain: Toolchain,
    source: PathBuf,
    progress: &Progress,
) -> Result<Prepared> {
    let entry = entry(cache, plan)?.complete(Leftover::Resume, |folder| {
        let log = folder.join("prepare.log");
        let build = folder.join("build");
        fs::create_dir_all(&build)?;
        let make = |goals: &[&str]| -> Command {
            let jobs = thread::available_parallelism().map_or(1, usize::from);
            let arguments =
                ["make", "-C", "/htlb/source", "O=/htlb/kernel/build"].map(str::to_owned);
            let arguments = arguments.into_iter().chain(make_arguments());
            let goals = goals.iter().map(|goal| (*goal).to_owned());
            toolchain.enter(
                &tree_binds(&source, folder),
                arguments.chain([format!("-j{jobs}")]).chain(goals),
            )
        };
        let stage = progress.stage("configuration");
        logged(&mut make(&["tinyconfig"]), &log, &stage)?;
        // Of two settings of one symbol, the later one counts.
        let fragment = fragment()?;
        OpenOptions::new()
            .append(true)
            .open(build.join(".config"))?
            .write_all(fragment.as_bytes())?;
        logged(&mut make(&["olddefconfig"]), &log, &stage)?;
        let lost = lost_settings(&fragment, &fs::read_to_string(build.join(".config"))?);
        ensure!(
            lost.is_empty(),
            "the configuration did not keep: {}",
            lost.join(", ")
        );
        drop(stage);

        let stage = progress.stage("kernel");
        logged(&mut make(&["bzImage", "modules"]), &log, &stage)?;
        let release = ["cat", "/htlb/kernel/build/include/config/kernel.release"];
        let release = answer(&mut toolchain.enter(&tree_binds(&source, folder), release))?;
        ensure!(!release.trim().is_empty(), "the kernel has no name");
        Ok(())
    })?;
    Ok(Prepared {
        route: Route::Debug,
        release: read_release(&entry)?,
        image: entry.join("build/arch/x86/boot/bzImage"),
        modules: None,
        toolchain,
        source,
        entry,
    })
}

fn read_release(entry: &Path) -> Result<String> {
    let path = entry.join("build/include/config/kernel.release");
    let release =
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(release.trim().to_owned())
}

/// The lines of `fragment` that `config` contradicts: Kconfig drops without a word what depends on something that
/// is off.
fn lost_settings<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let has = |wanted: &str| config.lines().any(|line| line == wanted);
    let is_set = |symbol: &str| {
        config
            .lines()
            .any(|line| line.split('=').next() == Some(symbol))
    };
    fragment
        .lines()
        .filter(|line| {
            match line
                .strip_prefix("# ")
                .and_then(|rest| rest.strip_suffix(" is not set"))
            {
                Some(symbol) => is_set(symbol),
                None => line.starts_with("CONFIG_") && !has(line),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_settings_are_found_and_absent_ones_count_as_off() {
        let fragment = "# A word.\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_N=7\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=77\nCONFIG_D=m\nCONFIG_DD=y\n";
        assert_eq!(
            lost_settings(fragment, config),
            ["CONFIG_B=y", "CONFIG_N=7", "# CONFIG_D is not set"]
        );
    }

    #[test]
    fn the_fragment_sets_no_symbol_twice() {
        let fragment = fragment().expect("the repository has it");
        let mut symbols: Vec<&str> = fragment
            .lines()
            .filter_map(|line| {
                line.strip_prefix("# ")
                    .unwrap_or(line)
                    .split(['=', ' '])
                    .next()
            })
            .filter(|symbol| symbol.starts_with("CONFIG_"))
            .collect();
        let all = symbols.len();
        symbols.sort_unstable();
        symbols.dedup();
        assert!(all > 100 && symbols.len() == all);
    }
}
