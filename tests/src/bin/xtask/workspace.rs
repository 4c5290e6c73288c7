// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where things are, as cargo tells it.

use serde_json::Value;
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace, from `cargo metadata`.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    metadata: Value,
}

impl Workspace {
    /// The workspace `cargo run` runs this program of, else the one it was built from.
    ///
    /// They differ where several checkouts share one target folder.
    pub(crate) fn find() -> io::Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let built_from = manifest.parent().unwrap_or(&manifest);
        let output = Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(built_from)
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr)));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let folder = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .ok_or_else(|| io::Error::other(format!("cargo metadata has no {key}")))
        };
        Ok(Self {
            root: folder("workspace_root")?,
            target: folder("target_directory")?,
            metadata,
        })
    }

    /// The folder with the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where the logs are: `target/xtask`.
    pub(crate) fn logs(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// The features a package declares, without `default`.
    pub(crate) fn features(&self, package: &str) -> io::Result<Vec<String>> {
        let features = self.package(package)?["features"]
            .as_object()
            .ok_or_else(|| {
                io::Error::other(format!("{package}: cargo metadata has no features"))
            })?;
        Ok(features
            .keys()
            .filter(|name| *name != "default")
            .cloned()
            .collect())
    }

    /// The oldest compiler a package supports, as its manifest says, such as `1.85`.
    pub(crate) fn rust_version(&self, package: &str) -> io::Result<String> {
        self.package(package)?["rust_version"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| io::Error::other(format!("{package}: no rust-version in its manifest")))
    }

    /// A `cargo` command in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new("cargo");
        command.current_dir(&self.root);
        // What `cargo run` told this program about its own package would mislead build scripts below.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
    }

    fn package(&self, name: &str) -> io::Result<&Value> {
        self.metadata["packages"]
            .as_array()
            .and_then(|packages| packages.iter().find(|package| package["name"] == name))
            .ok_or_else(|| io::Error::other(format!("no package {name} in the workspace")))
    }
}
