#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# check-kernel.sh KDIR RUSTC: whether a Rust module can be built against the kernel tree KDIR with the compiler RUSTC;
# if not, says why and what to do.
set -eu

kdir=$1 rustc=$2

refuse() {
	for line; do
		echo "htlb: $line" >&2
	done
	exit 1
}

if ! [ -f "$kdir/Makefile" ]; then
	refuse "there is no kernel tree at $kdir." \
		"Install the headers of the kernel that is to load the module, or name its tree: make KDIR=/path/to/it"
fi
config=$kdir/include/config/auto.conf
if ! [ -f "$config" ]; then
	refuse "the kernel tree at $kdir is not prepared." \
		"Configure it, then: make -C $kdir modules_prepare"
fi
if ! grep -qx 'CONFIG_RUST=y' "$config"; then
	refuse "the kernel of $kdir is built without Rust (CONFIG_RUST=y is not set)." \
		"Use a kernel that has it, such as Debian's from 7.2 on, or configure one: make -C $kdir rustavailable menuconfig"
fi
if ! grep -qx 'CONFIG_DMA_SHARED_BUFFER=y' "$config"; then
	refuse "the kernel of $kdir is built without dma-bufs (CONFIG_DMA_SHARED_BUFFER=y is not set)." \
		"Use a distribution's kernel, or set an option that needs them, such as CONFIG_DMABUF_HEAPS or CONFIG_UDMABUF."
fi

# 7.2, as LINUX_VERSION_CODE has it: major, minor, a byte each, above the byte of the stable release.
oldest=$((7 * 65536 + 2 * 256))
code=$(sed -n 's/^#define LINUX_VERSION_CODE //p' "$kdir/include/generated/uapi/linux/version.h" 2>/dev/null || :)
if ! [ "${code:-0}" -ge "$oldest" ]; then
	if [ -n "$code" ]; then
		found="is $((code / 65536)).$((code / 256 % 256))"
	else
		found="does not tell its version"
	fi
	refuse "the kernel of $kdir $found; the module needs 7.2 or later."
fi

# Symbol names and metadata carry the compiler's whole version: another build of the same number is another compiler.
wanted=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT=//p' "$config" | tr -d '"')
if ! found=$($rustc --version 2>/dev/null); then
	refuse "the Rust compiler cannot be run: $rustc" \
		"The kernel of $kdir was built by: $wanted" \
		"Install that compiler, or name it: make RUSTC=/path/to/rustc"
fi
if [ "$found" != "$wanted" ]; then
	refuse "the Rust compiler is not the one that the kernel of $kdir was built by." \
		"kernel: $wanted" \
		"here:   $found" \
		"Install that compiler, or name it: make RUSTC=/path/to/rustc" \
		"(a distribution's kernel needs the distribution's compiler; rustup's of the same number will not do)"
fi
if ! [ -f "$kdir/rust/libkernel.rmeta" ]; then
	refuse "the kernel tree at $kdir lacks the metadata of the kernel's own crates (rust/libkernel.rmeta)." \
		"Header packages leave it out. Take the kernel's source of the same version with the configuration and the" \
		"Module.symvers of the headers, then: make modules_prepare" \
		"For Debian's kernel, cargo xtask kernel prepare stock does it."
fi
