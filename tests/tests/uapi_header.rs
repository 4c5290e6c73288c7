// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The C header of `/dev/htlb` says what the Rust records say.
//!
//! Three sides: the list below, which the compiler of the records fills with offsets, sizes and values; the header,
//! as a C and a C++ compiler understand it; and the text of `htlb-core/src/uapi`. What one side names and another
//! does not is a difference, so that nothing can be added, or forgotten, on one side alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use htlb_core::uapi::{
    self, Create, CreateFlags, Info, LimitFlags, Record, ResizeFlags, SealFlags,
};
use htlb_core::Fallback;

const HEADER: &str = include_str!("../../htlb-kmod/include/uapi/linux/htlb.h");
const RECORDS: &str = include_str!("../../htlb-core/src/uapi/mod.rs");
const REQUEST: &str = include_str!("../../htlb-core/src/uapi/request.rs");

/// What is known of a name of the header: `htlb_punch`, `htlb_punch.len`, `HTLB_IOC_PUNCH`.
type Facts = BTreeMap<String, String>;

trait Integer {
    const SIGN: &'static str;
}

impl Integer for u32 {
    const SIGN: &'static str = "unsigned";
}
impl Integer for u64 {
    const SIGN: &'static str = "unsigned";
}
impl Integer for i32 {
    const SIGN: &'static str = "signed";
}
impl<T: Integer, const N: usize> Integer for [T; N] {
    const SIGN: &'static str = T::SIGN;
}

/// Size and sign of the field that `_of` projects to.
fn shape<R, F: Integer>(_of: fn(&R) -> &F) -> String {
    format!("{} {}", size_of::<F>(), F::SIGN)
}

macro_rules! records {
    ($($record:ident { $($field:ident)* })*) => {
        fn record_facts() -> Facts {
            let mut facts = Facts::new();
            $(
                let c = format!("htlb_{}", stringify!($record).to_lowercase());
                let upper = stringify!($record).to_uppercase();
                facts.insert(c.clone(), size_of::<uapi::$record>().to_string());
                for (field, offset, shape) in [
                    ("size", offset_of!(uapi::$record, size), shape(|record: &uapi::$record| &record.size)),
                    $((
                        stringify!($field),
                        offset_of!(uapi::$record, $field),
                        shape(|record: &uapi::$record| &record.$field),
                    ),)*
                ] {
                    facts.insert(format!("{c}.{field}"), format!("{offset} {shape}"));
                }
                facts.insert(format!("HTLB_IOC_{upper}"), uapi::$record::IOCTL.to_string());
                facts.insert(format!("HTLB_{upper}_SIZE_VER0"), <uapi::$record as Record>::FIRST_SIZE.to_string());
            )*
            facts
        }
    };
}

records! {
    Create { flags bytes capacity page_bytes alignment contiguous nodes node_policy dma_bits gfp fallback reserved }
    Populate { flags offset len populated }
    Reserve { flags offset len promised }
    Punch { flags offset len removed unpromised }
    Truncate { flags bytes removed unpromised }
    Seal { flags }
    Info { flags bytes capacity populated promised pins seals page_bytes extent_bytes rungs }
    Lookup { flags offset physical page_bytes node reserved }
    Export { flags offset len fd reserved }
    Stats {
        flags page_bytes node version total free reserved surplus overcommit available limbo donated spare
    }
    Resize { flags page_bytes target node reserved reached }
    Limit { flags page_bytes max min uid reserved used }
    Import { flags offset len memfd reserved }
}

/// The constants that are no flags: name in the header, name in the sources, value.
fn constants() -> [(&'static str, &'static str, String); 14] {
    // The header's numbers are printed as `unsigned long long`.
    let node_any = (i64::from(uapi::NODE_ANY) as u64).to_string();
    [
        ("HTLB_DEVICE", "DEVICE", uapi::DEVICE.to_owned()),
        ("HTLB_VERSION", "VERSION", uapi::VERSION.to_string()),
        ("HTLB_EXTENTS", "EXTENTS", uapi::EXTENTS.to_string()),
        ("HTLB_NODE_ANY", "NODE_ANY", node_any),
        ("HTLB_NO_LIMIT", "NO_LIMIT", uapi::NO_LIMIT.to_string()),
        ("HTLB_IOC_MAGIC", "MAGIC", uapi::MAGIC.to_string()),
        (
            "HTLB_NODES_DEFAULT",
            "NODES_DEFAULT",
            Create::NODES_DEFAULT.to_string(),
        ),
        (
            "HTLB_NODES_BIND",
            "NODES_BIND",
            Create::NODES_BIND.to_string(),
        ),
        (
            "HTLB_NODES_PREFERRED",
            "NODES_PREFERRED",
            Create::NODES_PREFERRED.to_string(),
        ),
        (
            "HTLB_NODES_INTERLEAVE",
            "NODES_INTERLEAVE",
            Create::NODES_INTERLEAVE.to_string(),
        ),
        ("HTLB_RUNG_POOL", "RUNG_POOL", Info::RUNG_POOL.to_string()),
        (
            "HTLB_RUNG_SYSTEM",
            "RUNG_SYSTEM",
            Info::RUNG_SYSTEM.to_string(),
        ),
        ("HTLB_RUNG_BASE", "RUNG_BASE", Info::RUNG_BASE.to_string()),
        (
            "HTLB_RUNG_DONATED",
            "RUNG_DONATED",
            Info::RUNG_DONATED.to_string(),
        ),
    ]
}

/// The flags of one kind, whatever they are today.
macro_rules! flag_facts {
    ($prefix:literal, $flags:expr) => {
        $flags.iter_names().map(|(name, flag)| {
            (
                format!(concat!("HTLB_", $prefix, "_{}"), name),
                flag.bits().to_string(),
            )
        })
    };
}

/// All that the Rust side says.
fn rust_facts() -> Facts {
    let mut facts = record_facts();
    facts.extend(constants().map(|(name, _, value)| (name.to_owned(), value)));
    facts.extend(flag_facts!("CREATE", CreateFlags::all()));
    facts.extend(flag_facts!("SEAL", SealFlags::all()));
    facts.extend(flag_facts!("LIMIT", LimitFlags::all()));
    facts.extend(flag_facts!("RESIZE", ResizeFlags::all()));
    facts.extend(flag_facts!("GFP", Create::GFP_ALLOWED));
    facts.extend(flag_facts!("FALLBACK", Fallback::all()));
    facts
}

/// Every structure, field and constant that the header's text defines; a field of an array ends with `[`.
fn header_names(header: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut structure = None;
    for line in header.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (structure, &words[..]) {
            (_, ["struct", name, "{"]) => {
                structure = Some(*name);
                names.push((*name).to_owned());
            }
            (_, ["};"]) => structure = None,
            (Some(structure), [kind, field]) if kind.starts_with("__") => {
                let end = field.find(['[', ';']).unwrap_or(field.len());
                let array = if field.contains('[') { "[" } else { "" };
                names.push(format!("{structure}.{}{array}", &field[..end]));
            }
            (None, ["#define", name, _, ..]) if name.starts_with("HTLB_") => {
                names.push((*name).to_owned());
            }
            _ => {}
        }
    }
    names
}

fn plain_names(header: &str) -> BTreeSet<String> {
    header_names(header)
        .iter()
        .map(|name| name.trim_end_matches('[').to_owned())
        .collect()
}

/// Every record, field, constant and kind of flags that the text of the Rust records defines.
fn source_names(records: &str, request: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut record = None;
    for line in records.lines().chain(request.lines()) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            let fields = format!("htlb_{}", name.to_lowercase());
            let is_record = rest.contains(" = (");
            names.insert(if is_record { fields.clone() } else { name });
            record = is_record.then_some(fields);
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            if !rest.starts_with("fn ") {
                let name = rest.split(':').next().unwrap_or_default();
                names.insert(format!("const {name}"));
            }
        } else if let (Some(record), Some(rest)) = (&record, line.strip_prefix("pub ")) {
            if let Some((field, _)) = rest.split_once(": ") {
                names.insert(format!("{record}.{field}"));
            }
        }
    }
    names
}

/// What [`source_names`] should find: the list of this file, in the words of the sources.
fn listed_names() -> BTreeSet<String> {
    let fields = record_facts().into_keys().filter(|name| {
        // Every record has a size, which the sources do not list.
        name.starts_with("htlb_") && !name.ends_with(".size")
    });
    fields
        .chain(constants().map(|(_, name, _)| format!("const {name}")))
        // Its flags, and those of the other kinds, are asked for by name when the test runs.
        .chain(["const GFP_ALLOWED".to_owned()])
        .chain(["CreateFlags", "SealFlags", "LimitFlags", "ResizeFlags"].map(str::to_owned))
        .collect()
}

/// A program that prints what the compiler makes of the header; valid C99 and C++11.
fn program(header: &str) -> String {
    let mut body = String::new();
    let mut structure = String::new();
    for name in header_names(header) {
        body += &if name == "HTLB_DEVICE" {
            format!("\tprintf(\"{name} %s\\n\", {name});\n")
        } else if name.starts_with("HTLB_") {
            format!("\tprintf(\"{name} %llu\\n\", (unsigned long long)({name}));\n")
        } else if let Some((_, field)) = name.split_once('.') {
            let plain = field.trim_end_matches('[');
            let element = if field == plain { "" } else { "[0]" };
            format!(
                "\tprintf(\"{structure}.{plain} %zu %zu %s\\n\", offsetof(struct {structure}, {plain}),\n\
                 \t       sizeof({structure}.{plain}), {structure}.{plain}{element} > 0 ? \"unsigned\" : \"signed\");\n"
            )
        } else {
            structure.clone_from(&name);
            format!(
                "\tstruct {name} {name};\n\tmemset(&{name}, 0xff, sizeof({name}));\n\
                 \tprintf(\"{name} %zu\\n\", sizeof({name}));\n"
            )
        };
    }
    format!(
        "#include <linux/htlb.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <string.h>\n\n\
         int main(void)\n{{\n{body}\treturn 0;\n}}\n"
    )
}

/// Compiles a program; every warning is an error, padding too.
fn compile(compiler: &str, arguments: &[&str], name: &str, program: &str) -> PathBuf {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../htlb-kmod/include/uapi");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let source = folder.join(format!("uapi_{name}_{compiler}.c"));
    let executable = source.with_extension("");
    fs::write(&source, program).expect("the target folder is writable");
    let compiled = Command::new(compiler)
        .args(arguments)
        .args(["-Wall", "-Wextra", "-Wpadded", "-Werror", "-I"])
        .args([&include, &source])
        .arg("-o")
        .arg(&executable)
        .output()
        .unwrap_or_else(|error| panic!("{compiler} cannot be started: {error}"));
    assert!(
        compiled.status.success(),
        "{compiler} {arguments:?}:\n{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    executable
}

fn compiled_facts(compiler: &str, arguments: &[&str]) -> Facts {
    let executable = compile(compiler, arguments, "facts", &program(HEADER));
    let output = Command::new(&executable)
        .output()
        .expect("what was just compiled can be run");
    assert!(output.status.success(), "{compiler}: {}", output.status);
    let fact = |line: &str| line.split_once(' ').map(|(a, b)| (a.into(), b.into()));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(fact)
        .collect()
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[test]
fn a_c_compiler_reads_the_records_as_rust_does() {
    assert_eq!(
        compiled_facts("cc", &["-std=c99", "-pedantic"]),
        rust_facts()
    );
}

#[test]
fn a_cpp_compiler_reads_the_records_as_rust_does() {
    if !is_there("c++") {
        htlb_tests::skip::skip(
            "a_cpp_compiler_reads_the_records_as_rust_does",
            "no C++ compiler is installed",
        );
        return;
    }
    assert_eq!(
        compiled_facts("c++", &["-x", "c++", "-std=c++11", "-pedantic"]),
        rust_facts()
    );
}

#[test]
fn the_manuals_program_compiles() {
    let manual = include_str!("../../htlb-kmod/README.md");
    let program = manual
        .split_once("```c\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .expect("the manual has a program in C");
    compile("cc", &["-std=gnu99"], "manual", program.0);
}

#[test]
fn the_list_has_all_that_the_sources_have() {
    assert_eq!(source_names(RECORDS, REQUEST), listed_names());
}

/// `text` without its line `number`.
fn without(text: &str, number: usize) -> String {
    let kept = text.lines().enumerate().filter(|(at, _)| *at != number);
    kept.fold(String::new(), |text, (_, line)| text + line + "\n")
}

#[test]
fn whatever_the_header_lacks_is_missed() {
    let all: BTreeSet<String> = rust_facts().into_keys().collect();
    assert_eq!(plain_names(HEADER), all);
    let mut lines = 0;
    for (number, line) in HEADER.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("__") || line.starts_with("#define HTLB_") {
            assert_ne!(plain_names(&without(HEADER, number)), all, "{line}");
            lines += 1;
        }
    }
    let structures = all
        .iter()
        .filter(|name| name.starts_with("htlb_") && !name.contains('.'));
    assert_eq!(lines + structures.count(), all.len());
}

#[test]
fn whatever_is_new_in_the_sources_is_missed() {
    let listed = listed_names();
    let mut lines = 0;
    for (text, other) in [(RECORDS, ""), ("", REQUEST)] {
        let whole = source_names(text, other);
        let source = if text.is_empty() { other } else { text };
        for (number, line) in source.lines().enumerate() {
            let line = line.trim();
            let is_fact = line.starts_with("pub ")
                && !["pub use ", "pub fn ", "pub const fn "]
                    .iter()
                    .any(|other| line.starts_with(other));
            if is_fact {
                let cut = without(source, number);
                let left = if text.is_empty() {
                    source_names("", &cut)
                } else {
                    source_names(&cut, "")
                };
                assert_ne!(left, whole, "{line}");
                lines += 1;
            }
        }
    }
    assert_eq!(lines, listed.len());
}
