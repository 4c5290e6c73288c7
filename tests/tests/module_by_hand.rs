// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What `htlb-kmod/Makefile` does before Kbuild begins: it refuses a tree that cannot work, saying why and what to do,
//! and fetches the third-party crates once. `cargo xtask kernel selftest` builds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const COMPILER: &str = "rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)";

fn module_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../htlb-kmod")
}

/// An empty folder for one test.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("module-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("writable");
    fs::write(path, text).expect("writable");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A tree that the module can be built against, as far as the check looks, and a compiler that says it made it.
struct Tree {
    kdir: PathBuf,
    rustc: PathBuf,
}

impl Tree {
    fn new(name: &str) -> Self {
        let folder = scratch(name);
        let tree = Self {
            kdir: folder.join("build"),
            rustc: folder.join("rustc"),
        };
        tree.put("Makefile", "");
        tree.put(
            "include/config/auto.conf",
            &format!(
                "CONFIG_RUST=y\nCONFIG_DMA_SHARED_BUFFER=y\nCONFIG_RUSTC_VERSION_TEXT=\"{COMPILER}\"\n"
            ),
        );
        tree.put(
            "include/generated/uapi/linux/version.h",
            "#define LINUX_VERSION_CODE 459264\n",
        );
        tree.put("rust/libkernel.rmeta", "");
        write(&tree.rustc, &format!("#!/bin/sh\necho '{COMPILER}'\n"));
        fs::set_permissions(&tree.rustc, fs::Permissions::from_mode(0o755)).expect("ours");
        tree
    }

    fn put(&self, file: &str, text: &str) {
        write(&self.kdir.join(file), text);
    }

    fn check(&self, rustc: &Path) -> Output {
        Command::new("sh")
            .arg(module_folder().join("scripts/check-kernel.sh"))
            .args([&self.kdir, rustc])
            .output()
            .expect("every system has sh")
    }

    /// The check fails, and its message has every one of `words`.
    fn is_refused(&self, words: &[&str]) {
        let output = self.check(&self.rustc);
        let said = said(&output);
        assert!(!output.status.success(), "accepted; {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

#[test]
fn a_tree_that_fits_is_accepted() {
    let tree = Tree::new("fits");
    let output = tree.check(&tree.rustc);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "");
}

#[test]
fn a_tree_without_rust_is_refused() {
    let tree = Tree::new("no-rust");
    tree.put("include/config/auto.conf", "CONFIG_RUST_IS_AVAILABLE=y\n");
    tree.is_refused(&["CONFIG_RUST=y", "7.2"]);
}

#[test]
fn a_tree_without_dma_bufs_is_refused() {
    let tree = Tree::new("no-dma-bufs");
    tree.put("include/config/auto.conf", "CONFIG_RUST=y\n");
    tree.is_refused(&["CONFIG_DMA_SHARED_BUFFER=y", "CONFIG_UDMABUF"]);
}

#[test]
fn what_is_no_prepared_tree_is_refused() {
    let tree = Tree::new("unprepared");
    fs::remove_file(tree.kdir.join("include/config/auto.conf")).expect("it was there");
    tree.is_refused(&["not prepared", "modules_prepare"]);
    fs::remove_dir_all(&tree.kdir).expect("it was there");
    tree.is_refused(&["no kernel tree", "KDIR="]);
}

#[test]
fn an_older_kernel_is_refused() {
    let tree = Tree::new("old");
    let version = "include/generated/uapi/linux/version.h";
    // 7.1.255
    tree.put(version, "#define LINUX_VERSION_CODE 459263\n");
    tree.is_refused(&["is 7.1;", "7.2 or later"]);
    tree.put(version, "");
    tree.is_refused(&["does not tell its version"]);
}

#[test]
fn another_compiler_is_refused() {
    let tree = Tree::new("compiler");
    write(
        &tree.rustc,
        "#!/bin/sh\necho 'rustc 1.85.1 (4eb161250 2025-03-15)'\n",
    );
    tree.is_refused(&[
        COMPILER,
        "here:   rustc 1.85.1 (4eb161250 2025-03-15)\n",
        "RUSTC=",
    ]);
    fs::remove_file(&tree.rustc).expect("it was there");
    tree.is_refused(&["cannot be run", COMPILER, "RUSTC="]);
}

#[test]
fn headers_without_the_kernels_crates_are_refused() {
    let tree = Tree::new("headers");
    fs::remove_file(tree.kdir.join("rust/libkernel.rmeta")).expect("it was there");
    tree.is_refused(&["libkernel.rmeta", "modules_prepare"]);
}

/// A cargo that writes its arguments down, and vendors empty crates.
fn false_cargo(folder: &Path) -> PathBuf {
    let cargo = folder.join("cargo");
    write(
        &cargo,
        &format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho \"$@\" >>'{}'\n\
             for to; do :; done\nfor crate in bitflags static_assertions; do\n\
             mkdir -p \"$to/$crate/src\"; : >\"$to/$crate/src/lib.rs\"\ndone\n",
            folder.join("called").display()
        ),
    );
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("ours");
    cargo
}

fn vendor(lock: &Path, into: &Path, cargo: &Path) -> Output {
    Command::new("sh")
        .arg(module_folder().join("scripts/vendor-crates.sh"))
        .args([lock, into])
        .env("CARGO", cargo)
        .output()
        .expect("every system has sh")
}

#[test]
fn crates_are_fetched_once_for_each_lock_file() {
    let folder = scratch("vendor");
    let (lock, into) = (folder.join("Cargo.lock"), folder.join("crates"));
    let package = |name: &str, version: &str| {
        format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nchecksum = \"0\"\n\n")
    };
    let locked = |bitflags: &str| {
        "version = 4\n\n".to_owned()
            + &package("bitflags-derive", "9.0.0")
            + &package("bitflags", bitflags)
            + &package("static_assertions", "1.1.0")
    };
    let cargo = false_cargo(&folder);
    let calls = || fs::read_to_string(folder.join("called")).map_or(0, |text| text.lines().count());
    for (version, expected) in [("2.13.1", 1), ("2.13.1", 1), ("2.13.2", 2)] {
        write(&lock, &locked(version));
        let output = vendor(&lock, &into, &cargo);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(calls(), expected, "{version}");
        let manifest = fs::read_to_string(into.join("Cargo.toml")).expect("a manifest");
        assert!(manifest.contains(&format!("bitflags = {{ version = \"={version}\"")));
        assert!(manifest.contains("static_assertions = { version = \"=1.1.0\""));
    }
    // What is there needs no cargo.
    let nowhere = folder.join("no-such-program");
    assert!(vendor(&lock, &into, &nowhere).status.success());
    let output = vendor(&lock, &folder.join("elsewhere"), &nowhere);
    assert!(!output.status.success());
    assert!(said(&output).contains("CARGO="), "{}", said(&output));
}

#[test]
fn a_lock_file_without_a_crate_is_an_error() {
    let folder = scratch("lock");
    let lock = folder.join("Cargo.lock");
    write(
        &lock,
        "version = 4\n\n[[package]]\nname = \"bitflags\"\nversion = \"2.13.1\"\n",
    );
    let output = vendor(&lock, &folder.join("crates"), &false_cargo(&folder));
    assert!(!output.status.success());
    assert!(said(&output).contains("has no static_assertions"));
    assert!(!folder.join("called").exists() && !folder.join("crates").exists());
}

/// `make` in the module's folder; nothing where there is no make.
fn make(test: &str, arguments: &[String]) -> Option<Output> {
    if Command::new("make").arg("--version").output().is_err() {
        htlb_tests::skip::skip(test, "make is not installed");
        return None;
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(module_folder()).args(arguments);
    Some(make.output().expect("make was there a moment ago"))
}

#[test]
fn header_and_rule_are_installed_without_a_kernel() {
    let root = scratch("install");
    let Some(output) = make(
        "header_and_rule_are_installed_without_a_kernel",
        &[
            format!("DESTDIR={}", root.display()),
            "PREFIX=/opt".to_owned(),
            "headers_install".to_owned(),
            "udev_install".to_owned(),
        ],
    ) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    for (installed, source) in [
        ("opt/include/linux/htlb.h", "include/uapi/linux/htlb.h"),
        ("opt/lib/udev/rules.d/60-htlb.rules", "udev/60-htlb.rules"),
    ] {
        let there = fs::read(root.join(installed)).expect(installed);
        assert_eq!(there, fs::read(module_folder().join(source)).expect(source));
    }
}

#[test]
fn installing_before_building_says_so() {
    let folder = scratch("unbuilt");
    let Some(output) = make(
        "installing_before_building_says_so",
        &[
            format!("HTLB_BUILD={}", folder.display()),
            format!("DESTDIR={}", folder.join("root").display()),
            "install".to_owned(),
        ],
    ) else {
        return;
    };
    assert!(!output.status.success());
    assert!(
        said(&output).contains("nothing is built in"),
        "{}",
        said(&output)
    );
    assert!(!folder.join("root").exists());
}
