// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The test programs: built once by cargo, then run by us, in every mode.

use crate::child::Log;
use crate::workspace::Workspace;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Test programs whose one run says everything, besides all of `htlb-core`'s: they never look at the machine, or size its pools
/// themselves.
const PURE: &[&str] = &[
    "tests/hugetlbfs_oracle",
    "tests/module_by_hand",
    "tests/small_scope",
    "tests/uapi_header",
    "tests/xtask",
];

/// How long a build may take.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// A test program as cargo built it.
#[derive(Clone, Debug)]
pub(crate) struct TestProgram {
    /// The package's folder and the target's name.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The package's folder, where cargo would run it.
    pub(crate) folder: PathBuf,
}

impl TestProgram {
    /// Whether another run in another mode could show something new.
    pub(crate) fn depends_on_the_machine(&self) -> bool {
        !self.name.starts_with("htlb-core/")
            && !self.name.starts_with("tests/sim_")
            && !PURE.contains(&self.name.as_str())
    }
}

/// All test programs, and the other programs they may start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    pub(crate) tests: Vec<TestProgram>,
    /// Name and path, for `CARGO_BIN_EXE_<name>`.
    pub(crate) binaries: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Builds every test of the workspace.
    pub(crate) fn build(workspace: &Workspace, log: &mut Log) -> io::Result<Self> {
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--workspace"]);
        Self::of(cargo, log)
    }

    /// Builds what this `cargo test` would run.
    pub(crate) fn of(mut cargo: Command, log: &mut Log) -> io::Result<Self> {
        cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
        let output = log.messages(&mut cargo, BUILD_LIMIT)?;
        Ok(Self::of_messages(&output))
    }

    /// Reads cargo's messages; lines that are none are the compiler's diagnostics.
    fn of_messages(output: &str) -> Self {
        let mut programs = Self::default();
        for line in output.lines().filter(|line| line.starts_with('{')) {
            if let Ok(message) = serde_json::from_str(line) {
                programs.add(&message);
            }
        }
        programs.tests.sort_by(|a, b| a.name.cmp(&b.name));
        programs
    }

    fn add(&mut self, message: &Value) -> Option<()> {
        let executable = PathBuf::from(message["executable"].as_str()?);
        let target = message["target"]["name"].as_str()?;
        if message["profile"]["test"] == true {
            let manifest = PathBuf::from(message["manifest_path"].as_str()?);
            let folder = manifest.parent()?.to_owned();
            let package = folder.file_name()?.to_string_lossy();
            self.tests.push(TestProgram {
                name: format!("{package}/{target}"),
                executable,
                folder,
            });
        } else if message["target"]["kind"][0] == "bin" {
            self.binaries.insert(target.to_owned(), executable);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = concat!(
        "warning: something\n",
        r#"{"reason":"compiler-artifact","manifest_path":"/w/htlb-core/Cargo.toml","target":{"name":"htlb_core","kind":["lib"]},"profile":{"test":true},"executable":"/t/htlb_core-1"}"#,
        "\n",
        r#"{"reason":"compiler-artifact","manifest_path":"/w/htlb-user/Cargo.toml","target":{"name":"htlb","kind":["bin"]},"profile":{"test":false},"executable":"/t/htlb"}"#,
        "\n",
        r#"{"reason":"compiler-artifact","manifest_path":"/w/htlb-user/Cargo.toml","target":{"name":"htlb_user","kind":["lib"]},"profile":{"test":false},"executable":null}"#,
        "\n{ not json\n",
        r#"{"reason":"build-finished","success":true}"#,
    );

    #[test]
    fn tests_and_binaries_are_told_apart_from_libraries_and_noise() {
        let programs = Programs::of_messages(MESSAGES);
        assert_eq!(programs.tests.len(), 1);
        assert_eq!(programs.tests[0].name, "htlb-core/htlb_core");
        assert_eq!(programs.tests[0].folder, PathBuf::from("/w/htlb-core"));
        assert!(!programs.tests[0].depends_on_the_machine());
        assert_eq!(programs.binaries["htlb"], PathBuf::from("/t/htlb"));
    }
}
