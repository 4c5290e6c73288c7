// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Named buffers by the library: drafts that are kept, dropped, refused and cancelled; what attaching gives.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use htlb_core::{
    AddressBits, ByteLen, Contiguity, Error, HugeSize, NodeId, NodePolicy, PageChoice, PageCount,
    Request, RequestBuilder, Rung,
};
use htlb_tests::host::PoolLease;
use htlb_tests::skip::skip;
use htlb_user::load::{fill_stream, LoadError, Options as Reading, Source};
use htlb_user::named::{Draft, Growing, Machine, NamedError, Options};
use htlb_user::store::{Config, Mount, Store, StoreError};
use htlb_user::Named;

/// A store of its own, removed at the end.
struct Place(PathBuf, Store);

impl Place {
    fn new(name: &str, mounts: Vec<Mount>) -> Self {
        let path = Self::path(name);
        let store = Store::open(Config::within(&path, mounts).unwrap()).unwrap();
        Self(path, store)
    }

    fn path(name: &str) -> PathBuf {
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() {
            shared.to_owned()
        } else {
            std::env::temp_dir()
        };
        base.join(format!("htlb-named-{name}-{}", std::process::id()))
    }

    /// The files with bytes, and the records.
    fn files(&self) -> usize {
        let (mut count, mut folders) = (0, vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => count += usize::from(entry.file_name() != "tag"),
                }
            }
        }
        count
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn base(len: u64) -> RequestBuilder {
    Request::builder(ByteLen::new(len)).page(PageChoice::Base)
}

fn draft(
    place: &Place,
    request: RequestBuilder,
    options: &Options<'_>,
) -> Result<Draft, NamedError> {
    Draft::new(
        &place.1,
        "x",
        &Machine::host(),
        &request.build().unwrap(),
        options,
    )
}

fn fill(draft: &mut Draft, byte: u8, len: usize) {
    let mut left = vec![byte; len];
    for mut span in draft.spans() {
        let done = span.write(&left);
        left.drain(..done);
    }
    assert!(left.is_empty());
}

#[test]
fn a_draft_is_seen_when_it_is_published_and_leaves_nothing_else() {
    let place = Place::new("draft", Vec::new());
    let mut first = draft(&place, base(10_000), &Options::default()).unwrap();
    assert!(matches!(
        Named::attach(&place.1, "x"),
        Err(StoreError::NotFound { .. })
    ));
    let receipt = first.receipt();
    assert_eq!(receipt.populated.raw(), 12_288);
    assert!(receipt.is_first_choice() && receipt.advice.is_none());
    fill(&mut first, 7, 10_000);
    drop(first);
    assert_eq!(place.files(), 0);

    let mut second = draft(&place, base(10_000), &Options::default()).unwrap();
    fill(&mut second, 8, 10_000);
    // The content may turn out shorter.
    let published = second.publish(9_999, Some("a test".to_owned())).unwrap();
    assert_eq!(published.record.len, 9_999);
    let named = Named::attach(&place.1, "x").unwrap();
    assert_eq!((named.len(), named.is_empty()), (9_999, false));
    assert!(named.as_slice() == vec![8; 9_999]);
    assert_eq!(named.as_pages().len(), 12_288);
    assert_eq!(named.record().meta.source.as_deref(), Some("a test"));
    for path in named.record().paths() {
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o400
        );
    }
    place.1.remove("x").unwrap();
    assert!(
        named.as_ref() == vec![8; 9_999],
        "the memory stays with those who have it"
    );
    assert_eq!(place.files(), 0);
}

#[test]
fn an_empty_buffer_is_a_buffer() {
    let place = Place::new("empty", Vec::new());
    Draft::publish_empty(&place.1, "x", None).unwrap();
    let named = Named::attach(&place.1, "x").unwrap();
    assert!(named.is_empty() && named.as_slice().is_empty() && named.parts().len() == 0);
}

#[test]
fn every_thread_populates_and_all_is_told() {
    let place = Place::new("threads", Vec::new());
    for threads in [1, 2, 5, 64] {
        let told = AtomicU64::new(0);
        let progress = |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
        };
        let options = Options {
            threads: NonZeroUsize::new(threads),
            progress: Some(&progress),
            ..Options::default()
        };
        let len = (100 << 20) + 4096;
        let mut draft = draft(&place, base(len), &options).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), len);
        let spans = draft.spans();
        assert_eq!(spans.iter().map(|span| span.len() as u64).sum::<u64>(), len);
        assert!(spans
            .iter()
            .all(|span| span.bytes().iter().all(|byte| *byte == 0)));
    }
}

#[test]
fn a_raised_flag_ends_it() {
    let place = Place::new("cancel", Vec::new());
    let flag = AtomicBool::new(false);
    let told = |_| flag.store(true, Ordering::Relaxed);
    let options = Options {
        threads: NonZeroUsize::new(2),
        cancel: Some(&flag),
        progress: Some(&told),
    };
    let got = draft(&place, base(512 << 20), &options);
    assert!(matches!(got, Err(NamedError::Cancelled)), "{got:?}");
    assert_eq!(place.files(), 0);
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let place = Place::new("refused", Vec::new());
    let options = Options::default();
    let shortage = |request| match draft(&place, request, &options) {
        Err(NamedError::Shortage(shortage)) => shortage,
        other => panic!("{other:?}"),
    };
    let run = shortage(base(1 << 20).contiguity(Contiguity::Whole));
    assert!(run.refusals[0].why.contains("no run"), "{run}");
    assert_eq!((run.asked.raw(), run.got.raw()), (1 << 20, 0));
    // More than any machine of today has.
    let much = shortage(base(1 << 50));
    assert!(much.refusals[0].why.contains("MiB"), "{much}");
    let offline = base(1).nodes(NodePolicy::Bind(NodeId::new(63).unwrap().mask()));
    assert!(matches!(
        draft(&place, offline, &options),
        Err(NamedError::Request(Error::NodeMaskOffline))
    ));
    let masked = base(1).dma_mask(AddressBits::new(32).unwrap());
    match draft(&place, masked, &options) {
        Err(NamedError::Shortage(shortage)) => assert!(shortage.to_string().contains("may move")),
        Err(NamedError::DmaMaskUnknown { bits }) => assert_eq!(bits.raw(), 32),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        Draft::new(
            &place.1,
            "../x",
            &Machine::host(),
            &base(1).build().unwrap(),
            &options
        ),
        Err(NamedError::Store(StoreError::NameInvalid { .. }))
    ));
    assert_eq!(place.files(), 0);
}

#[test]
fn node_policies_that_this_machine_can_keep() {
    let place = Place::new("nodes", Vec::new());
    let node = Machine::host().nodes().first().unwrap();
    let mask = node.mask();
    for policy in [
        NodePolicy::Bind(mask),
        NodePolicy::Interleave(mask),
        NodePolicy::Preferred(node),
        NodePolicy::PreferredMany(mask),
    ] {
        let draft = draft(&place, base(1 << 20).nodes(policy), &Options::default()).unwrap();
        let share = &draft.receipt().shares[0];
        assert_eq!(
            (share.rung, share.size, share.pages.raw()),
            (Rung::Base, HugeSize::BASE, 256)
        );
        if policy.is_strict() {
            assert_eq!(share.nodes, [(node, PageCount::new(256))]);
        }
    }
}

#[test]
fn a_stream_that_breaks_off_leaves_nothing() {
    let place = Place::new("stream", Vec::new());
    let options = Options::default();
    let request = base(0);
    let mut growing = Growing::new(&place.1, "x", &Machine::host(), request, &options).unwrap();
    let flag = AtomicBool::new(false);
    let reading = Reading {
        cancel: Some(&flag),
        ..Reading::default()
    };
    // A stream without an end.
    let source = Source::open(Path::new("/dev/zero")).unwrap();
    let ended = fill_stream(&source, &mut growing, &reading, |progress| {
        flag.store(progress.bytes > 20 << 20, Ordering::Relaxed);
    });
    assert!(matches!(ended, Err(LoadError::Cancelled)), "{ended:?}");
    assert!(growing.take_failure().is_none());
    drop(growing);
    assert_eq!(place.files(), 0);
}

#[test]
fn parts_of_two_page_sizes_are_one_slice() {
    let test = "parts_of_two_page_sizes_are_one_slice";
    let lease = match PoolLease::with_pages(HugeSize::MIB2, PageCount::new(3)) {
        Ok(lease) => lease,
        Err(why) => return skip(test, &why.to_string()),
    };
    let folder = Place::path("mount");
    fs::create_dir_all(&folder).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "hugetlbfs", "-o", "pagesize=2M,mode=0700", "none"])
        .arg(&folder)
        .output()
        .unwrap();
    if !mounted.status.success() {
        fs::remove_dir(&folder).unwrap();
        return skip(test, "no hugetlbfs can be mounted here");
    }
    let mount = Mount {
        path: folder.clone(),
        page_size: HugeSize::MIB2,
    };
    let done = std::panic::catch_unwind(|| {
        let place = Place::new("two", vec![mount]);
        let len = (7 << 20) + 5;
        let mut draft = draft(
            &place,
            Request::builder(ByteLen::new(len)),
            &Options::default(),
        )
        .unwrap();
        assert_eq!(lease.pools().available(HugeSize::MIB2).unwrap().raw(), 0);
        fill(&mut draft, 9, len as usize);
        let receipt = draft.publish(len, None).unwrap().receipt;
        assert_eq!(
            (receipt.shares[0].rung, receipt.shares[0].pages.raw()),
            (Rung::System, 3)
        );
        assert!(receipt.huge().raw() >= 6 << 20 && !receipt.is_first_choice());
        let named = Named::attach(&place.1, "x").unwrap();
        assert_eq!(named.parts().len(), 2);
        assert_eq!(named.as_slice().as_ptr().addr() % (2 << 20), 0);
        assert!(named.as_slice() == vec![9; len as usize]);
        assert!(named.as_pages()[len as usize..]
            .iter()
            .all(|byte| *byte == 0));
        place.1.remove("x").unwrap();
        drop(named);
        assert_eq!(lease.pools().available(HugeSize::MIB2).unwrap().raw(), 3);
    });
    Command::new("umount")
        .arg("--lazy")
        .arg(&folder)
        .status()
        .unwrap();
    fs::remove_dir(&folder).unwrap();
    done.unwrap();
}

/// The stated exception: who may write the file can take the pages from everybody.
#[test]
fn a_peer_that_cuts_the_file_ends_those_who_touch_it() {
    let place = Place::new("cut", Vec::new());
    let mut draft = draft(&place, base(8192), &Options::default()).unwrap();
    fill(&mut draft, 1, 8192);
    draft.publish(8192, None).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "touch_what_was_cut", "--ignored", "--nocapture"])
        .env("HTLB_TEST_CUT", &place.0)
        .output()
        .unwrap();
    let signal = output.status.signal();
    assert_eq!(
        signal,
        Some(libc::SIGBUS),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
#[ignore = "the child of a_peer_that_cuts_the_file_ends_those_who_touch_it"]
fn touch_what_was_cut() {
    let Some(root) = std::env::var_os("HTLB_TEST_CUT") else {
        return;
    };
    let store = Store::open(Config::within(Path::new(&root), Vec::new()).unwrap()).unwrap();
    let named = Named::attach(&store, "x").unwrap();
    assert_eq!(named.as_slice()[8191], 1);
    let path = named.record().paths().next().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    // What is still there can be read, and copies are values.
    assert_eq!(named.as_slice()[0], 1);
    assert!(store.open_name("x").is_err());
    std::hint::black_box(named.as_slice()[8191]);
}
