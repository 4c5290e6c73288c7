// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The guest's first process: a busybox script that sets the machine up, loads the modules, and runs the test or
//! a shell.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Where the test is in the guest.
pub const SCRIPT: &str = "/test";

/// How the guest says that it reached its end, on the results' port.
pub const END: &str = "HTLB-GUEST-END";

/// What the guest adds to its exit status before it writes it to QEMU's exit port, so that no status of its own
/// looks like QEMU's own failure.
pub const EXIT_BASE: i32 = 16;

/// The guest's status if the kernel was tainted before any module was loaded: nothing was run.
pub const TAINTED_AT_BOOT: i32 = 96;

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    name: String,
    parameters: String,
}

impl Module {
    /// The module in the file `object`.
    ///
    /// # Errors
    ///
    /// The file is not called like a module.
    pub fn new(object: &Path, parameters: &str) -> Result<Self> {
        let name =
            module_name(object).with_context(|| format!("{} is no module", object.display()))?;
        Ok(Self {
            name,
            parameters: parameters.to_owned(),
        })
    }

    /// Where its file is in the guest.
    pub fn place(&self) -> String {
        format!("/lib/modules/{}.ko", self.name)
    }

    /// Whether this is the module of that name; the kernel makes no difference between dashes and underscores.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name.replace('-', "_")
    }
}

/// The name by which the kernel knows the module in a file.
pub fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let name = name
        .strip_suffix(".xz")
        .or_else(|| name.strip_suffix(".zst"))
        .unwrap_or(name);
    Some(name.strip_suffix(".ko")?.replace('-', "_"))
}

/// What a module says of itself that it needs.
pub fn dependencies(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = object.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = object[start..]
        .iter()
        .skip(KEY.len())
        .take_while(|byte| **byte != 0)
        .copied()
        .collect();
    let names = String::from_utf8(value).unwrap_or_default();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

const SET_UP: &str = r"#!/bin/sh
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
";

/// Looks for leaks, where the kernel can. The allocator's caches are emptied first: they keep the addresses of what
/// they last gave out, and kmemleak takes these for references. An object must be some seconds old to be reported, and
/// unchanged between two scans.
const LEAKS: &str = r"
leaks=/sys/kernel/debug/kmemleak
if [ -e $leaks ]; then
	for cache in /sys/kernel/slab/*/shrink; do echo 1 >$cache; done 2>/dev/null
	sleep 6
	echo scan >$leaks
	echo scan >$leaks
	cat $leaks
fi
";

/// The script of a test run.
///
/// Modules leave in the reverse order, and one that cannot leave is a failure.
pub fn test(modules: &[Module]) -> String {
    let mut script = SET_UP.to_owned();
    script += "exec >/dev/ttyS1 2>&1\nstatus=0\n";
    let _ = writeln!(
        script,
        "[ $(cat /proc/sys/kernel/tainted) = 0 ] || status={TAINTED_AT_BOOT}"
    );
    for module in modules {
        let _ = writeln!(
            script,
            "[ $status = 0 ] && {{ insmod {} {} || status=97; }}",
            module.place(),
            module.parameters
        );
    }
    let _ = writeln!(
        script,
        "[ $status = 0 ] && {{ cd /root; {SCRIPT}; status=$?; cd /; }}"
    );
    for module in modules.iter().rev() {
        let _ = writeln!(
            script,
            "grep -q '^{0} ' /proc/modules && {{ rmmod {0} || status=98; }}",
            module.name
        );
    }
    script += LEAKS;
    let _ = writeln!(
        script,
        "echo \"{END} status=$status taint=$(cat /proc/sys/kernel/tainted)\""
    );
    let _ = writeln!(script, "[ $status -gt 100 ] && status=100");
    let _ = writeln!(script, "octal=$(printf %03o $((status + {EXIT_BASE})))");
    script += "printf \"\\\\$octal\" | dd of=/dev/port bs=1 count=1 seek=244 conv=notrunc 2>/dev/null\npoweroff -f\n";
    script
}

/// The script of an interactive session: the machine goes off when the shell ends.
pub fn shell(modules: &[Module]) -> String {
    let mut script = SET_UP.to_owned();
    for module in modules {
        let _ = writeln!(script, "insmod {} {}", module.place(), module.parameters);
    }
    script += "echo; echo 'The prompt of the guest: exit (or Ctrl-A X) ends it.'\n";
    script += "cd /root; setsid cttyhack sh -l\npoweroff -f\n";
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_known_by_the_kernels_name() {
        assert_eq!(
            module_name(Path::new("/x/snd-acp.ko.xz")).as_deref(),
            Some("snd_acp")
        );
        assert_eq!(module_name(Path::new("htlb.ko")).as_deref(), Some("htlb"));
        assert_eq!(module_name(Path::new("modules.dep")), None);
        assert!(Module::new(Path::new("brd.txt"), "").is_err());
        assert!(Module::new(Path::new("a-b.ko"), "")
            .is_ok_and(|module| module.is_named("a-b") && module.is_named("a_b")));
    }

    #[test]
    fn dependencies_are_read_from_the_module_itself() {
        assert_eq!(
            dependencies(b"\0license=GPL\0depends=a,b\0x=1\0"),
            ["a", "b"]
        );
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn modules_come_in_order_and_leave_in_reverse() {
        let module = |name: &str| Module {
            name: name.to_owned(),
            parameters: "x=1".to_owned(),
        };
        let script = test(&[module("one"), module("two")]);
        let at = |text: &str| {
            script
                .find(text)
                .unwrap_or_else(|| panic!("no {text} in {script}"))
        };
        let order = [
            at("insmod /lib/modules/one.ko x=1"),
            at("insmod /lib/modules/two.ko"),
            at(SCRIPT),
            at("rmmod two"),
            at("rmmod one"),
            at(END),
            at("/dev/port"),
        ];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
