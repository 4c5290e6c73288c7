#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# vendor-crates.sh CARGO_LOCK FOLDER: the sources of the third-party crates that the core is made of in the kernel, at
# the versions of Cargo.lock, as FOLDER/vendor/NAME. Does nothing where they are there already; needs cargo otherwise.
set -eu

crates="bitflags static_assertions"
lock=$1 folder=$2

version() {
	awk -v name="name = \"$1\"" '
		$0 == "[[package]]" { found = 0 }
		$0 == name { found = 1 }
		found && /^version = / { print $3; exit }
	' "$lock" | tr -d '"'
}

# A workspace of its own: vendoring the repository's would fetch every crate that any test uses.
manifest='[package]
name = "htlb-kmod-crates"
version = "0.0.0"
edition = "2021"

[workspace]

[dependencies]'
for crate in $crates; do
	version=$(version "$crate")
	if [ -z "$version" ]; then
		echo "$lock has no $crate" >&2
		exit 1
	fi
	manifest="$manifest
$crate = { version = \"=$version\", default-features = false }"
done

if [ "$(cat "$folder/vendored" 2>/dev/null)" = "$manifest" ]; then
	exit 0
fi
cargo=${CARGO:-cargo}
if ! "$cargo" --version >/dev/null 2>&1; then
	echo "the module needs the crates $crates, and fetching them needs cargo, which is not here." >&2
	echo "Install cargo, or name it: CARGO=/path/to/cargo" >&2
	exit 1
fi
# Elsewhere first: whoever builds at the same time sees all of it or nothing.
next=$folder.$$
trap 'rm -rf "$next"' EXIT
mkdir -p "$next/src"
: >"$next/src/lib.rs"
cp "$lock" "$next/Cargo.lock"
printf '%s\n' "$manifest" >"$next/Cargo.toml"
"$cargo" vendor --quiet --manifest-path "$next/Cargo.toml" "$next/vendor" >"$next/config"
for crate in $crates; do
	test -f "$next/vendor/$crate/src/lib.rs"
done
# The stamp comes last, so that it vouches for what lies beside it.
printf '%s\n' "$manifest" >"$next/vendored"
rm -rf "$folder"
mv "$next" "$folder" 2>/dev/null || test -f "$folder/vendored"
