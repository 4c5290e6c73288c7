// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb-core` alone, with every set of features it can be built with.
//!
//! In the workspace cargo unites the features of all members, so a set that does not compile would stay unseen.

use crate::child::Log;
use crate::runner::{Context, Report};
use crate::steps::BUILD_LIMIT;
use crate::workspace::Workspace;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

const CORE: &str = "htlb-core";

/// One way to build the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// With these features.
    Features(Vec<String>),
    /// As Kbuild does: no cargo feature, and `--cfg feature="kernel"`.
    Kernel,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Features(features) if features.is_empty() => f.write_str("no feature"),
            Self::Features(features) => f.write_str(&features.join(" and ")),
            Self::Kernel => f.write_str("as Kbuild"),
        }
    }
}

/// Every subset of the core's features, and the kernel's build.
pub(crate) fn flavours(workspace: &Workspace) -> io::Result<Vec<Flavour>> {
    let mut flavours: Vec<_> = subsets(&workspace.features(CORE)?)
        .into_iter()
        .map(Flavour::Features)
        .collect();
    flavours.push(Flavour::Kernel);
    Ok(flavours)
}

/// Builds all of them with the compiler in use; a warning is an error.
pub(crate) fn build(context: &mut Context) -> io::Result<Report> {
    let mut report = Report::default();
    let target = context.workspace.logs().join("features");
    for flavour in flavours(&context.workspace)? {
        let built = build_one(
            &context.workspace,
            &mut context.log,
            &flavour,
            &target,
            None,
        );
        report.check(&flavour.to_string(), built)?;
    }
    Ok(report)
}

/// Builds one, into a target folder of its own, with `rustc` or the compiler in use; a warning of the latter is an error.
pub(crate) fn build_one(
    workspace: &Workspace,
    log: &mut Log,
    flavour: &Flavour,
    target: &Path,
    rustc: Option<&PathBuf>,
) -> io::Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["rustc", "--package", CORE, "--lib", "--no-default-features"]);
    if let Flavour::Features(features) = flavour {
        cargo.arg("--features").arg(features.join(","));
    }
    cargo.arg("--target-dir").arg(target);
    cargo.arg("--");
    if *flavour == Flavour::Kernel {
        cargo.args(["--cfg", r#"feature="kernel""#]);
    }
    match rustc {
        Some(rustc) => cargo.env("RUSTC", rustc).env_remove("RUSTC_WRAPPER"),
        // What an old compiler warns of need not be mended.
        None => cargo.arg("--deny=warnings"),
    };
    log.must(&mut cargo, BUILD_LIMIT).map(drop)
}

fn subsets(features: &[String]) -> Vec<Vec<String>> {
    let mut sets = vec![Vec::new()];
    for feature in features {
        let with: Vec<Vec<String>> = sets
            .iter()
            .map(|set: &Vec<String>| set.iter().chain([feature]).cloned().collect())
            .collect();
        sets.extend(with);
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subset_is_there_once() {
        let features = ["a", "b", "c"].map(str::to_owned);
        let mut sets = subsets(&features);
        assert_eq!(sets.len(), 8);
        assert!(sets.contains(&Vec::new()));
        assert!(sets.contains(&features.to_vec()));
        sets.sort();
        sets.dedup();
        assert_eq!(sets.len(), 8);
    }
}
