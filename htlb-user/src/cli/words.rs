// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the command says of itself: examples, exit codes, JSON.

/// At the end of `htlb -h`.
pub const EXAMPLES: &str = "\
Examples:
  htlb load model.gguf            put a file into the largest pages there are
  htlb run model.gguf -- PROGRAM  run a program that maps it
  htlb cat model.gguf             read it back
  htlb info                       why there are no huge pages, and what limits apply
  sudo htlb pool 2M 512           reserve 1 GiB of huge pages

`htlb --help` has the exit codes, `htlb help SUBCOMMAND` the details.";

/// At the end of `htlb --help`.
pub const AFTER_LONG_HELP: &str = "\
Examples:
  htlb load model.gguf            put a file into the largest pages there are
  htlb run model.gguf -- PROGRAM  run a program that maps it
  htlb cat model.gguf             read it back
  htlb info                       why there are no huge pages, and what limits apply
  sudo htlb pool 2M 512           reserve 1 GiB of huge pages

Exit codes:
  0    done
  1    failed
  2    the command line, or a name, is wrong
  3    no such buffer, file or pool
  4    too few pages: under --strict, or of any kind; or a pool stayed short
  5    the source was cut or changed while it was read; nothing was kept
  6    --verify found a difference; nothing was kept
  126  `run`: the program cannot be started; 127: there is none
  130  interrupted (143: terminated); nothing was kept

Names live in /run/htlb for root, in $XDG_RUNTIME_DIR/htlb (else /tmp/htlb-UID) for others.
The memory is in files on a hugetlbfs, or in /dev/shm where no huge page can be had.
Both last until `htlb rm` or a reboot.";

/// `htlb help json`.
pub const JSON: &str = "\
What --json prints: one object on one line of standard output.

Every object has \"schema\": 1. The number grows when a field goes or changes its meaning; fields
may be added. Sizes are in bytes, times in seconds unless the name says otherwise, and a field
that is not known is null.

load   name, source, bytes, verified;
       parts: [{path, kind, page_bytes, offset, bytes}], the files in the order of the content;
       receipt: {asked_bytes, populated_bytes, reserved_bytes, seconds, home, advice,
         shares: [{giver, rung, page_bytes, pages, nodes: [{node, pages}]}], what was got,
         refusals: [{giver, rung, page_bytes, why}], what was not};
         giver is kernel, or device for the module's /dev/htlb; rung is pool (the module's), system
         (the hugetlb pool, or pages that the module got), transparent or base; advice is a command;
       load: {seconds, direct_bytes, buffered_bytes, requests, in_flight_max}
       With --device the same on standard error; parts has one of kind device, without a path
ls     buffers: [{name, bytes, parts, pages, source, created_ns, pid, error}];
         one that cannot be used has only name and error;
       reaped: {loads, files, bytes}, what dead loads had left
rm     removed: [name], freed_bytes, errors: [{name, code, message}]
info   pools: [{page_bytes, default, total, free, reserved, surplus, overcommit, available,
         nodes: [{node, total, free, surplus}]}];
       thp: {enabled, defrag, shmem, pmd_bytes, process_disabled};
       memory: {total, available}; nodes: [{node, cpus, total, free}];
       limits: {memory: {max, room, set_by},
         hugetlb: [{page_bytes, max, room, reservation_max, reservation_room, set_by}],
         memlock: {soft, hard, uses: [{use, charge, limit}]}},
         charge is free, checked, counted or refused;
       mounts: [{path, page_bytes, limit, writable, reason}];
       names: {index, shared_memory, hugetlb: [{page_bytes, folder}]};
       device: {path, version, problem,
         pools: [{page_bytes, total, free, reserved, surplus, overcommit, available, limbo,
           donated, nodes: [{node, total, free, surplus}]}],
         limits: [{page_bytes, max, used}]}, in bytes, of this user; null without the module;
       problems: [text], what could not be read
pool   page_bytes, node, asked, before, after, shortfall, nodes: [{node, before, after}],
       cause: {kind, message}; kind is memory, fragmentation, gigantic, in-use or unknown;
       device, whether it is the module's pool: then nodes is empty and cause null

bench  one number for each figure, null where it was not measured; reserve_vs_linux_ranges;
       missed: [figure] whose target was not met; not_measured: {figure: why}

An error is {\"schema\": 1, \"error\": {code, kind, message}}. The code is the exit code; kind is
failed, usage, not-found, shortage, source-changed, mismatch, interrupted or terminated.
A command line that is wrong is reported as text.";
